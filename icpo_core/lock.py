"""One writer a run directory."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path


class RunLock:
    """Exclusive lock on a run. The kernel frees it when its owner dies, so none goes stale.

    The file names the owner (pid, host, since) for whoever finds the run locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises ValueError, naming the owner, if another process holds the run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = os.pread(descriptor, 4096, 0).decode("utf-8", "replace")
            os.close(descriptor)
            raise ValueError(
                f"{self.path.parent}: in use by {_name(found)}; wait or end it"
            ) from None
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the run back, if this lock holds it."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def holder(path: Path) -> str | None:
    """Who holds the lock now, in words; None if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _name(os.pread(descriptor, 4096, 0).decode("utf-8", "replace"))
    else:
        return None
    finally:
        os.close(descriptor)


def _name(owner: str) -> str:
    try:
        facts = json.loads(owner)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["since"]))
        return f"process {facts['pid']} on {facts['host']} since {since}"
    except (ValueError, KeyError, TypeError):
        return "another process"
