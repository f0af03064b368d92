"""The run store: which stage of which iteration is done, and whether it is still true.

A piece of work is named by its fingerprint (inputs, config slice, seed, code version). It is done
if the stage's folder has a manifest of that fingerprint and every file it names is there in the
size it says; the digests are checked when a file is first read by a process that did not write it,
and by `icpo check`. Manifests are truth, Prefect is the view.
"""

from __future__ import annotations

import shutil
import stat
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.common import files
from icpo_core.store import manifest, tables
from icpo_core.store.manifest import FileRecord, Manifest
from icpo_core.store.marks import Marks
from icpo_core.store.paths import MANIFEST, RunPaths
from icpo_core.store.tables import Written
from icpo_core.store.work import Standing, Status, Work

LARGE_BYTES = 1 << 25
LOOKED_AT = frozenset({"update", "checkpoint", "evaluate"})
"""Stages whose manifests retention and history look at in every iteration, of all iterations."""
PASSING = 256
"""Stages of which all else that is known is held in memory, so that it grows little with a run: the
manifests of others, and which files were proven."""


class Store:
    """Stages of one run on disk. One process writes at a time (`icpo_core.common.lock`)."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self.marks = Marks(paths)
        self.writable = False
        """Whether this process holds the run, and so may mark what it finds damaged."""
        self.on_change: Callable[[str, int], None] = lambda stage, iteration: None
        """Told (stage, iteration) of what was finished, and of files pruned or restored."""
        self._manifests: dict[tuple[str, int], Manifest] = {}
        self._passing: deque[tuple[str, int]] = deque()
        self._trusted: OrderedDict[tuple[str, int], set[str]] = OrderedDict()
        """Files by stage whose content this process wrote or has proven, the newest stages'."""

    def manifest(self, stage: str, iteration: int) -> Manifest | None:
        """The stage's manifest, None if it has none. Raises ValueError if it is damaged."""
        key = (stage, iteration)
        if (held := self._manifests.get(key)) is not None:
            return held
        path = self.paths.manifest(stage, iteration)
        found = manifest.read(path)
        if found is not None:
            if (found.stage, found.iteration) != key:
                where = self.paths.place(found.stage, found.iteration)
                raise ValueError(f"{path}: belongs to {where}, and was moved here")
            self._hold(key, found)
        return found

    def _hold(self, key: tuple[str, int], found: Manifest) -> None:
        """Keep a manifest in memory; of those that are rarely asked for again, the newest."""
        self._manifests[key] = found
        if key[0] not in LOOKED_AT:
            self._passing.append(key)
            if len(self._passing) > PASSING:
                self._manifests.pop(self._passing.popleft(), None)

    def _trust(self, key: tuple[str, int]) -> set[str]:
        """Names of a stage's proven files, to be added to."""
        if key not in self._trusted and len(self._trusted) >= PASSING:
            self._trusted.popitem(last=False)  # at once: another thread may be adding
        return self._trusted.setdefault(key, set())

    def finished(self, stage: str, iteration: int) -> Manifest | None:
        """The stage's manifest, None if it has none or a damaged one."""
        try:
            return self.manifest(stage, iteration)
        except ValueError:
            return None

    def status(self, work: Work) -> Status:
        """How `work` stands. Looks at sizes; `file` and `verify` look at contents."""
        stage, iteration = work.stage, work.iteration
        try:
            found = self.manifest(stage, iteration)
        except ValueError as error:
            return Status(Standing.DAMAGED, str(error))
        if found is None:
            count = len(self.parts(work))
            reason = f"not finished, {_counted(count)} of it there" if count else "not made yet"
            return Status(Standing.MISSING, reason)
        marked = self.marks.damaged(stage, iteration)
        if found.fingerprint != work.fingerprint and MANIFEST not in marked:
            why = manifest.why_different(found, work.version, work.inputs, work.config, work.seed)
            return Status(Standing.STALE, why, found)
        wrong = marked | self._wrong_sizes(found)
        if wrong:
            words = ", ".join(f"{name} {what}" for name, what in wrong.items())
            return Status(Standing.DAMAGED, words, found)
        return Status(Standing.DONE, "same fingerprint, files whole", found)

    def begin(self, work: Work, afresh: bool = False) -> Path:
        """An empty folder for the work, but for whole parts of just this work; its path.

        `afresh`: keep no part. The old manifest goes before anything it names: from then on the
        stage counts as not done.
        """
        folder = self._cleared(work.stage, work.iteration)
        kept = [] if afresh else self.whole_parts(work)
        # Bad parts first: without the manifest nobody could tell them from good ones.
        self._withdraw(work.stage, work.iteration, set(self.parts(work)) - set(kept))
        for path in sorted(folder.glob("*")):
            if path not in kept:
                is_folder = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if is_folder else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def part(self, stage: str, iteration: int, name: str, fingerprint: str) -> Path | None:
        """Where to put a part of a stage that is not asked for yet; None: it is there, whole.

        A stage that is done with another part in its place is done no more.
        """
        file = self._cleared(stage, iteration) / name
        found = self.finished(stage, iteration)
        recorded = {one.name: one for one in found.files} if found else {}
        if file.is_file() and tables.part_fingerprint(file) == fingerprint:
            known = recorded.get(name)
            if (_wrong_content(file, known) if known else _unreadable(file)) is None:
                return None
        if self.paths.manifest(stage, iteration).exists():
            wrong = {one for one in recorded if _wrong_content(file.parent / one, recorded[one])}
            self._withdraw(stage, iteration, {file.parent / one for one in wrong})
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir() and not file.is_symlink():
            self.paths.set_aside(file)
        file.unlink(missing_ok=True)
        return file

    def _cleared(self, stage: str, iteration: int) -> Path:
        """A stage's folder, with nothing in its place that is none: that is moved aside."""
        folder, written = self.paths.stage(stage, iteration), self.paths.manifest(stage, iteration)
        for path in (folder.parent, folder):
            # A link to another stage, too: what is made here would be written there.
            if path.is_symlink():
                self.paths.set_aside(self.paths.inside(path))
            elif path.exists() and not path.is_dir():
                self.paths.set_aside(path)
        if written.is_dir():
            self.paths.set_aside(written)
        return self.paths.inside(folder)

    def _withdraw(self, stage: str, iteration: int, bad: Iterable[Path]) -> None:
        """Let a stage count as not done: its manifest goes before anything else that it names, but
        for what is `bad`."""
        written = self.paths.manifest(stage, iteration)
        if written.exists():
            for path in bad:
                path.unlink(missing_ok=True)
            written.unlink()
            files.sync(written.parent)
        self._manifests.pop((stage, iteration), None)
        self.marks.forget(stage, iteration)
        self._trusted.pop((stage, iteration), None)

    def whole_parts(self, work: Work) -> list[Path]:
        """Parts of just this work in the stage's folder whose every byte is as it was written."""
        found = self.finished(work.stage, work.iteration)
        recorded = {}
        if found is not None and found.fingerprint == work.fingerprint:
            recorded = {record.name: record for record in found.files}
        whole = []
        for path in self.parts(work):
            if path.name in recorded:
                wrong = _wrong_content(path, recorded[path.name])
            else:
                wrong = _unreadable(path)
            if wrong is None:
                whole.append(path)
        return whole

    def commit(
        self,
        work: Work,
        started: float,
        seconds: float,
        facts: dict[str, Any],
        policy_version: str | None = None,
        prefect: dict[str, str] | None = None,
        known: dict[str, Written] | None = None,
    ) -> Manifest:
        """Record all files of the stage's folder and write the manifest, which makes it done.

        `started`: Unix time. `seconds`: wall time, by a clock that cannot be set back. `known`:
        what is known of files, by name, because they were just written.
        """
        folder = self.paths.inside(self.paths.stage(work.stage, work.iteration))
        inside = sorted(folder.rglob("*"))
        mine = [
            path
            for path in inside
            if path.is_file() and not path.name.endswith(files.TEMPORARY_SUFFIX)
        ]
        # What the manifest names reaches the disk before the manifest does, in one go.
        folders = [path for path in inside if path.is_dir()]
        files.sync_all([*mine, *folders, folder, folder.parent, self.paths.root])
        records = _records(mine, folder, known or {})
        made = Manifest(
            stage=work.stage,
            iteration=work.iteration,
            fingerprint=work.fingerprint,
            inputs=work.inputs,
            config=work.config,
            config_hash=files.canonical_digest(work.config),
            code_version=work.version,
            seed=work.seed,
            policy_version=policy_version,
            files=records,
            parents=work.parents,
            facts=facts,
            git=manifest.git(),
            libraries=manifest.libraries(),
            prefect=prefect or {},
            started=started,
            seconds=seconds,
        )
        # Not waited for: without power it is there with what it names, or the stage is not done.
        manifest.write(self.paths.manifest(work.stage, work.iteration), made, durable=False)
        self._hold((work.stage, work.iteration), made)
        self._trust((work.stage, work.iteration)).update(record.name for record in records)
        self.on_change(work.stage, work.iteration)
        return made

    def file(self, stage: str, iteration: int, name: str) -> Path:
        """Path of a finished stage's file, whose content is proven to be what was recorded.

        Raises ValueError, naming the file and the mend, if it is missing or was changed.
        """
        found = self.manifest(stage, iteration)
        if found is None:
            raise ValueError(
                f"{self.paths.stage(stage, iteration)}: is not finished; make it with "
                f"`icpo stage {stage} {self.paths.root} --iteration {iteration}`"
            )
        path = self.paths.file(stage, iteration, name)
        trusted = self._trust((stage, iteration))
        if name not in trusted:
            wrong = _wrong_content(path, found.record(name))
            if wrong is not None:
                if self.writable:
                    self.marks.set_damaged(stage, iteration, {name: wrong})
                mend = (
                    "it is made again when the run goes on, or now with `icpo stage "
                    f"{stage} {self.paths.root} --iteration {iteration}`"
                    if self.writable
                    else f"`icpo check {self.paths.root}` marks it to be made again"
                )
                raise ValueError(f"{path}: {wrong}; {mend}")
            trusted.add(name)
        return path

    def prove(self, stage: str, iteration: int, name: str) -> None:
        """Look at a file's content again, of which something gave cause to doubt. Raises ValueError
        as `file`."""
        self._trust((stage, iteration)).discard(name)
        self.file(stage, iteration, name)

    def table_files(self, stage: str, iteration: int, table: str) -> list[Path]:
        """The files of a finished stage's table, in the order of their names, each as in `file`."""
        found = self.manifest(stage, iteration)
        names = [record.name for record in found.table(table)] if found else [table]
        return [self.file(stage, iteration, name) for name in names]

    def table(
        self,
        stage: str,
        iteration: int,
        table: str,
        columns: Sequence[str] | None = None,
        of: Iterable[str] | None = None,
    ) -> pa.Table:
        """All parts of a finished stage's table, part after part; of it some columns, and the rows
        of some problems (`prompt_id`), if these are named: no more than that and a part is held."""
        names = None if of is None else pa.array(list(of), pa.string())

        def rows(path: Path) -> pa.Table:
            data = tables.read(table, path, columns)
            return data if names is None else data.filter(pc.is_in(data["prompt_id"], names))

        parts = [rows(path) for path in self.table_files(stage, iteration, table)]
        return pa.concat_tables(parts, promote_options="default")

    def verify(self, stage: str, iteration: int, digest: files.Digest) -> dict[str, str]:
        """What is wrong with a finished stage's files, by name; every byte is read again.

        Raises ValueError if its manifest is damaged.
        """
        found = self.manifest(stage, iteration)
        if found is None:
            return {}
        gone = self.marks.pruned(stage, iteration)
        checked = {
            record.name: _wrong_content(
                self.paths.file(stage, iteration, record.name), record, digest
            )
            for record in found.files
            if record.name not in gone
        }
        wrong = {name: words for name, words in checked.items() if words}
        if wrong:  # a run that is training may have removed some meanwhile
            gone = Marks(self.paths).pruned(stage, iteration)
        return {name: words for name, words in wrong.items() if name not in gone}

    def prune(self, removals: dict[tuple[str, int], frozenset[str]]) -> None:
        """Remove files of finished stages for good, and say so beside their manifests.

        `removals`: names of files by (stage, iteration); none, to end what a kill cut short.
        """
        news = {
            key: gone
            for key, names in removals.items()
            if (gone := self.marks.pruned(*key) | names) != self.marks.pruned(*key)
        }
        for key, gone in news.items():
            self.marks.set_pruned(*key, gone)
        # Said first, and on the disk: a file that is gone and not said to be is damage.
        files.sync_all([self.paths.pruned(*key) for key in news])
        for key in removals:
            folder = self.paths.inside(self.paths.stage(*key))
            found = self.finished(*key)
            recorded = {record.name for record in found.files} if found else set()
            # What somebody else wrote may say that a file is gone which never was the stage's.
            for name in self.marks.pruned(*key) & recorded:
                self.paths.file(*key, name).unlink(missing_ok=True)
            for path in sorted(folder.rglob("*"), reverse=True):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
            self.on_change(*key)

    def restore(self, stage: str, iteration: int, names: Iterable[str]) -> None:
        """Take pruned files, which were made again, for what they were.

        Raises ValueError if a file is not byte for byte what was recorded.
        """
        found = self.manifest(stage, iteration)
        assert found is not None
        for name in names:
            path = self.paths.file(stage, iteration, name)
            if _wrong_content(path, found.record(name)) is not None:
                raise ValueError(
                    f"{path}: was pruned, and what came of making it again is not what "
                    f"was recorded; make the stage and what depends on it anew: `icpo stage {stage}"
                    f" {self.paths.root} --iteration {iteration} --force`"
                )
        files.sync_all([self.paths.file(stage, iteration, name) for name in names])
        self.marks.set_pruned(
            stage, iteration, self.marks.pruned(stage, iteration) - frozenset(names)
        )
        self._trust((stage, iteration)).update(names)
        self.on_change(stage, iteration)

    def parts(self, work: Work) -> list[Path]:
        """Parquet files in the stage's folder that say they are parts of this work; after `begin`
        they are whole."""
        folder = self.paths.stage(work.stage, work.iteration)
        return [
            path
            for path in sorted(folder.glob("*.parquet"))
            if path.is_file() and tables.part_fingerprint(path) == work.part(path.name)
        ]

    def _wrong_sizes(self, found: Manifest) -> dict[str, str]:
        key = found.stage, found.iteration
        gone = self.marks.pruned(*key)
        wrong = {
            record.name: _wrong_size(self.paths.file(*key, record.name), record)
            for record in found.files
            if record.name not in gone
        }
        return {name: words for name, words in wrong.items() if words}


