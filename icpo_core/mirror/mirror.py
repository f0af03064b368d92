"""The mirror of a run: its copy in an object store, by which another machine goes on.

The same files under the same names, and the same promise: a stage is there if its manifest is. To
that end a stage's manifest is put last and taken away first. While a stage is on its way the
manifest-to-be stands beside it under another name, so that the next attempt knows which of the
files that are there already belong to it, and uploads none of them again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from icpo_core.common import files
from icpo_core.common.files import TEMPORARY_SUFFIX
from icpo_core.common.lock import RefusedError
from icpo_core.mirror.claim import Claim
from icpo_core.mirror.object_store import LOCAL, THREADS, ObjectStore
from icpo_core.store import manifest, run_record
from icpo_core.store.manifest import FileRecord, Manifest
from icpo_core.store.marks import Marks
from icpo_core.store.paths import MANIFEST, PRUNED, RunPaths, place_of

PLAN = MANIFEST + TEMPORARY_SUFFIX
"""The manifest of a stage that is being uploaded."""

Key = tuple[str, int]
Progress = Callable[[int, int], None]
"""Told (stages done, stages in all)."""


@dataclass(frozen=True)
class _Stage:
    """A stage in the mirror: digest of its manifest's bytes, its files, and which are gone."""

    digest: str
    files: tuple[FileRecord, ...]
    gone: frozenset[str]


