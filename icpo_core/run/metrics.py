"""`metrics.parquet`: one row an iteration, put together from what its stages left.

A view of the run, never its truth: it can be made again from the stages at any time.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icpo_core.common.files import UNSEALED, atomic_path, read_json, seal, seal_fits
from icpo_core.method import likeness
from icpo_core.models.flops import utilization
from icpo_core.run import timeline
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store.paths import RunPaths
from icpo_core.store.tables import read_bytes


def row(run: Run, iteration: int) -> dict[str, float]:
    """The figures of an iteration: those of `select` and `update`, accuracy by benchmark
    (`accuracy/NAME`), how much rewarded answers look like golds (`answers/...`), seconds by stage
    (`seconds/STAGE`) and between stages (`seconds/outside`), tokens a second of sampling and of the
    optimizer steps (`tokens_per_second/rollout`, `/update`) and `mfu`, where the device is known.
    What is not there is left out."""
    figures: dict[str, float] = {"iteration": float(iteration)}
    for stage, name in (("select", "summary.json"), ("update", "metrics.json")):
        path = run.paths.stage(stage, iteration) / name
        if path.is_file():
            try:
                figures |= read_json(path)
            except ValueError:
                run.store.prove(stage, iteration, name)
                raise
    figures |= _likeness(run, iteration)
    made = timeline.manifests(run.store, iteration)
    before = timeline.manifests(run.store, iteration - 1) if iteration else []
    gaps = timeline.gaps(made, before)
    if gaps:
        figures["seconds/outside"] = sum(gaps.values())
    for found in made:
        stage = found.stage
        figures[f"seconds/{stage}"] = found.seconds
        if stage == "prompts" and found.facts.get("fewer"):
            figures["demonstrations/fewer"] = found.facts["fewer"]
        if stage == "prompts" and "pool/shown" in found.facts:
            figures["pool/shown"] = found.facts["pool/shown"]
        if stage == "rollout":
            figures["rollout/tokens"] = float(found.facts["tokens"])
            if found.facts.get("off_policy_steps"):
                figures["rollout/off_policy_steps"] = float(found.facts["off_policy_steps"])
            if "ids_without_token" in found.facts:
                figures["rollout/ids_without_token"] = float(found.facts["ids_without_token"])
            for name in ("unfinished", "carried_tokens"):
                if name in found.facts:
                    figures[f"rollout/{name}"] = float(found.facts[name])
            for name in ("lost_prompts", "lost_traces"):
                if found.facts.get(name):
                    figures[f"rollout/{name}"] = float(found.facts[name])
            if found.facts.get("groups"):
                figures["steer/share"] = found.facts["steered"] / found.facts["groups"]
                for name in ("rounds", "batches"):
                    figures[f"rollout/{name}"] = float(found.facts[name])
            for name in ("probe_gap", "probe_median", "probe_upper"):
                if found.facts.get(name) is not None:
                    figures[f"rollout/{name}"] = found.facts[name]
            if seconds := timeline.sampling_seconds(found):
                sampled = found.facts.get("sampled_tokens", 0)
                figures["tokens_per_second/rollout"] = sampled / seconds
        elif stage == "update" and found.facts.get("work"):
            figures |= _training(found.facts["work"], found.facts["timing"]["step"])
        elif stage == "select" and "judge/seconds" in found.facts:
            figures["judge/seconds"] = found.facts["judge/seconds"]
        elif stage == "evaluate":
            figures |= {k: v for k, v in found.facts.items() if k.startswith("accuracy/")}
    return figures


def _likeness(run: Run, iteration: int) -> dict[str, float]:
    """How much rewarded answers look like golds, of `math`'s verdicts."""
    if run.store.finished("verify", iteration) is None:
        return {}
    try:
        verdicts = run.store.table("verify", iteration, "verdicts")
        return likeness.figures(verdicts, run.store.table("prompts", iteration, "prompts"))
    except ValueError:  # damaged: it is made again, and the figures with it
        return {}


def _training(work: dict[str, Any], seconds: float) -> dict[str, float]:
    """How fast the optimizer steps of an iteration were, in tokens a second and as MFU."""
    figures = {"tokens_per_second/update": work["tokens"] / seconds} if seconds else {}
    if work["flops"] is not None:
        share = utilization(work["flops"], seconds, work["device"], work["devices"])
        figures |= {} if share is None else {"mfu": share}
    return figures


def record(session: Session, iteration: int) -> dict[str, float]:
    """Put an iteration's row into the run's metrics and its trackers; the row."""
    run = session.run
    mine = row(run, iteration)
    table = _read(run.paths)
    others = table.filter(pc.not_equal(table["iteration"], iteration))
    _write(run.paths, pa.concat_tables([others, _table([mine])], promote_options="default"))
    for tracker in session.trackers:
        tracker.log(iteration, mine)
    return mine


def mend(run: Run) -> None:
    """Make again what the run's metrics lack of its finished iterations: the last one, if a kill
    came before its row, or all, if the file is damaged or was lost."""
    try:
        rows = read(run.paths)
    except ValueError:
        rows = []
    there = {int(one["iteration"]) for one in rows}
    lost = []
    for number in run.paths.iterations():
        if number not in there and _finished(run, number):
            with suppress(ValueError):  # a damaged stage is made again, and the row with it
                lost.append(row(run, number))
    if lost:
        write(run.paths, rows + lost)


def _finished(run: Run, iteration: int) -> bool:
    stage = "checkpoint" if iteration else "evaluate"
    return run.store.finished(stage, iteration) is not None


def write(paths: RunPaths, rows: list[dict[str, float]]) -> None:
    """Write the run's metrics, one row an iteration, with a seal."""
    _write(paths, _table(rows))


def _table(rows: list[dict[str, float]]) -> pa.Table:
    names = {name for one in rows for name in one} | {"iteration"}
    return pa.table(
        {name: pa.array([one.get(name) for one in rows], pa.float64()) for name in names}
    )


def _write(paths: RunPaths, table: pa.Table) -> None:
    held = [name for name in table.column_names if table[name].null_count < table.num_rows]
    names = ["iteration", *sorted(set(held) - {"iteration"})]
    table = table.select(names).sort_by("iteration")
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", use_dictionary=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"icpo.seal": UNSEALED})
    with atomic_path(paths.metrics, durable=False) as temporary:
        temporary.write_bytes(seal(buffer.getvalue().to_pybytes()))


def read(paths: RunPaths) -> list[dict[str, float]]:
    """Rows by iteration, without the figures that an iteration does not have.

    Raises ValueError if the file is damaged; the run makes it again from the stages.
    """
    return [
        {name: value for name, value in one.items() if value is not None}
        for one in _read(paths).to_pylist()
    ]


def _read(paths: RunPaths) -> pa.Table:
    if not paths.metrics.is_file():
        return _table([])
    data = paths.metrics.read_bytes()
    if not seal_fits(data):
        raise ValueError(
            f"{paths.metrics}: is not as it was written (its seal does not fit); the run makes it "
            "again from its stages when it goes on"
        )
    return read_bytes(data)
