"""Cores, memory and open files of this process: what control groups leave it of the machine.

https://docs.kernel.org/admin-guide/cgroup-v2.html (`cpu.max`, `memory.max`), and the first version,
https://docs.kernel.org/admin-guide/cgroup-v1/ (`cpu.cfs_quota_us`, `memory.limit_in_bytes`).
"""

from __future__ import annotations

import errno
import math
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

MINE = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


def cores() -> int:
    """As many as it may run on, or as its limit on time is worth, whichever is less."""
    most = float(len(os.sched_getaffinity(0)))
    for folder in _groups("cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        quota = quota or _read(folder / "cpu.cfs_quota_us")
        period = period or _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():
            most = min(most, int(quota) / int(period))
    return max(1, math.ceil(most))


def memory() -> int:
    """Bytes."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for folder in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (limit := _read(folder / name)).isdecimal():
                found.append(int(limit))
    return min(found)


def open_files() -> int:
    """How many a process of this user may have open, once it has asked for all that it may."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def raise_open_files() -> None:
    """Ask for all of them: what a process begins with is often 1,024, one connection each."""
    most = open_files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's group and those above it, in either version.

    In a container the mount may begin at the group itself, so the last of them is the mount.
    """
    for line in _read(MINE).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounts = [MOUNT / controllers] if controllers else [MOUNT, MOUNT / "unified"]
        for mount in mounts:
            group = mount / path.lstrip("/")
            yield group
            yield from (one for one in group.parents if one == mount or mount in one.parents)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def has_compiler() -> bool:
    """Whether ops that are compiled at run time, as DeepSpeed's, can be built."""
    return shutil.which(os.environ.get("CXX", "c++")) is not None


def what_the_machine_lacks(error: BaseException) -> str | None:
    """Memory or threads, in a line; None for any other error.

    Where memory ends, Python seldom says MemoryError: a library is not mapped, a thread not begun.
    """
    said = str(error)
    if "can't start new thread" in said:
        return "no further thread can be started: raise `ulimit -u` and `ulimit -v`"
    short = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if short or "failed to map segment" in said or "cannot allocate memory" in said.lower():
        return "no memory is left for it: raise `ulimit -v`, or free some"
    return None