class Mirror:
    """The copy of the run at `paths`, at a URL. One process writes at a time (`claim`).

    Methods raise AwayError while the store does not answer, ValueError for what the user can mend.
    After either, `look` comes first again.
    """

    def __init__(self, paths: RunPaths, url: str) -> None:
        """Raises ValueError if the URL cannot be used."""
        self.paths, self.store = paths, ObjectStore(url)
        protocol, _, place = self.store.url.rpartition("://")
        if protocol in LOCAL | {""} and Path(place).resolve() == paths.root.resolve():
            raise ValueError(f"{url}: is the run itself; set run.mirror to another place")
        self.claim = Claim(self.store, paths.root)
        self.uploaded = 0
        """Bytes of stages that this process has uploaded."""
        self.damaged: set[str] = set()
        """Objects that were found to be other than recorded: they are taken for absent."""
        self._since = time.time()
        self._there: dict[str, int] = {}
        self._stages: dict[str, _Stage] = {}
        self._places: dict[str, str] = {}
        """Where in the mirror a content lies, by its sha256."""
        self._sent: dict[str, tuple[int, int]] = {}
        """Small files as they were sent: time of change and size."""

    # --- what is there --------------------------------------------------------------------------

    def look(self) -> None:
        """Read what the mirror has."""
        self._there = self.store.sizes()
        self._stages.clear()
        self._places.clear()
        self._sent.clear()
        small = [name for name in self._there if name.endswith((f"/{MANIFEST}", f"/{PRUNED}"))]
        found = self.store.read_all(small)
        for name, data in found.items():
            place, _, last = name.rpartition("/")
            if last == MANIFEST and (known := parsed_or_none(data, name)) is not None:
                gone = names_gone(found.get(f"{place}/{PRUNED}"))
                self._know(place, _Stage(files.sha256_bytes(data), tuple(known.files), gone))

    def differences(self) -> set[Key]:
        """Finished stages of the folder that the mirror has not, or has otherwise."""
        found = set()
        for key in _stages_in(self.paths):
            mine = self._mine(*key)
            if mine is None:
                continue
            data, known, gone = mine
            theirs = self._stages.get(self.paths.place(*key))
            if (
                theirs is None
                or (theirs.digest, theirs.gone) != (files.sha256_bytes(data), gone)
                or self._unlike(self.paths.place(*key), known.files, gone)
            ):
                found.add(key)
        return found

    def is_ahead(self) -> bool:
        """Whether the mirror has attempts at the run that the folder has not.

        Raises RefusedError if both have attempts that the other has not.
        """
        data = self.store.read(self.paths.record.name)
        if data is None:
            return False
        theirs = files.unseal(data, f"{self.store.url}/{self.paths.record.name}")["attempts"]
        try:
            mine = (run_record.read(self.paths) or {"attempts": []})["attempts"]
        except ValueError:
            mine = []  # damaged: what the mirror has is whole
        for number, (one, other) in enumerate(zip(mine, theirs, strict=False), 1):
            if any(one[key] != other[key] for key in ("started", "pid", "host")):
                raise RefusedError(
                    f"{self.store.url}: is another run than {self.paths.root} from attempt "
                    f"{number} on (there on {other['host']}, here on {one['host']}); move that "
                    "folder away to go on with the mirror's, or choose another --run NAME"
                )
        return len(theirs) > len(mine)

    @property
    def names(self) -> list[str]:
        """Every object of the mirror."""
        return sorted(self._there)

    @property
    def stages(self) -> list[Key]:
        """The stages that are there."""
        found = (place_of(Path(place)) for place in self._stages)
        return sorted((key for key in found if key is not None), key=lambda key: key[::-1])

    # --- to the mirror --------------------------------------------------------------------------

    def upload(
        self,
        keys: set[Key],
        say: Callable[[str], None],
        logs: bool,
        tell: Progress = lambda done, all_: None,
    ) -> set[Key]:
        """Bring these stages of the mirror, and what lies beside stages, to what the folder has;
        those whose removals must wait for the newest checkpoint. `say`: told what is left out.

        Raises RefusedError if another process writes the mirror by now.
        """
        self.claim.require()
        self.send_head()
        made = {key: at for at, key in enumerate(_stages_in(self.paths))}
        ordered = sorted(keys, key=lambda key: made.get(key, len(made)))
        for number, key in enumerate(ordered):
            tell(number, len(ordered))
            self.claim.require()
            wrong = self.send(*key)
            if wrong is not None:
                say(f"{self.store.url}: a stage is left out, {wrong}")
        self.send_tail()
        # All that is new is there: what may go, goes.
        held = {key for key in ordered if not self.remove(*key)}
        if logs:
            self.send_logs()
        tell(len(ordered), len(ordered))
        return held

    def send(self, stage: str, iteration: int) -> str | None:
        """Upload what the mirror lacks of a finished stage, its manifest last; a reason, in words,
        if that cannot be done. One that is being made again is left as it is in the mirror."""
        mine = self._mine(stage, iteration)
        if mine is None:
            return None
        data, known, gone = mine
        place = self.paths.place(stage, iteration)
        theirs = self._stages.get(place)
        new = theirs is None or theirs.digest != files.sha256_bytes(data)
        if new:
            self._withdraw(place, data, known)
        lacking = self._unlike(place, known.files, gone)
        # A store is far: what takes the time is waiting for each of its answers.
        with ThreadPoolExecutor(THREADS) as pool:
            put = list(pool.map(lambda one: self._put(place, one), lacking))
        for one, wrong in zip(lacking, put, strict=True):
            if wrong is not None:
                later = self._mine(stage, iteration)
                if later is None or files.sha256_bytes(later[0]) != files.sha256_bytes(data):
                    return None  # made again meanwhile: it will be sent then
                if one.name not in later[2]:
                    return f"{place}/{one.name}: {wrong}"
                gone = later[2]
        kept = gone if theirs is None or new else theirs.gone & gone
        self._mark(place, kept, theirs.gone if theirs and not new else None)
        if new:
            self._write(f"{place}/{MANIFEST}", data)
        self._remove(f"{place}/{PLAN}")
        self._know(place, _Stage(files.sha256_bytes(data), tuple(known.files), kept))
        return None

    def remove(self, stage: str, iteration: int) -> bool:
        """Remove from the mirror what retention has removed from a stage, said first; False if that
        must wait, because the newest checkpoint is not in the mirror yet."""
        mine, place = self._mine(stage, iteration), self.paths.place(stage, iteration)
        theirs = self._stages.get(place)
        if mine is None or theirs is None or theirs.digest != files.sha256_bytes(mine[0]):
            return True
        gone = mine[2]
        going = [f"{place}/{name}" for name in sorted(gone) if f"{place}/{name}" in self._there]
        if theirs.gone == gone and not going:
            return True
        if self._latest() is None:
            return False
        self._mark(place, gone, theirs.gone)
        self._stages[place] = _Stage(theirs.digest, theirs.files, gone)
        for one in theirs.files:
            if self._places.get(one.sha256) == f"{place}/{one.name}" and one.name in gone:
                del self._places[one.sha256]
        for name in going:
            self._remove(name)
        return True

    def send_head(self) -> None:
        """What the run is: before any of its stages."""
        for path in (self.paths.record, self.paths.config, self.paths.protected):
            self._send_small(path)

    def send_tail(self) -> None:
        """What leads to stages: after them."""
        for path in sorted(self.paths.root.iterdir()):
            if path.is_file() and not path.is_symlink() and path != self.paths.lock:
                self._send_small(path)
        latest = self._latest()
        if latest is not None and self._sent.get(self.paths.latest.name) != latest:
            self.store.write(self.paths.latest.name, f"{self._target()}\n".encode())
            self._sent[self.paths.latest.name] = latest

    def send_logs(self) -> None:
        """Logs and what trackers wrote; at the end, since an object cannot be appended to."""
        for folder in sorted(self.paths.root.iterdir()):
            if not folder.is_dir() or folder.is_symlink() or folder.name.startswith("it-"):
                continue
            for path in sorted(folder.rglob("*")):
                if not path.is_file() or path.name.endswith(TEMPORARY_SUFFIX):
                    continue
                name, facts = path.relative_to(self.paths.root).as_posix(), path.stat()
                if self._there.get(name) != facts.st_size or facts.st_mtime > self._since:
                    self.store.put(name, path)
                    self._there[name] = facts.st_size

    # --- pieces ---------------------------------------------------------------------------------

    def _mine(self, stage: str, iteration: int) -> tuple[bytes, Manifest, frozenset[str]] | None:
        """The folder's stage as it stands now: manifest, as bytes too, and what is pruned."""
        try:
            data = self.paths.manifest(stage, iteration).read_bytes()
        except FileNotFoundError:
            return None
        known = parsed_or_none(data, stage)
        return None if known is None else (data, known, Marks(self.paths).pruned(stage, iteration))

    def _unlike(
        self, place: str, records: list[FileRecord], gone: frozenset[str]
    ) -> list[FileRecord]:
        return [
            one
            for one in records
            if one.name not in gone
            and (
                self._there.get(f"{place}/{one.name}") != one.bytes
                or f"{place}/{one.name}" in self.damaged
            )
        ]

    def _withdraw(self, place: str, data: bytes, known: Manifest) -> None:
        """From here on the stage is not there; of its files only those stay that are to be."""
        before: dict[str, str] = {}
        if place in self._stages:
            before = {one.name: one.sha256 for one in self._stages.pop(place).files}
        elif f"{place}/{PLAN}" in self._there:
            plan = parsed_or_none(self.store.read(f"{place}/{PLAN}") or b"", place)
            before = {one.name: one.sha256 for one in plan.files} if plan else {}
        after = {one.name: one.sha256 for one in known.files}
        inside = sorted(name for name in self._there if name.startswith(f"{place}/"))
        self._remove(f"{place}/{MANIFEST}")
        for path in inside:
            name = path.removeprefix(f"{place}/")
            if name == PLAN or (name in before and before[name] == after.get(name)):
                continue
            self._remove(path)
        gone = {content for content, path in self._places.items() if path not in self._there}
        for content in gone:
            del self._places[content]
        self._write(f"{place}/{PLAN}", data)

    def _put(self, place: str, one: FileRecord) -> str | None:
        """Upload a file, or copy it within the store; in words, why it could not be done."""
        name, path = f"{place}/{one.name}", self.paths.root / place / one.name
        twin = self._places.get(one.sha256)
        if twin in self.damaged or twin == name:
            twin = None
        if twin is not None and self.store.copy(twin, name):
            self._there[name] = one.bytes
            self.damaged.discard(name)
            return None
        try:
            before = path.stat()
            if not is_recorded(path, one):
                return "is not what was recorded"
            self.store.put(name, path)
            after = path.stat()
        except FileNotFoundError:
            return "is missing"
        self._there[name] = one.bytes
        self.damaged.discard(name)
        if (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns):
            self._remove(name)
            return "was changed while it was uploaded"
        self.uploaded += one.bytes
        self._places[one.sha256] = name
        return None

    def _mark(self, place: str, gone: frozenset[str], before: frozenset[str] | None) -> None:
        if before == gone:
            return
        if gone:
            mark = files.sealed({"files": sorted(gone), "at": time.time()})
            self._write(f"{place}/{PRUNED}", mark)
        else:
            self._remove(f"{place}/{PRUNED}")

    def _know(self, place: str, stage: _Stage) -> None:
        self._stages[place] = stage
        for one in stage.files:
            if one.name not in stage.gone and self._there.get(f"{place}/{one.name}") == one.bytes:
                self._places.setdefault(one.sha256, f"{place}/{one.name}")

    def _target(self) -> str:
        return os.readlink(self.paths.latest)

    def _latest(self) -> tuple[int, int] | None:
        """What `LATEST` leads to, as (iteration, 0), if that is whole in the mirror."""
        if not self.paths.latest.is_symlink():
            return None
        place = place_of(Path(self._target()))
        theirs = self._stages.get(self.paths.place(*place)) if place else None
        if place is None or theirs is None:
            return None
        if self._unlike(self.paths.place(*place), list(theirs.files), theirs.gone):
            return None
        return place[1], 0

    def _send_small(self, path: Path) -> None:
        try:
            facts, data = path.stat(), path.read_bytes()
        except FileNotFoundError:
            return
        if path.name.endswith(TEMPORARY_SUFFIX):
            return
        key = facts.st_mtime_ns, facts.st_size
        if self._sent.get(path.name) != key:
            self._write(path.name, data)
            self._sent[path.name] = key

    def _write(self, name: str, data: bytes) -> None:
        self.store.write(name, data)
        self._there[name] = len(data)

    def _remove(self, name: str) -> None:
        if name in self._there:
            self.store.remove(name)
            del self._there[name]


def _stages_in(paths: RunPaths) -> Iterator[Key]:
    """Finished stages in the order in which a run makes them."""
    for number in paths.iterations():
        for stage in paths.stages(number):
            yield stage, number


def is_recorded(path: Path, one: FileRecord) -> bool:
    """Whether a file is what was recorded, to the byte."""
    try:
        return path.stat().st_size == one.bytes and files.sha256_file(path) == one.sha256
    except FileNotFoundError:
        return False


def parsed_or_none(data: bytes, where: str) -> Manifest | None:
    """A manifest; a damaged one is none."""
    try:
        return manifest.parse(data, where)
    except ValueError:
        return None


def names_gone(data: bytes | None) -> frozenset[str]:
    """What a mark says to be pruned; nothing if there is none or a damaged one."""
    try:
        return frozenset(files.unseal(data or b"", PRUNED)["files"])
    except ValueError:
        return frozenset()
