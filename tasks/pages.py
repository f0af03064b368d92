"""The tables and texts of an iteration's artifacts, from its stored Parquet.

Only the columns and rows that are shown are read: a batch at the paper's size has gigabytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icpo_core.common.text import block, code
from icpo_core.run import timeline
from icpo_core.run.stages import STAGES
from icpo_core.store import manifest
from icpo_core.store.paths import RunPaths, pattern_of
from icpo_core.store.store import Store
from icpo_core.store.tables import REWARD, RejectReason
from icpo_core.views.rollouts import parts as parts_of

LONGEST = 3000
"""Characters of a prompt or response that are shown."""
KEYS = ["prompt_id", "sample_index", "origin"]
CHUNK_ROWS = 256
BAR = 40
"""Characters of a bar in the timeline."""
SPANS = 200
"""Rows of the timeline."""

Key = tuple[str, int, str]


def by_origin(
    paths: RunPaths, iteration: int, figures: Mapping[str, float]
) -> list[dict[str, Any]]:
    """A row an origin: rollouts, how many are in the batch, mean reward, bonus, advantage, tokens.

    figures: the iteration's row of `icpo_core.run.metrics`.
    """
    batch = _selected(paths, iteration, "batch", ["origin", "reward", "bonus", "advantage"])
    rejects = _selected(paths, iteration, "rejects", ["origin", "reward"])
    rows = []
    for origin in sorted(set(batch["origin"].to_pylist() + rejects["origin"].to_pylist())):
        kept = batch.filter(pc.equal(batch["origin"], origin))
        gone = rejects.filter(pc.equal(rejects["origin"], origin))
        rewards = pa.chunked_array([*kept["reward"].chunks, *gone["reward"].chunks], pa.float32())
        rows.append(
            {
                "origin": word(origin),
                "rollouts": kept.num_rows + gone.num_rows,
                "in batch": kept.num_rows,
                "rejected": gone.num_rows,
                "reward": _mean(rewards),
                "bonus": _mean(kept["bonus"]),
                "advantage": _mean(kept["advantage"]),
                "tokens": _rounded(figures.get(f"length/{origin}")),
            }
        )
    return rows


def rollouts(paths: RunPaths, iteration: int) -> str:
    """Markdown: the rollout that favoured most, the one favoured least, a rejected one."""
    batch = _selected(paths, iteration, "batch", [*KEYS, "reward", "advantage"])
    rejects = _selected(paths, iteration, "rejects", [*KEYS, "reward", "reason"])
    chosen: list[tuple[str, dict[str, Any]]] = []
    if batch.num_rows:
        order = batch.sort_by([("advantage", "descending"), *((key, "ascending") for key in KEYS)])
        chosen.append(("Best: highest advantage", order.slice(0, 1).to_pylist()[0]))
        chosen.append(("Worst: lowest advantage", order.slice(order.num_rows - 1).to_pylist()[0]))
    wrong = rejects.filter(pc.equal(rejects["reason"], RejectReason.BELOW_DELTA.value))
    for table in (wrong, rejects):
        if table.num_rows:
            row = table.slice(0, 1).to_pylist()[0]
            chosen.append((f"Rejected: {word(row['reason']).replace('_', ' ')}", row))
            break
    keys = {_key(row) for _, row in chosen}
    said = _found(_parts(paths, "rollout", iteration), keys, ["response", "finish_reason"])
    judged = _found(
        _parts(paths, "verify", iteration), keys, ["status", "extracted", "gold"], REWARD
    )
    asked = _problems(paths, iteration, {row["prompt_id"] for _, row in chosen})
    sections = [f"# Iteration {iteration}"]
    for title, row in chosen:
        key = _key(row)
        verdict = judged.get(key, {})
        advantage = f", advantage {row['advantage']:+.3f}" if "advantage" in row else ""
        sections += [
            f"## {title}",
            f"{code(row['origin'])} rollout {row['sample_index']} of problem "
            f"{code(row['prompt_id'])}: **{word(verdict.get('status', 'unjudged'))}**, "
            f"reward {row['reward']:g}{_made_of(verdict)}{advantage}",
            f"Answer {_code(verdict.get('extracted'))}, right is {_code(verdict.get('gold'))}",
            "Problem",
            block(asked.get(row["prompt_id"], ""), LONGEST),
            "Response",
            block(said.get(key, {}).get("response", ""), LONGEST),
        ]
    return "\n\n".join(sections)


def timeline_of(store: Store, iteration: int) -> str:
    """Markdown: what ran when in an iteration, and how long nothing ran before each stage."""
    found = timeline.manifests(store, iteration)
    spans = timeline.spans(found)
    if not spans:
        return "Nothing is made yet."
    gaps = timeline.gaps(found, timeline.manifests(store, iteration - 1) if iteration else [])
    begin = min(one.started for one in spans)
    length = max(one.ended for one in spans) - begin or 1.0
    lines = [
        "| who | what | began, s | took, s | idle before, s | |",
        "|---|---|---:|---:|---:|---|",
    ]
    for one in spans[:SPANS]:
        first = min(BAR - 1, int(BAR * (one.started - begin) / length))
        count = max(1, round(BAR * one.seconds / length))
        bar = ("\u00b7" * first + "\u2588" * count)[:BAR].ljust(BAR, "\u00b7")
        idle = f"{gaps[one.name]:.2f}" if one.lane == timeline.FLOW and one.name in gaps else ""
        lines.append(
            f"| {code(one.lane, True)} | {code(one.name, True)} | {one.started - begin:.2f} "
            f"| {one.seconds:.2f} | {idle} | `{bar}` |"
        )
    return "\n".join(lines)


def files(paths: RunPaths, iteration: int) -> str:
    """Markdown table of the iteration's files, as its manifests record them."""
    lines = ["| stage | file | rows | bytes | sha256 |", "|---|---|---:|---:|---|"]
    for stage in STAGES:
        found = manifest.read(paths.manifest(stage, iteration))
        if found is None:
            continue
        folder = paths.stage(stage, iteration).resolve()
        for record in found.files:
            rows = "" if record.rows is None else f"{record.rows:,}"
            link = f"[{code(record.name, True)}]({(folder / record.name).as_uri()})"
            lines.append(
                f"| {stage} | {link} | {rows} | {record.bytes:,} "
                f"| {code(record.sha256[:12], True)} |"
            )
    return "\n".join([f"Below {code(paths.iteration(iteration).resolve())}", "", *lines])


