"""Programs that nobody has read, run without harm: a process that can compute and nothing else.

A `Sandbox` is a clean process, started before it is known what is to be run, that forks a child
whenever it is asked to. The child takes its job, gives up all it does not need, and runs it:

- seccomp leaves it a list of system calls. It cannot open a file, so modules are imported before
  (`MODULES`), and it cannot start a process, connect, signal another process or trace it. The
  kernel refuses by name of the call, for whatever code, without root and without namespaces.
- limits on address space, CPU time and open files; wall-clock time and output are its owner's to
  watch, who kills it.
- it holds nothing to be read: what its job says, and no tests, answers or other programs.

Linux on x86-64 and arm64; elsewhere a sandbox does not start (ValueError), and nothing is run.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from icpo_core.common.closing import Closing
from icpo_core.grading import seccomp
from icpo_core.grading.seccomp import ALLOW, EPERM, IF_EQUAL, IF_SET, LOAD, RETURN, call

MODULES = [
    "abc", "argparse", "array", "ast", "base64", "bisect", "builtins", "calendar", "cmath",
    "codecs", "collections", "collections.abc", "contextlib", "copy", "csv", "dataclasses",
    "datetime", "decimal", "difflib", "enum", "fractions", "functools", "gc", "getpass",
    "graphlib", "hashlib", "heapq", "html", "inspect", "io", "itertools", "json", "keyword",
    "locale", "math", "numbers", "operator", "os", "os.path", "pathlib", "pprint", "queue",
    "random", "re", "secrets", "shlex", "shutil", "signal", "socket", "stat", "statistics",
    "string", "struct", "subprocess", "sys", "tempfile", "textwrap", "threading", "time",
    "timeit", "tokenize", "traceback", "types", "typing", "unicodedata", "unittest", "uuid",
    "warnings", "weakref", "zlib", "_strptime", "encodings.idna", "encodings.latin_1", "ctypes",
    "multiprocessing", "atexit", "asyncio", "urllib.request",
]  # fmt: skip
"""What a program may import: all else would have to be read from a file."""

MESSAGE_BYTES = 1 << 22
OUTPUT_BYTES = 1 << 20
"""A program that says more is stopped."""

Serve = Callable[[dict[str, Any], socket.socket], None]

# Numbers of the calls that are left, x86-64 and arm64 (`unistd.h` of either).
_CALLS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "poll": (7, None),
    "ppoll": (271, 73), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "ioctl": (16, 29), "pread64": (17, 67), "readv": (19, 65),
    "writev": (20, 66), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233),
    "dup": (32, 23), "nanosleep": (35, 101), "getpid": (39, 172), "exit": (60, 93),
    "uname": (63, 160), "fcntl": (72, 25), "gettimeofday": (96, 169), "getrlimit": (97, 163),
    "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174),
    "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173),
    "sigaltstack": (131, 132), "gettid": (186, 178), "futex": (202, 98),
    "sched_getaffinity": (204, 123), "set_tid_address": (218, 96), "restart_syscall": (219, 128),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "exit_group": (231, 94), "set_robust_list": (273, 99), "getrandom": (318, 278),
    "membarrier": (324, 283), "rseq": (334, 293),
}  # fmt: skip
_PDEATHSIG, _DUMPABLE = 1, 4


@dataclass
class Child:
    """A process of a sandbox, and the socket that it speaks on."""

    pid: int
    channel: socket.socket
    handle: int

    def send(self, message: dict[str, Any]) -> None:
        """Raises OSError if it is gone."""
        self.channel.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, until: float, most: int = MESSAGE_BYTES) -> bytes:
        """A line; shorter where the child ended. `until`: `time.monotonic()` at which it is late.

        Raises TimeoutError where it is, ValueError for a longer line than `most`."""
        said = bytearray()
        while not said.endswith(b"\n"):
            more = self.read(until)
            if not more:
                break
            said += more
            if len(said) > most:
                raise ValueError(f"says more than {most >> 20} MiB")
        return bytes(said)

    def read(self, until: float) -> bytes:
        """What it says next; nothing when it has ended. Raises TimeoutError."""
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.channel.settimeout(left)
        try:
            return self.channel.recv(1 << 16)
        except ConnectionError:
            return b""

    def end(self) -> None:
        """Kill it. There is nothing that it could have started."""
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        os.close(self.handle)


class Sandbox(Closing):
    """Forks children that run `serve(job, channel)` confined. To be made before anything is known
    that they must not know: they have a copy of what this process holds now.

    memory_mb: MiB that a child may take on top of what it begins with. seconds: of CPU time.
    Raises ValueError where the kernel has no seccomp.
    """

    def __init__(self, serve: Serve, memory_mb: int, seconds: float) -> None:
        if sys.platform != "linux" or not seccomp.machine():
            raise ValueError(
                f"no program is run on {sys.platform} {platform.machine()}: the sandbox is made of "
                "seccomp on Linux, x86_64 or aarch64"
            )
        preload()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        owner = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _nursery(theirs, owner, serve, memory_mb, seconds)
        theirs.close()
        self._control = ours

    def child(self) -> Child:
        """A new process that waits for its job. Raises OSError if the sandbox is gone."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"fork"], [theirs.fileno()])
            (pid,) = struct.unpack("i", self._control.recv(4))
        return Child(pid, ours, os.pidfd_open(pid))

    def close(self) -> None:
        self._control.close()
        os.waitpid(self.pid, 0)


