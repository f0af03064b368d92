"""Filters of system calls, in the kernel's own instructions: of a process, for good."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence

MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}
"""Column of a table of calls' numbers, the kernel's name of the architecture, number of `clone`."""
CLONE3, CLONE_THREAD, CLONE_NEWUSER = 435, 0x00010000, 0x10000000
X32 = 0x40000000
"""From this number on, calls of x86-64's other convention."""
LOAD, IF_EQUAL, IF_LEAST, IF_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NAME, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""What may be loaded: the number of the call, the architecture, an argument."""
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
"""What may be returned; the last two are errors that the call ends with."""
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2

Instruction = tuple[int, int, int, int]
"""What to do, instructions to skip if so and if not, and a value."""


def machine() -> tuple[int, int, int] | None:
    """This machine's row of `MACHINES`; None where filters are not written for it."""
    return MACHINES.get(platform.machine())


def install(program: Sequence[Instruction]) -> None:
    """Filter what this thread calls, and those that it starts. Raises OSError."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    head = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(code))
    no_new_privileges()
    call("prctl", _SECCOMP, _FILTER, head, 0, 0)


def no_new_privileges() -> None:
    """No program that is started has more rights than this process. Raises OSError."""
    call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def call(name: str, *arguments: object) -> int:
    """What a function of the C library returns. Raises OSError for less than 0."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result: int = function(*given)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name} {arguments[0]}: {os.strerror(error)}")
    return result
