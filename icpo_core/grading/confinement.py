"""What a judge may no longer do, whatever code runs in it: reach a network, change a file, start a
program, signal or look into another process. Reading files is left: imports read files.

Three things that the kernel offers without root, and that bind root too. Each is for good, and for
all that the process starts:

- Landlock (Linux 5.13) forbids writing, making and removing files;
- seccomp forbids system calls: sockets, other processes, owners, modes and times of files;
- capabilities are given up.

What a kernel lacks of it is left out, and `icpo doctor` says so. There, what Python itself asks for
is refused all the same, by an audit hook (`grading.process`).

    python -m icpo_core.grading.confinement    what this machine has of it
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from icpo_core.grading import seccomp
from icpo_core.grading.seccomp import ALLOW, EPERM, IF_EQUAL, IF_LEAST, IF_SET, LOAD, RETURN, call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITES = {1: 0b1_1111_1111_0010, 2: 1 << 13, 3: 1 << 14}
"""By version of Landlock: rights to write, remove and make files; to move them; to cut them."""
_FILE_WRITES = 1 << 1 | 1 << 14
"""Those of them that a file has and not only a folder."""
_TCP, _SCOPES = 0b11, 0b11
"""Bind and connect (version 4); abstract Unix sockets and signals (version 6)."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
"""May be written to."""

# Numbers of system calls on x86-64 and arm64.
_FORBIDDEN = {
    "socket": (41, 198), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "io_uring_setup": (425, 425),
    "unshare": (272, 97), "setns": (308, 268), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "userfaultfd": (323, 282), "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "truncate": (76, 45), "chmod": (90, None),
    "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None),
    "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463),
    "removexattrat": (466, 466),
}  # fmt: skip
_PROCESSES = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "pidfd_send_signal": (424, 424),
}  # fmt: skip


def confine(processes: bool = False) -> list[str]:
    """Give up all of it, in this thread and those it starts; what of it the kernel has, by name.

    processes: others may be started, as confined as this one, and signalled.
    """
    held = []
    with suppress(OSError, AttributeError):  # elsewhere than on Linux there is no prctl
        seccomp.no_new_privileges()
        with suppress(OSError):
            held.append(f"Landlock {_no_writes()}")
        # Version 3, of this process: the effective, permitted and inheritable sets.
        call("capset", struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0] * 6))
        if seccomp.machine():
            seccomp.install(_program(processes))
            held.append("seccomp")
    return held


def offered() -> list[str]:
    """What of it this machine has, by name: a process of its own tries."""
    words, root = [sys.executable, "-m", "icpo_core.grading.confinement"], Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, check=True, cwd=root)
    found: list[str] = json.loads(done.stdout)
    return found


def _no_writes() -> int:
    """The version of the kernel's Landlock. Raises OSError where it is not there, or off."""
    version = call("syscall", _CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    writes = sum(rights for since, rights in _WRITES.items() if version >= since)
    network, scopes = _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0
    # An older kernel knows a shorter record.
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = struct.pack("=3Q", writes, network, scopes)[:size]
    ruleset = call("syscall", _CREATE_RULESET, rules, ctypes.c_size_t(size), 0)
    try:
        for path in filter(os.path.exists, _DEVICES):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = struct.pack("=Qi", writes & _FILE_WRITES, descriptor)
                call("syscall", _ADD_RULE, ruleset, 1, rule, 0)
            finally:
                os.close(descriptor)
        call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _program(processes: bool) -> list[seccomp.Instruction]:
    found = seccomp.machine()
    assert found is not None
    column, machine, clone = found
    calls = {**_FORBIDDEN, **({} if processes else _PROCESSES)}
    program = [
        (LOAD, 0, 0, seccomp.ARCHITECTURE), (IF_EQUAL, 1, 0, machine), (RETURN, 0, 0, EPERM),
        (LOAD, 0, 0, seccomp.NAME), (IF_LEAST, 0, 1, seccomp.X32), (RETURN, 0, 0, EPERM),
        # What it is to do is in memory, where no filter sees it; libraries then use `clone`.
        (IF_EQUAL, 0, 1, seccomp.CLONE3), (RETURN, 0, 0, seccomp.ENOSYS),
    ]  # fmt: skip
    for number in (one[column] for one in calls.values()):
        if number is not None:
            program += [(IF_EQUAL, 0, 1, number), (RETURN, 0, 0, EPERM)]
    thread = [(IF_SET, 1, 0, seccomp.CLONE_THREAD), (RETURN, 0, 0, EPERM)]
    return [
        *program,
        (IF_EQUAL, 1, 0, clone), (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, seccomp.FIRST_ARGUMENT),
        (IF_SET, 0, 1, seccomp.CLONE_NEWUSER), (RETURN, 0, 0, EPERM),
        *([] if processes else thread),
        (RETURN, 0, 0, ALLOW),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(confine()))
