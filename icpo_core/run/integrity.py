"""`icpo check`: every byte of a run read again and compared with what was recorded.

What has to be there is said by the manifests of what was made from it and by the run's metrics.
What is found is marked, so that the stage counts as damaged and is made again when the run goes
on; a mark on a file that is whole again is taken off. What is no part of the run is moved to its
folder `aside`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from icpo_core.common import files
from icpo_core.common.lock import RefusedError, RunLock
from icpo_core.run import metrics, retention
from icpo_core.run.run import Run
from icpo_core.run.stages import STAGES
from icpo_core.store.manifest import Manifest
from icpo_core.store.paths import MANIFEST, MARKS, RunPaths, place_of
from icpo_core.store.store import Store

Progress = Callable[[int, int], None]
"""Told (bytes read, bytes in all)."""
LATER = "is put back when the run goes on"
SEAL = "is not as it was written (its seal does not fit)"


@dataclass(frozen=True)
class Damage:
    """A file that is not what was recorded."""

    file: Path
    what: str
    """In words, what is wrong with it."""
    mend: str
    """What makes it whole again, or what was done."""
    mended: bool = False
    """Whether nothing is left to do: it was no part of the run, and was moved aside."""


def check(paths: RunPaths, on_progress: Progress = lambda done, all_: None) -> list[Damage]:
    """Everything that is wrong with a run's files; logs are not looked at.

    Marks what it finds, unless another process holds the run: that one reads what it needs anew,
    and what it is at work on is not said to be missing.
    """
    store = Store(paths)
    lock = RunLock(paths.lock)
    try:
        lock.acquire()
    except RefusedError:
        return _Check(store, False, True, on_progress).all()
    except ValueError as error:  # no file, or on a file system without locks
        here = Damage(paths.lock, _words(error), "the run cannot go on as long")
        return [here, *_Check(store, False, False, on_progress).all()]
    except OSError as error:
        if files.what_the_disk_says(error) is None:
            raise
        # A disk that cannot be written can be read.
        return _Check(store, False, False, on_progress).all()
    try:
        return _Check(store, True, False, on_progress).all()
    finally:
        lock.release()


class _Check:
    """One pass over a run."""

    def __init__(self, store: Store, marking: bool, held: bool, on_progress: Progress) -> None:
        """marking: this process may write. held: another process is at work on the run."""
        self.store, self.paths = store, store.paths
        self.marking, self.held, self.on_progress = marking, held, on_progress

    def all(self) -> list[Damage]:
        found = [self._aside(path, what) for path, what in self._foreign()]
        stages = [
            (stage, number)
            for number in self.paths.iterations()
            for stage in self.paths.stages(number)
        ]
        manifests = {}
        for stage, number in stages:
            try:
                manifest = self.store.manifest(stage, number)
            except ValueError as error:
                mend = _again(stage, number)
                found.append(Damage(self.paths.manifest(stage, number), _words(error), mend))
                continue
            assert manifest is not None
            manifests[stage, number] = manifest
        found += self._contents(manifests)
        if not self.held:
            found += self._missing(manifests, {(stage, number) for stage, number in stages})
        return found + self._root()

    # --- what is no part of the run -----------------------------------------------------------

    def _foreign(self) -> Iterator[tuple[Path, str]]:
        """What lies where stages do, and where a glob over stages would count it."""
        for folder in sorted(self.paths.root.glob("it-*")):
            if folder.is_symlink():
                if self._within(folder):
                    yield folder, "is a link"
                continue  # what lies outside may be anybody's
            number = folder.name.removeprefix("it-")
            if not number.isdecimal() or self.paths.iteration(int(number)).name != folder.name:
                yield folder, "is no iteration"
            elif not folder.is_dir():
                yield folder, "is no folder"
            else:
                yield from self._foreign_in(folder, int(number))

    def _foreign_in(self, folder: Path, number: int) -> Iterator[tuple[Path, str]]:
        for stage in sorted(folder.iterdir()):
            if stage.name not in STAGES:
                yield stage, "is no stage of this program"
                continue
            if stage.is_symlink():
                if self._within(stage):
                    yield stage, "is a link"
                continue
            if not stage.is_dir():
                yield stage, "is no folder"
                continue
            if (stage / MANIFEST).is_dir():
                yield stage / MANIFEST, "is a folder"
                continue
            try:
                manifest = self.store.manifest(stage.name, number)
            except ValueError as error:
                if "was moved here" in str(error):
                    yield stage, _words(error)
                continue
            if manifest is not None:
                yield from _strangers(stage, manifest)

    def _within(self, link: Path) -> bool:
        """Whether it leads to a place of this run."""
        return Path(os.path.realpath(link)).is_relative_to(os.path.realpath(self.paths.root))

    def _aside(self, path: Path, what: str) -> Damage:
        if not self.marking:
            mend = "`icpo check` moves it aside where it may write and no process holds the run"
            return Damage(path, what, mend)
        try:
            moved = self.paths.set_aside(path)
        except ValueError as error:
            return Damage(path, what, f"could not be moved aside: {error}")
        # Where it lay in the place of a part of the run, that one is missing, and said to be.
        return Damage(path, what, f"was moved to {moved}: remove it if it is not needed", True)

    # --- what is not what was recorded --------------------------------------------------------

    def _contents(self, manifests: dict[tuple[str, int], Manifest]) -> list[Damage]:
        reader = _Reader(self.on_progress)
        for key, manifest in manifests.items():
            reader.expect(self.paths.stage(*key), [one.name for one in manifest.files])
        found = []
        for (stage, number), manifest in manifests.items():
            folder, mend = self.paths.stage(stage, number), _again(stage, number)
            try:
                wrong = self.store.verify(stage, number, reader.digest)
            except ValueError as error:  # a link leads out of the run
                found.append(Damage(folder, _words(error), "it is never followed"))
                continue
            if not manifest.is_itself:
                wrong[MANIFEST] = "has the fingerprint of other work than it names"
            pruned = self.paths.pruned(stage, number)
            if pruned.is_file() and not files.seal_fits(pruned.read_bytes()):
                # What it said to be gone is missing now, for all that can be known.
                wrong = {pruned.name: SEAL}
            found += [Damage(folder / name, what, mend) for name, what in wrong.items()]
            if self.marking and wrong != self.store.marks.damaged(stage, number):
                self.store.marks.set_damaged(stage, number, wrong)
        return found

    # --- what is not there --------------------------------------------------------------------

    def _missing(
        self, manifests: dict[tuple[str, int], Manifest], there: set[tuple[str, int]]
    ) -> list[Damage]:
        children: dict[tuple[str, int], str] = {}
        for row in self._rows():
            number = int(row["iteration"])
            for stage in STAGES:
                if f"seconds/{stage}" in row:
                    children[stage, number] = self.paths.metrics.name
        for key, manifest in manifests.items():
            for parent in manifest.parents.values():
                place = place_of(Path(parent))
                # A branch has links to some stages and no folder of those that these were made of.
                if place is not None and self.paths.stage(*place).is_dir():
                    children.setdefault(place, self.paths.place(*key))
        return [
            Damage(self.paths.stage(*key), f"is missing, and {child} has it", _again(*key))
            for key, child in sorted(children.items(), key=lambda one: (one[0][1], one[0][0]))
            if key not in there
        ]

    def _rows(self) -> list[dict[str, float]]:
        try:
            return metrics.read(self.paths)
        except ValueError:
            return []

    # --- files of the run itself --------------------------------------------------------------

    def _root(self) -> list[Damage]:
        paths = self.paths
        again = "is made again from the stages when the run goes on"
        mends = {
            paths.config: LATER,
            paths.record: LATER,
            paths.metrics: again,
            paths.protected: "keeps every checkpoint until `icpo gc --protect` writes it anew",
        }
        found = [
            Damage(link, "a link leads out of the run", "it is never followed: remove it")
            for link in paths.links_out()
            if not link.name.startswith("it-")
        ]
        if (paths.root / "logs").is_file():
            found.append(Damage(paths.root / "logs", "is no folder", LATER))
        for path, mend in mends.items():
            if path.is_file():
                if not files.seal_fits(path.read_bytes()):
                    found.append(Damage(path, SEAL, mend))
            elif path.exists():
                found.append(Damage(path, "is no file", mend))
            elif path in (paths.config, paths.record):
                found.append(Damage(path, "is missing", mend))
        try:
            run = Run.read(paths.root)
            done = retention.lineage(run)
        except ValueError as error:
            mend = "name the configuration: `icpo train FILE.toml --run " + paths.root.name + "`"
            return [*found, Damage(paths.config, _words(error), mend)]
        if self.held or not done:
            return found
        rows = {int(row["iteration"]) for row in self._rows()}
        # A kill may have come before the newest checkpoint was settled, and nothing is wrong then.
        settled = [one for one in done if one in rows or one != done[-1]]
        lost = [str(number) for number in settled if number not in rows]
        if lost and not any(one.file == paths.metrics for one in found):
            found.append(Damage(paths.metrics, f"lacks iterations {', '.join(lost)}", again))
        newest = paths.place("checkpoint", done[-1])
        if not paths.latest.is_symlink():
            kind = "is missing"
            if paths.latest.exists():
                kind = f"is no link; the newest checkpoint is {newest}"
            found.append(Damage(paths.latest, kind, LATER))
        elif not self._is_newest((target := os.readlink(paths.latest)), (settled or done)[-1]):
            what = f"leads to {target}; the newest checkpoint is {newest}"
            found.append(Damage(paths.latest, what, LATER))
        return found

    def _is_newest(self, target: str, newest: int) -> bool:
        """Whether `LATEST` leads to this checkpoint, or to a newer one, whose damage is said."""
        place = place_of(Path(target))
        if place is None or not self.paths.manifest(*place).is_file():
            return False
        return place[0] == "checkpoint" and place[1] >= newest


def _strangers(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, str]]:
    """Files of a finished stage's folder that its manifest does not name."""
    known = {one.name for one in manifest.files} | MARKS
    above = {parent.as_posix() for name in known for parent in Path(name).parents}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if name not in above and not any(path.iterdir()):
                yield path, f"is no folder of {manifest.stage}"
        elif name not in known and not name.endswith(files.TEMPORARY_SUFFIX):
            yield path, f"is no file of {manifest.stage}"


def _again(stage: str, number: int) -> str:
    return f"is made again when the run goes on, with {stage} of iteration {number}"


def _words(error: ValueError) -> str:
    """What an error says beyond the file that it names first."""
    return str(error).partition(": ")[2] or str(error)


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
