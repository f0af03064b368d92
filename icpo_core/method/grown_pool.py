"""A pool of demonstrations that grows: right rollouts of other problems join it (`prompts.pool`).

What joined is named after what it came from, `PROBLEM@it-0003/5`: problem, iteration and
`sample_index`, so that the stored rollouts say the rest of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pyarrow as pa

from icpo_core.grading.grade import VerdictStatus
from icpo_core.store.tables import TABLES, Origin

Pool = Literal["fixed", "expert", "bare", "all"]
ORIGINS = {
    "expert": (Origin.EXPERT,),
    "bare": (Origin.ON_POLICY,),
    "all": (Origin.EXPERT, Origin.ON_POLICY),
}
COLUMNS = ["prompt_id", "sample_index", "origin", "response", "finish_reason"]
"""Of the rollouts."""


def joined(
    prompts: pa.Table, rollouts: pa.Table, verdicts: pa.Table, iteration: int, pool: Pool
) -> pa.Table:
    """What joins from an iteration, table "problems": of each problem the first right rollout that
    ended by itself, an expert one before a bare one."""
    origins = ORIGINS[pool]
    right = {
        (row["prompt_id"], row["sample_index"])
        for row in verdicts.select(["prompt_id", "sample_index", "status"]).to_pylist()
        if row["status"] == VerdictStatus.correct
    }
    found: dict[str, tuple[tuple[int, int], str]] = {}
    for row in rollouts.select(COLUMNS).to_pylist():
        name, index = row["prompt_id"], row["sample_index"]
        ends = row["finish_reason"] == "stop" and row["response"].strip()
        if row["origin"] in origins and ends and (name, index) in right:
            mine = (origins.index(row["origin"]), index), row["response"].strip()
            found[name] = min(found.get(name, mine), mine)
    rows = [
        {
            "id": f"{row['prompt_id']}@it-{iteration:04d}/{found[row['prompt_id']][0][1]}",
            "problem": row["problem"],
            "answer": row["answer"],
            "solution": found[row["prompt_id"]][1],
            "source": row["source"],
        }
        for row in prompts.select(["prompt_id", "problem", "answer", "source"]).to_pylist()
        if row["prompt_id"] in found
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["problems"])


def newest(iterations: Iterable[pa.Table]) -> pa.Table:
    """All that joined in some iterations, the oldest first: of a problem only what came last."""
    found = {row["problem"]: row for table in iterations for row in table.to_pylist()}
    return pa.Table.from_pylist(list(found.values()), schema=TABLES["problems"])
