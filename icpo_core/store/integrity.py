"""`icpo check`: every byte of a run read again and compared with what was recorded.

What is found is marked in the run, so that the stage counts as damaged and is made again when the
run goes on; a mark on a file that is whole again is taken off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from icpo_core.common import files
from icpo_core.common.lock import RefusedError, RunLock
from icpo_core.store.paths import RunPaths, place_of
from icpo_core.store.store import Store

Progress = Callable[[int, int], None]
"""Told (bytes read, bytes in all)."""


@dataclass(frozen=True)
class Damage:
    """A file that is not what was recorded."""

    file: Path
    what: str
    """In words, what is wrong with it."""
    mend: str
    """What makes it whole again."""


def check(paths: RunPaths, on_progress: Progress = lambda done, all_: None) -> list[Damage]:
    """Everything that is wrong with a run's files; logs are not looked at.

    Marks what it finds, unless another process holds the run: that one reads what it needs anew.
    """
    store = Store(paths)
    lock = RunLock(paths.lock)
    try:
        lock.acquire()
    except RefusedError:
        return _check(store, False, on_progress)
    except OSError as error:
        if files.what_the_disk_says(error) is None:
            raise
        return _check(store, False, on_progress)  # a disk that cannot be written can be read
    try:
        return _check(store, True, on_progress)
    finally:
        lock.release()


def _check(store: Store, marking: bool, on_progress: Progress) -> list[Damage]:
    reader = _Reader(on_progress)
    stages = [
        (stage, number)
        for number in store.paths.iterations()
        for stage in store.paths.stages(number)
    ]
    for stage, number in stages:
        if (found := store.finished(stage, number)) is not None:
            reader.expect(store.paths.stage(stage, number), [one.name for one in found.files])
    found_all = _check_root(store)
    for stage, number in stages:
        folder = store.paths.stage(stage, number)
        mend = f"is made again when the run goes on, with {stage} of iteration {number}"
        try:
            wrong = store.verify(stage, number, reader.digest)
        except ValueError:
            found_all.append(Damage(folder / "manifest.json", _SEAL, mend))
            continue
        pruned = store.paths.pruned(stage, number)
        if pruned.is_file() and not files.seal_fits(pruned.read_bytes()):
            # What it said to be gone is missing now, for all that can be known.
            wrong = {pruned.name: _SEAL}
        found_all += [Damage(folder / name, what, mend) for name, what in wrong.items()]
        if marking and wrong != store.marks.damaged(stage, number):
            store.marks.set_damaged(stage, number, wrong)
    return found_all


_SEAL = "is not as it was written (its seal does not fit)"


def _check_root(store: Store) -> list[Damage]:
    paths = store.paths
    later = "is put back when the run goes on"
    mends = {
        paths.config: later,
        paths.record: later,
        paths.metrics: "is made again from the stages when the run goes on",
        paths.protected: "keeps every checkpoint until `icpo gc --protect` writes it anew",
    }
    wrong = [
        Damage(path, _SEAL, mend)
        for path, mend in mends.items()
        if path.is_file() and not files.seal_fits(path.read_bytes())
    ]
    if paths.latest.is_symlink():
        place = place_of(Path(os.readlink(paths.latest)))
        if place is None or not paths.manifest(*place).is_file():
            wrong.append(Damage(paths.latest, "leads to no finished checkpoint", later))
    return wrong


class _Reader:
    """Hashes files, each inode once, and says how far it is."""

    def __init__(self, on_progress: Progress) -> None:
        self._tell, self._known = on_progress, dict[tuple[int, int], str]()
        self._sizes: dict[tuple[int, int], int] = {}
        self._done = 0

    def expect(self, folder: Path, names: list[str]) -> None:
        for name in names:
            if (folder / name).is_file():
                facts = (folder / name).stat()
                self._sizes[facts.st_dev, facts.st_ino] = facts.st_size

    def digest(self, path: Path) -> str:
        facts = path.stat()
        key = facts.st_dev, facts.st_ino
        if key not in self._known:
            self._known[key] = files.sha256_file(path)
            self._done += facts.st_size
            self._tell(self._done, sum(self._sizes.values()))
        return self._known[key]