def _records(paths: list[Path], folder: Path, known: dict[str, Written]) -> list[FileRecord]:
    """What a manifest says of each file; large ones are hashed side by side."""
    if sum(path.stat().st_size for path in paths) < LARGE_BYTES:
        return [_record(path, folder, known) for path in paths]
    with ThreadPoolExecutor(files.HASH_THREADS) as pool:
        return list(pool.map(lambda path: _record(path, folder, known), paths))


def _record(path: Path, folder: Path, known: dict[str, Written]) -> FileRecord:
    name = path.relative_to(folder).as_posix()
    found = known.get(name) or Written(files.sha256_file(path))
    rows, content = found.rows, found.content
    if content is None and path.suffix == ".parquet":
        table = tables.table_name(path)
        if table is not None:
            data = tables.read(table, path)
            rows, content = data.num_rows, tables.content_digest(table, data)
    return FileRecord(
        name=name, bytes=path.stat().st_size, sha256=found.sha256, rows=rows, content=content
    )


def _wrong_size(path: Path, record: FileRecord) -> str | None:
    try:
        facts = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if not stat.S_ISREG(facts.st_mode):  # a link may lead anywhere, and a FIFO has no end
        return "is no regular file"
    size = facts.st_size
    return None if size == record.bytes else f"has {size} bytes instead of {record.bytes}"


def _wrong_content(
    path: Path, record: FileRecord, digest: files.Digest = files.sha256_file
) -> str | None:
    wrong = _wrong_size(path, record)
    if wrong is None and digest(path) != record.sha256:
        return "is not what was recorded (sha256 differs)"
    return wrong


def _unreadable(path: Path) -> str | None:
    """What is wrong with a part that no manifest names: its pages carry checksums."""
    try:
        table = tables.table_name(path)
        if table is None:
            return "is no table of ours"
        tables.read(table, path)
    except ValueError as error:
        return str(error)
    return None


def _counted(parts: int) -> str:
    return f"{parts} part" if parts == 1 else f"{parts} parts"
