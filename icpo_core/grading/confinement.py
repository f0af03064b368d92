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
import platform
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
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
_MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}
"""Column of the tables, the kernel's name of the architecture, and the number of `clone`."""
_CLONE3, _CLONE_THREAD, _CLONE_NEWUSER, _X32 = 435, 0x00010000, 0x10000000, 0x40000000
_LOAD, _IF_EQUAL, _IF_LEAST, _IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026


def confine(processes: bool = False) -> list[str]:
    """Give up all of it, in this thread and those it starts; what of it the kernel has, by name.

    processes: others may be started, as confined as this one, and signalled.
    """
    held = []
    with suppress(OSError, AttributeError):  # elsewhere than on Linux there is no prctl
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with suppress(OSError):
            held.append(f"Landlock {_no_writes()}")
        # Version 3, of this process: the effective, permitted and inheritable sets.
        _call("capset", struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0] * 6))
        if platform.machine() in _MACHINES:
            program = _program(processes)
            code = ctypes.create_string_buffer(program)
            head = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(code))
            _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, head, 0, 0)
            held.append("seccomp")
    return held


def offered() -> list[str]:
    """What of it this machine has, by name: a process of its own tries."""
    words = [sys.executable, "-P", str(Path(__file__))]
    found: list[str] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return found


def _no_writes() -> int:
    """The version of the kernel's Landlock. Raises OSError where it is not there, or off."""
    version = _call("syscall", _CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    writes = sum(rights for since, rights in _WRITES.items() if version >= since)
    network, scopes = _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0
    # An older kernel knows a shorter record.
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = struct.pack("=3Q", writes, network, scopes)[:size]
    ruleset = _call("syscall", _CREATE_RULESET, rules, ctypes.c_size_t(size), 0)
    try:
        for path in filter(os.path.exists, _DEVICES):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = struct.pack("=Qi", writes & _FILE_WRITES, descriptor)
                _call("syscall", _ADD_RULE, ruleset, 1, rule, 0)
            finally:
                os.close(descriptor)
        _call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _program(processes: bool) -> bytes:
    """A filter of system calls, in the kernel's instructions: (what, if so skip, if not, value)."""
    column, machine, clone = _MACHINES[platform.machine()]
    calls = {**_FORBIDDEN, **({} if processes else _PROCESSES)}
    numbers = [one[column] for one in calls.values()]
    code = [
        (_LOAD, 0, 0, 4), (_IF_EQUAL, 1, 0, machine), (_RETURN, 0, 0, _EPERM),
        (_LOAD, 0, 0, 0), (_IF_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _EPERM),
        # What it is to do is in memory, where no filter sees it; libraries then use `clone`.
        (_IF_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ENOSYS),
    ]  # fmt: skip
    for number in numbers:
        if number is not None:
            code += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    code += [
        (_IF_EQUAL, 1, 0, clone), (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, 16), (_IF_SET, 0, 1, _CLONE_NEWUSER), (_RETURN, 0, 0, _EPERM),
        *([] if processes else [(_IF_SET, 1, 0, _CLONE_THREAD), (_RETURN, 0, 0, _EPERM)]),
        (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def _call(name: str, *arguments: object) -> int:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result: int = function(*given)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{arguments[:1]}: {os.strerror(error)}")
    return result


if __name__ == "__main__":
    print(json.dumps(confine()))
