"""Stage `verify`: a verdict on every rollout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.grading.grade import Question, VerdictStatus
from icpo_core.grading.pool import Judges
from icpo_core.store import tables

FAILURES = (VerdictStatus.timeout, VerdictStatus.error)


def verdicts(prompts: pa.Table, rollouts: pa.Table, judges: Judges) -> pa.Table:
    """Table `verdicts`, one row a rollout in the rollouts' order.

    Raises ValueError, naming the problem, for a rollout of a problem that is not in `prompts`.
    """
    gold = dict(zip(prompts["prompt_id"].to_pylist(), prompts["answer"].to_pylist(), strict=True))
    ids = rollouts["prompt_id"].to_pylist()
    if strangers := set(ids) - gold.keys():
        raise ValueError(f"rollouts: problem {min(strangers)} is not among the prompts")
    questions = [
        Question(gold[prompt_id], response, finish == "length")
        for prompt_id, response, finish in zip(
            ids,
            rollouts["response"].to_pylist(),
            rollouts["finish_reason"].to_pylist(),
            strict=True,
        )
    ]
    found = judges.judge(questions)
    columns = {
        "prompt_id": rollouts["prompt_id"],
        "sample_index": rollouts["sample_index"],
        "origin": rollouts["origin"],
        "reward": pa.array([one.reward for one in found], pa.float32()),
        "status": pa.array([one.status.value for one in found]),
        "extracted": pa.array([one.extracted for one in found], pa.string()),
        "gold": pa.array([one.gold for one in questions]),
        "seconds": pa.array([one.seconds for one in found], pa.float32()),
        "detail": pa.array([one.detail for one in found]),
    }
    return pa.table(columns, schema=tables.TABLES["verdicts"])


def judge_part(prompts: Path, part: Path, judges: Judges) -> tuple[str, pa.Table]:
    """The verdicts on one part of the rollouts, and the content digest of what was judged."""
    rollouts = tables.read("rollout", part)
    table = verdicts(tables.read("prompts", prompts), rollouts, judges)
    return tables.content_digest("rollout", rollouts), table


def failure_rate(table: pa.Table) -> float:
    """Share of rows that no judge came to a verdict on (`timeout`, `error`)."""
    if not table.num_rows:
        return 0.0
    failed = pc.is_in(table["status"], value_set=pa.array([status.value for status in FAILURES]))
    return float(pc.sum(failed).as_py() / table.num_rows)


def require_few_failures(table: pa.Table, limit: float, where: str) -> None:
    """Raise ValueError if more than `limit` of the verdicts failed: they would pass for wrong."""
    rate = failure_rate(table)
    if rate > limit:
        failed = table.filter(
            pc.is_in(table["status"], value_set=pa.array([status.value for status in FAILURES]))
        )
        raise ValueError(
            f"{where}: {failed.num_rows} of {table.num_rows} verdicts failed ({rate:.1%}, limit "
            f"verify.max_failure_rate = {limit:.1%}), the first: {failed['status'][0]} on gold "
            f"{failed['gold'][0]!s:.80} ({failed['detail'][0]!s:.80}); look at {where}, mend the "
            "gold answers, or raise verify.seconds"
        )


def changed(before: pa.Table, after: pa.Table) -> list[dict[str, Any]]:
    """Rows whose status is another in `after`: the keys, gold, and status, answer and detail of
    both, named `before` and `after`. A row that only one of the tables has is no change."""
    keys = ("prompt_id", "sample_index", "origin")
    old = {tuple(row[key] for key in keys): row for row in before.to_pylist()}
    rows = []
    for new in after.to_pylist():
        was = old.get(tuple(new[key] for key in keys))
        if was is not None and was["status"] != new["status"]:
            shown = ("status", "extracted", "detail")
            rows.append(
                {
                    **{key: new[key] for key in (*keys, "gold")},
                    "before": {name: was[name] for name in shown},
                    "after": {name: new[name] for name in shown},
                }
            )
    return rows
