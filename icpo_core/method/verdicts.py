"""Stage `verify`: a verdict on every rollout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.common import plugins
from icpo_core.config import RewardSection, VerifySection
from icpo_core.grading.grade import Question, VerdictStatus
from icpo_core.grading.kept import Kept
from icpo_core.grading.pool import Judges
from icpo_core.grading.rewards import Judging, Reward, Rewards
from icpo_core.store import tables
from icpo_core.store.tables import EXTRA

FAILURES = (VerdictStatus.timeout, VerdictStatus.error)
PROBLEM = ("prompt_id", "problem", "answer", "source")
"""Columns of `prompts` that a verifier of one's own is given."""


def judging(
    verify: VerifySection, sources: Mapping[str, str], kept: Path | None = None
) -> Judges | Rewards:
    """Those who judge by a configuration. `sources`: `config.plugin_sources` of stage `verify`;
    `kept`: file of what trusted verifiers of one's own have found before."""
    if not verify.rewards:
        return _judges(verify, verify, sources.get("verify.verifier"), kept)
    return Rewards(
        [
            Reward(
                one.name,
                one.weight,
                _judges(verify, one, sources.get(f"verify.rewards.{one.name}"), kept),
            )
            for one in verify.rewards
        ]
    )


def _judges(
    verify: VerifySection,
    one: RewardSection | VerifySection,
    digest: str | None,
    kept: Path | None,
) -> Judges:
    def value(key: str) -> Any:
        own = getattr(one, key)
        return getattr(verify, key) if own is None else own

    limits = value("workers"), value("seconds"), value("memory_mb")
    given: dict[str, Any] = {"partial": verify.partial}
    if plugins.is_own(one.verifier):
        given |= {key: value(key) for key in ("trusted", "retries")}
        given |= {"digest": digest, "right_from": verify.right_from}
        if kept is not None and given["trusted"]:
            name = plugins.without_folder(one.verifier)
            given["kept"] = Kept(kept, (name, digest, one.version, verify.right_from))
    return Judges(*limits, verify.rules, one.verifier, **given)


def verdicts(
    prompts: pa.Table,
    rollouts: pa.Table,
    judges: Judging,
    on_progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Table `verdicts`, one row a rollout in the rollouts' order; a column `reward/NAME` for each
    part that rewards are made of.

    Raises ValueError, naming the problem, for a rollout of a problem that is not in `prompts`.
    """
    known = {row["prompt_id"]: row for row in prompts.select(PROBLEM).to_pylist()}
    extras = prompts[EXTRA].to_pylist() if EXTRA in prompts.column_names else [None] * len(known)
    for row, extra in zip(known.values(), extras, strict=True):
        row[EXTRA] = json.loads(extra or "{}")
    ids = rollouts["prompt_id"].to_pylist()
    if strangers := set(ids) - known.keys():
        raise ValueError(f"rollouts: problem {min(strangers)} is not among the prompts")
    questions = [
        Question(
            known[prompt_id]["answer"],
            response,
            finish == "length",
            {**known[prompt_id], "tokens": tokens},
        )
        for prompt_id, response, finish, tokens in zip(
            ids,
            rollouts["response"].to_pylist(),
            rollouts["finish_reason"].to_pylist(),
            pc.list_value_length(rollouts["response_ids"]).to_pylist(),
            strict=True,
        )
    ]
    found = judges.judge(questions, on_progress)
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
    made = pa.table(columns, schema=tables.TABLES["verdicts"])
    for name in sorted({name for one in found for name in one.parts}):
        values = pa.array([one.parts.get(name) for one in found], pa.float32())
        made = made.append_column(f"{tables.REWARD}{name}", values)
    return made


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
            "gold answers or the verifier, or raise verify.seconds"
        )


def changed(before: pa.Table, after: pa.Table) -> list[dict[str, Any]]:
    """Rows whose status or reward is another in `after`: the keys, gold, and status, reward, answer
    and detail of both, named `before` and `after`. A row that only one table has is no change."""
    keys = ("prompt_id", "sample_index", "origin")
    old = {tuple(row[key] for key in keys): row for row in before.to_pylist()}
    rows = []
    for new in after.to_pylist():
        was = old.get(tuple(new[key] for key in keys))
        if was is not None and any(was[name] != new[name] for name in ("status", "reward")):
            shown = ("status", "reward", "extracted", "detail")
            rows.append(
                {
                    **{key: new[key] for key in (*keys, "gold")},
                    "before": {name: was[name] for name in shown},
                    "after": {name: new[name] for name in shown},
                }
            )
    return rows
