"""One writer a run directory.

The lock is the kernel's (`flock`), which frees it when its owner dies, however it dies: so a stale
one is recognised without looking at process ids or clocks. The file only names the owner.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Self

import psutil

from icpo_core.common.closing import Closing

GLANCE_SECONDS = 0.1


class RefusedError(ValueError):
    """A run was asked for something and left as it was."""


class RunLock(Closing):
    """Exclusive lock on a run; its file names the owner (pid, host, since)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def close(self) -> None:
        self.release()

    def acquire(self) -> None:
        """Raises RefusedError, naming the owner, if another process holds the run; ValueError if
        the file system has no locks."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # below /proc, say
            raise ValueError(
                f"{error.filename}: no folder can be made there; set run.directory elsewhere"
            ) from None
        if os.path.lexists(self.path) and not _is_file(self.path):
            raise ValueError(f"{self.path}: is no file; remove it")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            _take(descriptor)
        except BlockingIOError:
            found = _owner(descriptor)
            os.close(descriptor)
            raise RefusedError(
                f"{self.path.parent}: in use by {found}; wait for it, or end it"
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            raise ValueError(
                f"{self.path}: this file system has no locks ({error.strerror}), so two processes "
                "could write one run; set run.directory to one that has"
            ) from None
        self._descriptor = descriptor
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        except OSError:  # a full disk
            self.release()
            raise

    def release(self) -> None:
        """Give the run back, if this lock holds it."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def require_free(path: Path) -> None:
    """Raise RefusedError, naming the owner, if a process holds the run."""
    found = holder(path)
    if found is not None:
        raise RefusedError(f"{path.parent}: in use by {found}; wait for it, or end it")


def holder(path: Path) -> str | None:
    """Who holds the lock now, in words; None if nobody does."""
    if not _is_file(path):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def remove_left(path: Path, seconds: float) -> bool:
    """Remove a lock that is a file's mere existence, if its owner left it; whether it did.

    It is left if no process of this machine that can be seen has it open, and it is as old as
    `seconds`: a machine that shares the folder may have made it a moment ago.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        age = time.time() - os.fstat(descriptor).st_mtime
        if age < seconds or _having_open(descriptor):
            return False
    finally:
        os.close(descriptor)
    path.unlink(missing_ok=True)
    return True


def _is_file(path: Path) -> bool:
    """Whether it is a regular file, and no link to one."""
    return path.is_file() and not path.is_symlink()


def _take(descriptor: int) -> None:
    """Lock it; one more try, since whoever looks for a holder has it for a moment."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(GLANCE_SECONDS)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner(descriptor: int) -> str:
    """Who holds the lock of an open lock file, in words."""
    try:
        facts = json.loads(os.pread(descriptor, 4096, 0))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["since"]))
        pid, host = int(facts["pid"]), str(facts["host"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return _having_open(descriptor) or "another process"
    if host == socket.gethostname() and not psutil.pid_exists(pid):
        # The one that took it is gone, and one that it started still has it.
        return _having_open(descriptor) or "another process"
    return f"process {pid} on {host} since {since}"


def _having_open(descriptor: int) -> str | None:
    """The other processes of this machine that have this file open."""
    mine, found = os.fstat(descriptor), []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            facts = link.stat()
        except OSError:  # gone, or somebody else's
            continue
        pid = int(link.parts[2])
        if pid != os.getpid() and (facts.st_dev, facts.st_ino) == (mine.st_dev, mine.st_ino):
            found.append(f"process {pid}")
    return ", ".join(dict.fromkeys(found)) or None
