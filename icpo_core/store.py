"""The run store: which stage of which iteration is done, and whether it is still true.

A piece of work is named by its fingerprint (inputs, config slice, seed, code version). It is done
if the stage's folder has a manifest of that fingerprint and every file it names is there in the
size it says; the digests are checked when a file is first read by a process that did not write it.
Manifests are truth, Prefect is the view.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from icpo_core import files, manifest, schemas
from icpo_core.manifest import FileRecord, Manifest
from icpo_core.paths import RunPaths


class Standing(StrEnum):
    """How a piece of work stands."""

    DONE = "done"  # the manifest is of this work and its files are whole
    MISSING = "missing"  # no manifest: never made, or died before it was whole
    STALE = "stale"  # made from something else: inputs, configuration, seed or program
    DAMAGED = "damaged"  # a file is missing or has another size or content than recorded


@dataclass(frozen=True)
class Work:
    """One stage of one iteration with all that its result depends on."""

    stage: str
    iteration: int
    version: int
    """Code version of the stage, bumped by hand when its results change."""
    inputs: dict[str, str | None]
    """Digest of everything read, by name."""
    config: dict[str, Any]
    """The part of the configuration that the stage reads."""
    seed: int
    parents: list[str] = field(default_factory=list)
    """Fingerprints of the stages read."""

    @cached_property
    def fingerprint(self) -> str:
        return manifest.fingerprint(
            self.stage, self.iteration, self.version, self.inputs, self.config, self.seed
        )


@dataclass(frozen=True)
class Status:
    """Standing of a piece of work, the reason in words, and its manifest if there is one."""

    standing: Standing
    reason: str
    manifest: Manifest | None = None

    @property
    def done(self) -> bool:
        return self.standing is Standing.DONE


class Store:
    """Stages of one run on disk. One process writes at a time (`icpo_core.lock`)."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self._manifests: dict[tuple[str, int], Manifest] = {}
        self._trusted: set[Path] = set()

    def manifest(self, stage: str, iteration: int) -> Manifest | None:
        """The stage's manifest, None if it has none. Raises ValueError if it is damaged."""
        key = (stage, iteration)
        if key not in self._manifests:
            found = manifest.read(self.paths.manifest(stage, iteration))
            if found is None:
                return None
            self._manifests[key] = found
        return self._manifests[key]

    def status(self, work: Work) -> Status:
        """How `work` stands. Looks at sizes; `read` and `verify` look at contents."""
        try:
            found = self.manifest(work.stage, work.iteration)
        except ValueError as error:
            return Status(Standing.DAMAGED, str(error))
        if found is None:
            parts = self.finished_parts(work)
            return Status(
                Standing.MISSING,
                f"{len(parts)} of its parts are whole" if parts else "not made yet",
            )
        if found.fingerprint != work.fingerprint:
            why = manifest.why_different(found, work.version, work.inputs, work.config, work.seed)
            return Status(Standing.STALE, why, found)
        if wrong := self._wrong_sizes(found):
            return Status(Standing.DAMAGED, wrong, found)
        return Status(Standing.DONE, "same fingerprint, files whole", found)

    def begin(self, work: Work) -> Path:
        """An empty folder for the work, but for whole parts of just this work; its path.

        The old manifest goes first: from then on the stage counts as not done.
        """
        folder = self.paths.stage(work.stage, work.iteration)
        self._manifests.pop((work.stage, work.iteration), None)
        old = self.paths.manifest(work.stage, work.iteration)
        if old.exists():
            old.unlink()
            files.sync(folder)
        kept = self.finished_parts(work)
        for path in sorted(folder.glob("*")):
            if path not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finished_parts(self, work: Work) -> list[Path]:
        """Whole Parquet parts in the stage's folder that carry the work's fingerprint."""
        folder = self.paths.stage(work.stage, work.iteration)
        return [
            path
            for path in sorted(folder.glob("*.parquet"))
            if schemas.part_fingerprint(path) == work.fingerprint
        ]

    def commit(
        self,
        work: Work,
        started: float,
        facts: dict[str, Any],
        policy_version: str | None = None,
        prefect: dict[str, str] | None = None,
        known: dict[str, str] | None = None,
    ) -> Manifest:
        """Record all files of the stage's folder and write the manifest, which makes it done.

        `started`: Unix time. `known`: sha256 of files, by name, that were just computed.
        """
        folder = self.paths.stage(work.stage, work.iteration)
        records = [
            self._record(path, folder, known or {})
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.endswith(files.TEMPORARY_SUFFIX)
        ]
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
            seconds=time.time() - started,
        )
        manifest.write(self.paths.manifest(work.stage, work.iteration), made)
        self._manifests[work.stage, work.iteration] = made
        self._trusted.update(folder / record.name for record in records)
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
        path = self.paths.stage(stage, iteration) / name
        if path not in self._trusted:
            if wrong := _wrong_content(path, found.record(name)):
                raise ValueError(f"{wrong}; {_mend(self.paths, stage, iteration)}")
            self._trusted.add(path)
        return path

    def table(self, stage: str, iteration: int, table: str, pattern: str = "*.parquet") -> pa.Table:
        """All parts of a finished stage's table, in the order of their names."""
        found = self.manifest(stage, iteration)
        names = (
            [] if found is None else [r.name for r in found.files if Path(r.name).match(pattern)]
        )
        if not names:
            self.file(stage, iteration, pattern)  # says what is missing
        return pa.concat_tables(
            [schemas.read(table, self.file(stage, iteration, name)) for name in names]
        )

    def verify(self, stage: str, iteration: int) -> list[str]:
        """What is wrong with a finished stage, file by file; every byte is read again."""
        found = self.manifest(stage, iteration)
        if found is None:
            return []
        gone = self.pruned(stage, iteration)
        folder = self.paths.stage(stage, iteration)
        wrong = [
            _wrong_content(folder / record.name, record)
            for record in found.files
            if record.name not in gone
        ]
        return [line for line in wrong if line]

    def pruned(self, stage: str, iteration: int) -> set[str]:
        """Names of files that retention has removed from a finished stage."""
        path = self.paths.pruned(stage, iteration)
        return set(files.read_json(path)["files"]) if path.is_file() else set()

    def prune(self, stage: str, iteration: int, names: list[str]) -> int:
        """Remove files of a finished stage for good, and say so beside the manifest. Bytes freed."""
        folder = self.paths.stage(stage, iteration)
        gone = self.pruned(stage, iteration)
        # Said first: a file that is gone and not said to be is damage.
        record = {"files": sorted(gone | set(names)), "at": time.time()}
        files.write_json(self.paths.pruned(stage, iteration), record)
        freed = 0
        for name in names:
            path = folder / name
            if path.is_file():
                freed += path.stat().st_size
                path.unlink()
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        return freed

    def _wrong_sizes(self, found: Manifest) -> str | None:
        folder = self.paths.stage(found.stage, found.iteration)
        gone = self.pruned(found.stage, found.iteration)
        for record in found.files:
            if record.name in gone:
                continue
            try:
                size = (folder / record.name).stat().st_size
            except FileNotFoundError:
                return f"{record.name} is missing"
            if size != record.bytes:
                return f"{record.name} has {size} bytes instead of {record.bytes}"
        return None

    def _record(self, path: Path, folder: Path, known: dict[str, str]) -> FileRecord:
        name = path.relative_to(folder).as_posix()
        rows = content = None
        if path.suffix == ".parquet":
            table = schemas.table_name(path)
            if table is not None:
                data = schemas.read(table, path)
                rows, content = data.num_rows, schemas.content_digest(table, data)
        return FileRecord(
            name=name,
            bytes=path.stat().st_size,
            sha256=known.get(name) or files.sha256_file(path),
            rows=rows,
            content=content,
        )


def _wrong_content(path: Path, record: FileRecord) -> str | None:
    try:
        if path.stat().st_size != record.bytes:
            return f"{path}: has {path.stat().st_size} bytes instead of {record.bytes}"
        if files.sha256_file(path) != record.sha256:
            return f"{path}: its content is not what was recorded (sha256 differs)"
    except FileNotFoundError:
        return f"{path}: is missing"
    return None


def _mend(paths: RunPaths, stage: str, iteration: int) -> str:
    return f"make it again with `icpo stage {stage} {paths.root} --iteration {iteration} --force`"
