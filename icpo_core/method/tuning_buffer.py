"""What the policy cannot solve waits for a step of fine-tuning (ReLIFT, `select.tuning_buffer`).

An expert rollout, or a trace, has no part in its group then. If no bare rollout of the group is
right, it joins the buffer; when enough have, the first of them are the step's rows, the oldest
first, and the rest goes on waiting. So a buffer hangs on the one before it and on this iteration's
rollouts, and is stored beside the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.method.selection import Choice, Selection
from icpo_core.store.tables import TABLES


class Buffer(NamedTuple):
    """Both of table "tuning"."""

    taken: pa.Table
    """Rows of this iteration's step of fine-tuning; none while there are too few."""
    waiting: pa.Table
    summary: dict[str, float]


def joined(
    prompts: pa.Table,
    rollouts: pa.Table,
    selection: Selection | Choice,
    iteration: int,
    first: int = 0,
) -> pa.Table:
    """Table "tuning": of each group that has no right bare rollout, the first rollout that was set
    apart, behind the bare prompt. A group with a bare rollout that nobody judged is not known to
    be unsolved.

    Of all rollouts, or of a part of them whose first row is row `first` of all.
    """
    rows = selection.rows
    found: dict[int, int] = {}
    unsolved = set(rows.group[rows.policy].tolist())
    unsolved -= set(rows.group[rows.policy & (rows.correct | ~rows.known)].tolist())
    for place in selection.apart_N.nonzero()[0].tolist():
        group = int(rows.group[place])
        if group in unsolved:
            found.setdefault(group, int(rows.take[place]) - first)
    found = {group: row for group, row in found.items() if 0 <= row < rollouts.num_rows}
    take = pa.array(list(found.values()), pa.int64())
    columns = {
        "iteration": pa.array([iteration] * len(found), pa.int32()),
        "prompt_ids": prompts["policy_prompt_ids"].take(pa.array(list(found), pa.int64())),
    }
    return pa.table(
        {
            name: columns[name] if name in columns else rollouts[name].take(take)
            for name in TABLES["tuning"].names
        },
        schema=TABLES["tuning"],
    )


def in_order(prompts: pa.Table, parts: list[pa.Table]) -> pa.Table:
    """What joined from the parts of an iteration, in the order of its problems."""
    whole = pa.concat_tables(parts)
    places = pc.index_in(whole["prompt_id"], prompts["prompt_id"].combine_chunks())
    return whole.take(pc.sort_indices(places))


def fill(waiting: pa.Table | None, news: pa.Table, size: int) -> Buffer:
    """What waited and what joined, in that order: the step's rows if there are `size`, and the
    rest. `waiting`: None in the first iteration."""
    whole = news if waiting is None else pa.concat_tables([waiting, news])
    count = size if whole.num_rows >= size else 0
    summary = {"tuning/joined": news.num_rows, "tuning/waiting": whole.num_rows - count}
    return Buffer(whole[:count], whole[count:], summary)