def preload() -> None:
    """Import what programs may import."""
    for name in MODULES:
        importlib.import_module(name)


def _nursery(
    control: socket.socket, owner: int, serve: Serve, memory_mb: int, seconds: float
) -> None:
    """Fork on request until the other end is closed. Never returns."""
    call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != owner:
        os._exit(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children leave nothing
    gc.collect()
    gc.freeze()
    nursery = os.getpid()
    while True:
        packet, descriptors, _, _ = socket.recv_fds(control, 16, 1)
        if not packet:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() == nursery:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _child(descriptors[0], serve, memory_mb, seconds)
                    status = 0
            finally:
                os._exit(status)
        os.close(descriptors[0])
        control.send(struct.pack("i", pid))


def _child(descriptor: int, serve: Serve, memory_mb: int, seconds: float) -> None:
    """Take a job from the socket, give up everything, and do it."""
    os.dup2(descriptor, 3)
    os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    channel = socket.socket(fileno=3)
    said = bytearray()
    while not said.endswith(b"\n"):
        more = channel.recv(1 << 16)
        if not more:
            return
        said += more
    job = json.loads(said)
    # What a program reads is in memory; nobody waits to feed it.
    stdin = os.memfd_create("stdin")
    os.write(stdin, job.pop("stdin", "").encode("utf-8", "replace"))
    os.lseek(stdin, 0, os.SEEK_SET)
    os.dup2(stdin, 0)
    os.close(stdin)
    if job.get("output"):
        os.dup2(3, 1)
    with open("/proc/self/statm") as file:
        space = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    for limit, value in (
        (resource.RLIMIT_AS, space + (memory_mb << 20)),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    confine()
    serve(job, channel)


def confine() -> None:
    """Leave this process the calls of `_CALLS`, and threads; for good. Raises OSError."""
    found = seccomp.machine()
    assert found is not None  # else there is no sandbox
    column, machine, clone = found
    numbers = [one[column] for one in _CALLS.values() if one[column] is not None]
    program = [
        (LOAD, 0, 0, seccomp.ARCHITECTURE), (IF_EQUAL, 1, 0, machine),
        (RETURN, 0, 0, seccomp.KILL), (LOAD, 0, 0, seccomp.NAME),
    ]  # fmt: skip
    for number in numbers:
        assert number is not None
        program += [(IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    program += [
        # Not there, so that threads are made by `clone`, whose flags can be looked at.
        (IF_EQUAL, 0, 1, seccomp.CLONE3), (RETURN, 0, 0, seccomp.ENOSYS),
        (IF_EQUAL, 0, 3, clone), (LOAD, 0, 0, seccomp.FIRST_ARGUMENT),
        (IF_SET, 0, 1, seccomp.CLONE_THREAD), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM),
    ]  # fmt: skip
    seccomp.install(program)


def hide() -> None:
    """Keep this process's memory from others of the same user."""
    call("prctl", _DUMPABLE, 0, 0, 0, 0)
