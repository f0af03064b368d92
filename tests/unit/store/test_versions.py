"""What a newer version has stored: a minor one is read, a major one is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icpo_core.common import files
from icpo_core.store import manifest, run_record, tables
from icpo_core.store.paths import RunPaths

STORED: dict[str, Any] = {
    "stage": "select",
    "iteration": 1,
    "fingerprint": "f",
    "inputs": {},
    "config": {},
    "config_hash": "c",
    "code_version": 1,
    "schema_version": 1,
    "seed": 0,
    "policy_version": None,
    "files": [{"name": "a.parquet", "bytes": 1, "sha256": "s", "rows": 1, "content": "d"}],
    "parents": {},
    "facts": {},
    "git": {},
    "libraries": {},
    "prefect": {},
    "started": 0.0,
    "seconds": 1.0,
}
"""A manifest of v0.1.0."""


def read(path: Path, **changes: Any) -> manifest.Manifest | None:
    files.write_sealed(path, STORED | changes)
    return manifest.read(path)


def test_manifests(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    first = read(path)
    assert first is not None
    assert (first.schema_version, first.schema_minor) == (1, 0)
    more = [STORED["files"][0] | {"blocks": 3}]
    newer = read(path, schema_minor=4, novelty={"a": 1}, files=more)
    assert newer == first.model_copy(update={"schema_minor": 4})
    for damaged in ({"novelty": 1}, {"files": more}, {"schema_minor": 4, "files": [{"name": "a"}]}):
        with pytest.raises(ValueError, match="of another version of this program"):
            read(path, **damaged)
    with pytest.raises(ValueError, match=r"schema version 2.1, .* reads 1; update this program$"):
        read(path, schema_version=2, schema_minor=1)


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "rejects.parquet"
    row = {
        "prompt_id": "p",
        "sample_index": 0,
        "origin": "expert",
        "reward": 0.0,
        "reason": "empty",
    }
    tables.write("rejects", tables.table("rejects", [row]), path)
    first = tables.read("rejects", path)
    marks = pq.read_table(path).schema.metadata
    assert b"icpo.schema_minor" not in marks
    marks |= {b"icpo.schema_minor": b"3"}
    newer = first.append_column("novelty", pa.array([1])).replace_schema_metadata(marks)
    pq.write_table(newer, path)
    assert tables.read("rejects", path).equals(first)
    pq.write_table(first.replace_schema_metadata(marks | {b"icpo.schema_version": b"2"}), path)
    with pytest.raises(
        ValueError, match=r"of schema version 2.3, and this program reads 1; update"
    ):
        tables.read("rejects", path)


def test_the_record_of_a_run(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    record = run_record.new("run")
    files.write_sealed(paths.record, record | {"schema_minor": 9, "novelty": 1})
    found = run_record.read(paths)
    assert found is not None
    assert found["novelty"] == 1
    files.write_sealed(paths.record, record | {"schema_version": 2})
    with pytest.raises(ValueError, match=r"run.json: of schema version 2.0"):
        run_record.read(paths)
