"""The teacher's pass of self-distillation: what it says of each token of the bare rollouts.

The teacher reads the response behind a prompt of its own (table `lessons`) and learns nothing.
What it says is stored (table `teacher`), so that the term can be changed and only the update
rerun.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor

from icpo_core.store import tables
from icpo_core.store.tables import Origin
from icpo_core.trainer.microbatches import Row, lists, plan
from icpo_core.workers.jobs import Taught, Teach

if TYPE_CHECKING:
    from icpo_core.trainer.trainer import Trainer

Forward = Callable[..., tuple[Tensor, ...]]
"""As `Policy.forward`."""


def read(parts: Sequence[Path]) -> pa.Table:
    """Table `teacher`, out of its parts."""
    return pa.concat_tables([tables.read("teacher", path) for path in parts])


@torch.no_grad()
def teach(trainer: Trainer, job: Teach, forward: Forward, replayed: list[int]) -> Taught:
    """Write a part of table `teacher`; every rank takes a share of its rows."""
    keys, rows = _rows(job)
    mine: dict[int, list[Any]] = {}
    shares = plan(rows, trainer.settings.token_budget, trainer.ranks, trainer.layout)
    for members in shares[trainer.rank]:
        micro = trainer._collate([rows[i] for i in members])
        found = forward(**micro.inputs, entropy=False, top=job.top_k)
        *top, logprobs_N, _ = (values.cpu() for values in found)
        if not members:  # this rank's turn, for the others' sake
            continue
        sizes = [len(rows[i].response_ids) for i in members]
        for at, values in enumerate((logprobs_N, *top)):
            for index, part in zip(members, values.split(sizes), strict=True):
                mine.setdefault(index, []).insert(at, part.flatten().tolist())
    everyone: list[Any] = [mine]
    if trainer.ranks > 1:
        everyone = [None] * trainer.ranks
        dist.all_gather_object(everyone, mine)
    said = {index: values for one in everyone for index, values in one.items()}
    made = [
        key | dict(zip(("logprobs", "top_ids", "top_logprobs"), [*said[i], [], []], strict=False))
        for i, key in enumerate(keys)
    ]
    written = tables.Written("")
    if trainer.rank == 0:
        table = tables.table("teacher", made)
        written = tables.write("teacher", table, job.out, job.fingerprint)
    return Taught(
        rows=len(rows), sha256=written.sha256, content=written.content or "", replayed=replayed
    )


def _rows(job: Teach) -> tuple[list[dict[str, Any]], list[Row]]:
    """Keys of the bare rollouts that there is a lesson for, and the rows that the teacher reads."""
    lessons = tables.read("lessons", job.lessons)
    shown = dict(zip(lessons["prompt_id"].to_pylist(), lists(lessons["prompt_ids"]), strict=True))
    part = tables.read("rollout", job.rollouts)
    columns = part.select(["prompt_id", "sample_index", "origin"]).to_pylist()
    keys, rows = [], []
    for key, response in zip(columns, lists(part["response_ids"]), strict=True):
        prompt = shown.get(key["prompt_id"])
        assert response is not None
        if key["origin"] == Origin.ON_POLICY and prompt is not None and len(response):
            keys.append(key)
            rows.append(Row(prompt, response))
    return keys, rows
