"""Folders of a process that go with it, or, after a kill, with the next start."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

PREFIX = "icpo-"
YOUNG_SECONDS = 60.0
"""Age below which a folder may be one that is just being made."""
_HELD: set[str] = set()


class Scratch(tempfile.TemporaryDirectory[str]):
    """A folder for sockets, held by a lock that the kernel frees when this process dies."""

    def __init__(self) -> None:
        _sweep_once()
        super().__init__(prefix=PREFIX)
        self._held: int | None = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        _HELD.add(self.name)

    def cleanup(self) -> None:
        super().cleanup()
        _HELD.discard(self.name)
        if self._held is not None:
            os.close(self._held)
            self._held = None


def remove_all() -> None:
    """Remove the folders of this process, which is about to end at once."""
    for name in list(_HELD):
        shutil.rmtree(name, ignore_errors=True)


def sweep(above: Path, now: float) -> list[Path]:
    """Remove this user's scratch folders that no process holds; which they were."""
    gone = []
    for folder in above.glob(f"{PREFIX}*"):
        try:
            facts = folder.lstat()
            if facts.st_uid != os.getuid() or now - facts.st_mtime < YOUNG_SECONDS:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or no folder
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
            gone.append(folder)
        except OSError:  # somebody holds it
            continue
        finally:
            os.close(descriptor)
    return gone


@cache
def _sweep_once() -> None:
    sweep(Path(tempfile.gettempdir()), time.time())
