"""Partial rollouts: a response is cut after some tokens and goes on in the next iteration.

A group of which a response goes on is `unfinished`: all its rows wait beside the iteration's part,
and the next iteration takes them over. Every row says which policy sampled which of its tokens, and
its logprobs are those of whoever sampled them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.store import tables
from icpo_core.store.paths import UNFINISHED
from icpo_core.store.tables import SEGMENTS, Origin
from icpo_core.workers.jobs import Rollout

Row = dict[str, Any]
GOES_ON = "unfinished"
"""As `finish_reason`: it was cut, and goes on."""


def begun(job: Rollout, names: Iterable[str]) -> dict[str, list[Row]]:
    """What the iteration before left of some problems, by problem. Raises ValueError for a row that
    no iteration leaves: a run may be somebody else's."""
    wanted, found = pa.array(list(names), pa.string()), dict[str, list[Row]]()
    for path in job.begun:
        part = tables.read(UNFINISHED, path)
        for row in part.filter(pc.is_in(part["prompt_id"], wanted)).to_pylist():
            if not _whole(row, job):
                raise ValueError(
                    f"{path}: rollout {row['sample_index']} of problem {row['prompt_id']} is not "
                    "as an iteration leaves it; make that iteration's rollouts again: `icpo stage "
                    f"rollout RUN --iteration {job.iteration - 1} --force`"
                )
            found.setdefault(row["prompt_id"], []).append(row)
    return found


def _whole(row: Row, job: Rollout) -> bool:
    """Whether each token has its logprob and is in a segment, and one that goes on was cut where
    this run cuts."""
    tokens, segments = len(row["response_ids"]), row.get(SEGMENTS)
    goes_on: bool = row["finish_reason"] == GOES_ON
    if row["origin"] == Origin.TRACE:
        return not goes_on
    if row["logprobs"] is None or len(row["logprobs"]) != tokens or segments is None:
        return False
    cut = tokens % job.partial_tokens == 0 and 0 < tokens < job.max_tokens
    named: int = sum(one["tokens"] for one in segments)
    return named == tokens and (cut or not goes_on)


def shown(prompt: Row, row: Row) -> list[int]:
    """What the engine is asked to go on from: the prompt, and what is there of the response."""
    expert = row["origin"] == Origin.EXPERT
    ids: list[int] = prompt["expert_prompt_ids" if expert else "policy_prompt_ids"]
    return [*ids, *row["response_ids"]]


def joined(
    rows: list[Row], before: dict[tuple[str, int], Row], job: Rollout, tokenizer: Any
) -> None:
    """Put what was sampled now behind what was there, in place, and say who sampled what.

    before: by problem and `sample_index`.
    """
    for row in rows:
        segment = {"iteration": job.iteration, "policy": job.policy}
        row[SEGMENTS] = [{**segment, "tokens": len(row["response_ids"])}]
        old = before.get((row["prompt_id"], row["sample_index"]))
        if old is not None and row["finish_reason"] != "error":
            row[SEGMENTS] = old[SEGMENTS] + row[SEGMENTS]
            row["response_ids"] = old["response_ids"] + row["response_ids"]
            row["logprobs"] = old["logprobs"] + row["logprobs"]
            row["response"] = tokenizer.decode(row["response_ids"], skip_special_tokens=True)
        if row["finish_reason"] == "length" and len(row["response_ids"]) < job.max_tokens:
            row["finish_reason"] = GOES_ON


def parted(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Rows of groups that have ended, and of those that go on."""
    open_ = {row["prompt_id"] for row in rows if row["finish_reason"] == GOES_ON}
    ended = [row for row in rows if row["prompt_id"] not in open_]
    return ended, [row for row in rows if row["prompt_id"] in open_]


def table(name: str, rows: list[Row]) -> pa.Table:
    """Rows with their segments as table `rollout` or `unfinished`; traces have none."""
    field = tables.MORE[name][SEGMENTS]
    segments = pa.array([row.get(SEGMENTS, []) for row in rows], field.type)
    plain = [{key: row[key] for key in row if key != SEGMENTS} for row in rows]
    return tables.table(name, plain).append_column(field, segments)