def _read(path: Path, columns: list[str]) -> pa.Table:
    return pq.read_table(path, columns=columns, partitioning=None)


def _selected(paths: RunPaths, iteration: int, table: str, columns: list[str]) -> pa.Table:
    parts = sorted(paths.stage("select", iteration).glob(pattern_of(table)))
    return pa.concat_tables([_read(path, columns) for path in parts])


def _parts(paths: RunPaths, stage: str, iteration: int) -> list[Path]:
    return sorted(paths.stage(stage, iteration).glob("*.parquet"))


def _key(row: dict[str, Any]) -> Key:
    return row["prompt_id"], row["sample_index"], row["origin"]


def _made_of(verdict: dict[str, Any]) -> str:
    parts = parts_of(verdict)
    said = (f"{word(n)} {'abstains' if v is None else f'{v:g}'}" for n, v in parts.items())
    return f" ({', '.join(said)})" if parts else ""


def _found(
    parts: Iterable[Path], keys: set[Key], columns: list[str], prefix: str | None = None
) -> dict[Key, dict[str, Any]]:
    """The rows of some keys, read in chunks until all are found; with the columns whose names
    begin with `prefix`."""
    found: dict[Key, dict[str, Any]] = {}
    for path in parts:
        file = pq.ParquetFile(path)
        more = [n for n in file.schema_arrow.names if prefix is not None and n.startswith(prefix)]
        for chunk in file.iter_batches(CHUNK_ROWS, columns=[*KEYS, *columns, *more]):
            places = zip(*(chunk.column(name).to_pylist() for name in KEYS), strict=True)
            for place, key in enumerate(places):
                if key in keys:
                    found[key] = chunk.slice(place, 1).to_pylist()[0]
            if len(found) == len(keys):
                return found
    return found


def _problems(paths: RunPaths, iteration: int, ids: set[str]) -> dict[str, str]:
    path = paths.stage("prompts", iteration) / "prompts.parquet"
    rows = _read(path, ["prompt_id", "problem"]).to_pylist()
    return {row["prompt_id"]: row["problem"] for row in rows if row["prompt_id"] in ids}


def _mean(column: pa.ChunkedArray) -> float | None:
    return _rounded(pc.mean(column).as_py())


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 4)


def word(text: str) -> str:
    """A status or a reason, as a word; anything else, from a run of others, as code."""
    return text if re.fullmatch("[a-z_]{1,40}", text) else code(text)


def _code(text: str | None) -> str:
    return "none" if text is None else code(text)
