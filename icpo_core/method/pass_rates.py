"""The running pass rate of each problem: how often its bare rollouts were right so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.grading.grade import VerdictStatus
from icpo_core.store.tables import Origin

NEWEST = 0.5
"""What the last iteration that had a problem counts; those before it share the rest alike."""
UNKNOWN = [VerdictStatus.timeout, VerdictStatus.error, VerdictStatus.abstained]


def of_iteration(verdicts: pa.Table) -> dict[str, float]:
    """Share of right ones among the bare rollouts of each problem that has a judged one."""
    bare = pc.and_(
        pc.equal(verdicts["origin"], Origin.ON_POLICY),
        pc.invert(pc.is_in(verdicts["status"], pa.array(UNKNOWN))),
    )
    mine = verdicts.filter(bare)
    right = pc.equal(mine["status"], VerdictStatus.correct).cast(pa.int32())
    table = pa.table({"name": mine["prompt_id"], "right": right})
    rates = table.group_by("name").aggregate([("right", "mean")])
    return dict(zip(rates["name"].to_pylist(), rates["right_mean"].to_pylist(), strict=True))


def running(iterations: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Of each problem that was sampled, by the rates of iterations, the oldest first."""
    found: dict[str, float] = {}
    for rates in iterations:
        for name, rate in rates.items():
            before = found.get(name, rate)
            found[name] = before + NEWEST * (rate - before)
    return found
