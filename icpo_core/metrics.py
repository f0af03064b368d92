"""`metrics.parquet`: one row an iteration, put together from what its stages left.

A view of the run, never its truth: it can be made again from the stages at any time.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from icpo_core.config import STAGES
from icpo_core.files import atomic_path, read_json
from icpo_core.paths import RunPaths
from icpo_core.run import Run


def row(run: Run, iteration: int) -> dict[str, float]:
    """The figures of an iteration: those of `select` and `update`, accuracy by benchmark
    (`accuracy/NAME`), and seconds by stage (`seconds/STAGE`). What is not there is left out."""
    figures: dict[str, float] = {"iteration": float(iteration)}
    for stage, name in (("select", "summary.json"), ("update", "metrics.json")):
        path = run.paths.stage(stage, iteration) / name
        if path.is_file():
            figures |= read_json(path)
    for stage in STAGES:
        found = run.store.manifest(stage, iteration)
        if found is None:
            continue
        figures[f"seconds/{stage}"] = found.seconds
        if stage == "rollout":
            figures["rollout/tokens"] = float(found.facts["tokens"])
            if found.facts.get("probe_gap") is not None:
                figures["rollout/probe_gap"] = found.facts["probe_gap"]
        elif stage == "evaluate":
            figures |= {k: v for k, v in found.facts.items() if k.startswith("accuracy/")}
    return figures


def record(run: Run, iteration: int) -> dict[str, float]:
    """Put an iteration's row into the run's metrics and its trackers; the row."""
    mine = row(run, iteration)
    rows = [old for old in read(run.paths) if old["iteration"] != iteration]
    rows = sorted([*rows, mine], key=lambda one: one["iteration"])
    names = ["iteration", *sorted({name for one in rows for name in one} - {"iteration"})]
    table = pa.table(
        {name: pa.array([one.get(name) for one in rows], pa.float64()) for name in names}
    )
    with atomic_path(run.paths.metrics) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    for tracker in run.trackers:
        tracker.log(iteration, mine)
    return mine


def read(paths: RunPaths) -> list[dict[str, float]]:
    """Rows by iteration, without the figures that an iteration does not have."""
    if not paths.metrics.is_file():
        return []
    return [
        {name: value for name, value in one.items() if value is not None}
        for one in pq.read_table(paths.metrics).to_pylist()
    ]
