"""Stage `select`: ERRS, RS and group advantages, as one function over tables.

IEF (implicit expert forcing) ends here: whatever prompt a rollout was sampled from, its row in the
batch carries the bare prompt. ERRS (expert region reject sampling) decides which expert rollouts
take part; RS adds the annealed bonus to their rewards; the advantage is relative to the mixed
group. The authors' released code has no reject sampling (`errs = "off"`).

What is chosen hangs on keys, verdicts and lengths alone (`choose`), so it takes little memory
however long the responses are; `tables_of` makes the tables, of all rollouts or of a part of them.

Legend: N rollouts, G groups (one a problem).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from icpo_core.common.annealing import gamma
from icpo_core.common.seeds import generator
from icpo_core.config import SelectSection
from icpo_core.method.advantages import advantages
from icpo_core.method.overlong import penalty
from icpo_core.method.rows import ORIGINS, Bools, Floats, Ints, Rows, join, outline
from icpo_core.store.tables import PLACE, TABLES, RejectReason

_REASONS = list(RejectReason)
_KEPT = -1  # in place of a reason
_SWITCHED = {
    RejectReason.TRUNCATED,
    RejectReason.NO_SIGNAL,
    RejectReason.SURPLUS,
    RejectReason.APART,
}
"""Reasons that only a switch brings."""


class Selection(NamedTuple):
    """What the update learns from, what it does not, and why."""

    batch: pa.Table
    rejects: pa.Table
    summary: dict[str, float]
    rows: Rows
    """All rollouts, as they were selected from."""
    apart_N: Bools
    """Experts that take no part in their group (`select.tuning_buffer`), in the order of `rows`."""


@dataclass(frozen=True)
class Choice:
    """What became of N rollouts, in the order of `rows`."""

    rows: Rows
    reason: Ints  # index into _REASONS, or _KEPT
    bonus: Floats
    shaped: Floats
    """Reward with bonus and length penalty."""
    advantage: Floats
    summary: dict[str, float]
    apart_N: Bools
    """Experts that take no part in their group (`select.tuning_buffer`)."""


def select(
    prompts: pa.Table,
    rollouts: pa.Table,
    verdicts: pa.Table,
    settings: SelectSection,
    iteration: int,
    seed: int,
    source: str | None = None,
    max_tokens: int | None = None,
    fill: int | None = None,
    prompt_ids: pa.ListArray | None = None,
) -> Selection:
    """Batch and rejects of one iteration (counted from 1), in an order free of sharding.

    Every rollout is in one of the two tables. `prompt_ids`: what each rollout is learned under
    (`contexts.prompt_ids`); None: the bare prompt. The rest as in `choose`.
    Raises ValueError as `choose`, and for a rollout that has not one logprob a token.
    """
    chosen = choose(
        prompts, outline(rollouts), verdicts, settings, iteration, seed, source, max_tokens, fill
    )
    batch, rejects = tables_of(chosen, prompts, rollouts, prompt_ids)
    assert batch.num_rows + rejects.num_rows == rollouts.num_rows
    return Selection(batch, rejects, chosen.summary, chosen.rows, chosen.apart_N)


def choose(
    prompts: pa.Table,
    outlines: pa.Table,
    verdicts: pa.Table,
    settings: SelectSection,
    iteration: int,
    seed: int,
    source: str | None = None,
    max_tokens: int | None = None,
    fill: int | None = None,
) -> Choice:
    """What becomes of each rollout of an iteration (counted from 1), by their `outline`.

    A rollout that no judge came to a verdict on (`timeout`, `error`, `abstained`) is unknown, not
    wrong: it is rejected and counts in no statistic.
    `source`: sha256 that the source of one's own estimator must have, where that is to be held.
    `max_tokens`: the longest response, which `select.truncated = shaped` measures its penalty from.
    `fill`: with `prompts.fill`, how many groups make a batch: the first that carry signal.
    Raises ValueError, naming the row, if keys are not unique, a rollout has no verdict or no
    prompt, or a verdict no rollout; if the estimator cannot be loaded or does not return one finite
    number a rollout; and if `max_tokens` is needed and absent.
    """
    rows = join(prompts, outlines, verdicts)
    reason_N = _reject(rows, prompts, settings, iteration, seed)
    carries_G = _signal(rows, reason_N, prompts.num_rows)
    takes_part_N = _counted(reason_N)
    if fill is not None:
        _leave_out(rows, carries_G, fill, reason_N)
    kept_N = reason_N == _KEPT

    factor = gamma(settings.bonus, iteration - 1, settings.horizon, settings.decay)
    accepted_N = ~rows.policy & (rows.reward >= delta(settings))
    bonus_N = settings.alpha * factor * (kept_N & accepted_N & rows.correct)
    on_reward = settings.bonus_on == "reward"
    shaped_N = rows.reward + bonus_N if on_reward else rows.reward
    penalty_N = np.zeros_like(shaped_N)
    if settings.truncated == "shaped":
        if max_tokens is None:
            raise ValueError("select.truncated = shaped needs rollout.max_tokens: pass max_tokens")
        penalty_N = penalty(rows.length, max_tokens, settings.overlong_tokens)
        shaped_N = shaped_N + penalty_N
    counted_N = _counted(reason_N)
    advantage_N = advantages(
        settings.advantage,
        shaped_N,
        rows.group,
        counted_N,
        expert_N=~rows.policy,
        tokens_N=rows.length,
        digest=source,
    )
    if not on_reward:
        advantage_N = advantage_N + bonus_N

    summary = _summary(rows, reason_N, takes_part_N, bonus_N, shaped_N, settings)
    summary["bonus/gamma"] = factor
    # What only a switch brings is told of only where it is on: a run that an earlier version began
    # goes on with the same summaries, to the byte.
    if settings.bonus != "off":
        summary |= _of_bonus(rows, kept_N, counted_N, advantage_N)
    if fill is not None:
        for reason in (RejectReason.NO_SIGNAL, RejectReason.SURPLUS):
            summary[f"rejects/{reason}"] = int((reason_N == _REASONS.index(reason)).sum())
        summary["fill/signal"] = int(carries_G.sum())
        summary["fill/missing"] = max(0, fill - int(carries_G.sum()))
    if settings.truncated != "wrong":
        summary |= _overlong(rows, reason_N, counted_N, penalty_N, settings)
    apart_N: Bools = reason_N == _REASONS.index(RejectReason.APART)
    if settings.tuning_buffer:
        summary[f"rejects/{RejectReason.APART}"] = int(apart_N.sum())
    return Choice(rows, reason_N, bonus_N, shaped_N, advantage_N, summary, apart_N)


def tables_of(
    chosen: Choice,
    prompts: pa.Table,
    rollouts: pa.Table,
    prompt_ids: pa.ListArray | None = None,
    first: int | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Batch and rejects of the rollouts that were chosen from, or of a part of them.

    `first`: row of the part's first rollout among all; None: these are all. The batch of a part has
    a column `place` beside those of the whole.
    """
    rows, start = chosen.rows, first or 0
    mine_N = (rows.take >= start) & (rows.take < start + rollouts.num_rows)
    kept_N, gone_N = mine_N & (chosen.reason == _KEPT), mine_N & (chosen.reason != _KEPT)
    take = pa.array(rows.take[kept_N] - start)
    groups = pa.array(rows.group[kept_N])
    keys = rollouts.select(["prompt_id", "sample_index", "origin"])
    batch = _table(
        "batch",
        keys.take(take),
        prompt_ids=prompts["policy_prompt_ids"].take(groups)
        if prompt_ids is None
        else prompt_ids.take(take),
        response_ids=rollouts["response_ids"].take(take),
        behaviour_logprobs=rollouts["logprobs"].take(take),
        reward=rows.reward[kept_N],
        bonus=chosen.bonus[kept_N],
        shaped_reward=chosen.shaped[kept_N],
        advantage=chosen.advantage[kept_N],
    )
    if first is not None:
        batch = batch.append_column(PLACE, groups.cast(pa.int32()))
    rejects = _table(
        "rejects",
        keys.take(rows.take[gone_N] - start),
        reward=rows.reward[gone_N],
        reason=pa.array([reason.value for reason in _REASONS]).take(chosen.reason[gone_N]),
    )
    return batch, rejects


def signal(
    prompts: pa.Table,
    outlines: pa.Table,
    verdicts: pa.Table,
    settings: SelectSection,
    iteration: int,
    seed: int,
) -> Bools:
    """Which groups carry signal, (G,): the rewards of those who take part are not all equal.

    Rewards are those before bonus and length penalty, as in DAPO, whose filter looks at accuracy.
    Raises ValueError as `choose`.
    """
    rows = join(prompts, outlines, verdicts)
    return _signal(rows, _reject(rows, prompts, settings, iteration, seed), prompts.num_rows)


def _counted(reason_N: Ints) -> Bools:
    """Who counts in the group's statistics."""
    counted_N: Bools = (reason_N == _KEPT) | (reason_N == _REASONS.index(RejectReason.MASKED))
    return counted_N


def _signal(rows: Rows, reason_N: Ints, groups: int) -> Bools:
    counted_N = _counted(reason_N)
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low, rows.group[counted_N], rows.reward[counted_N])
    np.maximum.at(high, rows.group[counted_N], rows.reward[counted_N])
    carries_G: Bools = low < high
    return carries_G


def _leave_out(rows: Rows, carries_G: Bools, fill: int, reason_N: Ints) -> None:
    """Dynamic sampling. Marks `reason_N` of all groups but the first `fill` with signal."""
    kept_N = reason_N == _KEPT
    surplus_G = carries_G & (np.cumsum(carries_G) > fill)
    reason_N[kept_N & ~carries_G[rows.group]] = _REASONS.index(RejectReason.NO_SIGNAL)
    reason_N[kept_N & surplus_G[rows.group]] = _REASONS.index(RejectReason.SURPLUS)


def _reject(
    rows: Rows, prompts: pa.Table, settings: SelectSection, iteration: int, seed: int
) -> Ints:
    """Index into _REASONS of every rollout, or _KEPT."""
    reason_N = np.full(len(rows.take), _KEPT, dtype=np.int64)
    reason_N[~rows.known] = _REASONS.index(RejectReason.UNJUDGED)
    reason_N[rows.empty] = _REASONS.index(RejectReason.EMPTY)
    if settings.truncated == "drop":
        reason_N[rows.truncated & (reason_N == _KEPT)] = _REASONS.index(RejectReason.TRUNCATED)
    if settings.errs != "off":
        _reject_experts(rows, prompts, settings, reason_N, iteration, seed)
    if settings.tuning_buffer:
        reason_N[~rows.policy & (reason_N == _KEPT)] = _REASONS.index(RejectReason.APART)
    if settings.truncated == "mask":
        reason_N[rows.truncated & (reason_N == _KEPT)] = _REASONS.index(RejectReason.MASKED)
    return reason_N


def _reject_experts(
    rows: Rows,
    prompts: pa.Table,
    settings: SelectSection,
    reason_N: Ints,
    iteration: int,
    seed: int,
) -> None:
    """ERRS. Marks `reason_N` in place."""
    usable_N = reason_N == _KEPT
    below_N = usable_N & ~rows.policy & (rows.reward < delta(settings))
    why = RejectReason.MASKED if settings.errs == "mask" else RejectReason.BELOW_DELTA
    reason_N[below_N] = _REASONS.index(why)
    if settings.errs == "replace":
        accepted_N = usable_N & ~rows.policy & ~below_N
        _replace(rows, prompts, usable_N & rows.policy, accepted_N, reason_N, iteration, seed)


def delta(settings: SelectSection) -> float:
    """δ in the precision that rewards are stored in: 0.9 must not exceed a reward of 0.9."""
    return float(np.float32(settings.delta))


def _replace(
    rows: Rows,
    prompts: pa.Table,
    policy_N: Bools,
    accepted_N: Bools,
    reason_N: Ints,
    iteration: int,
    seed: int,
) -> None:
    """Algorithm 1 of the paper: an accepted expert rollout displaces a random on-policy one.

    A group keeps as many rollouts as it had usable on-policy ones. Marks `reason_N` in place.
    """
    for group in np.unique(rows.group[accepted_N]):
        first, last = np.searchsorted(rows.group, [group, group + 1])
        experts = first + np.flatnonzero(accepted_N[first:last])
        places = first + np.flatnonzero(policy_N[first:last])
        count = min(len(experts), len(places))
        prompt_id = prompts["prompt_id"][int(group)].as_py()
        chosen = generator(seed, "errs", iteration, prompt_id).permutation(len(places))[:count]
        reason_N[places[chosen]] = _REASONS.index(RejectReason.REPLACED)
        reason_N[experts[count:]] = _REASONS.index(RejectReason.SPARE_EXPERT)


def _table(name: str, keys: pa.Table, **columns: Any) -> pa.Table:
    """Table of the contract from its key columns and the others."""
    schema = TABLES[name]
    arrays = []
    for column in schema:
        values = columns.get(column.name)
        if values is None:
            values = keys[column.name]
        if isinstance(values, np.ndarray):
            values = pa.array(values).cast(column.type)
        elif values.type != column.type:
            values = values.cast(column.type)
        arrays.append(values)
    return pa.Table.from_arrays(arrays, schema=schema)


def _summary(
    rows: Rows,
    reason_N: Ints,
    counted_N: Bools,
    bonus_N: Floats,
    shaped_N: Floats,
    settings: SelectSection,
) -> dict[str, float]:
    """Counts and means; a mean over nothing is left out. Rewards are those before the bonus."""
    kept_N, groups = reason_N == _KEPT, int(rows.group.max(initial=-1)) + 1
    judged_N = rows.known & ~rows.empty
    expert_N = judged_N & ~rows.policy
    accepted_N = expert_N & (rows.reward >= delta(settings))

    def per_group(mask_N: Bools) -> Ints:
        return np.bincount(rows.group[mask_N], minlength=groups)

    sampled, members = per_group(np.ones_like(kept_N)), per_group(counted_N)
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low, rows.group[counted_N], shaped_N[counted_N])
    np.maximum.at(high, rows.group[counted_N], shaped_N[counted_N])
    right_N = judged_N & rows.correct
    policy_judged = per_group(judged_N & rows.policy)
    policy_right = per_group(right_N & rows.policy)
    wrong = (policy_judged > 0) & (policy_right == 0)

    summary: dict[str, float] = {
        "rows/rollouts": len(reason_N),
        "rows/batch": int(kept_N.sum()),
        "rows/rejects": int((~kept_N).sum()),
        "errs/candidates": int(expert_N.sum()),
        "errs/accepted": int(accepted_N.sum()),
        "bonus/rows": int((bonus_N > 0).sum()),
        "groups/all": int((sampled > 0).sum()),
        "groups/zero_variance": int(((members > 1) & (low == high)).sum()),
        "groups/one_member": int((members == 1).sum()),
        "groups/no_member": int(((sampled > 0) & (members == 0)).sum()),
        "groups/all_wrong": int(wrong.sum()),
        "groups/all_right": int(((policy_judged > 0) & (policy_right == policy_judged)).sum()),
        # Groups that GRPO would learn nothing from: all on-policy wrong, an expert right.
        "flips": int((wrong & (per_group(right_N & ~rows.policy) > 0)).sum()),
    }
    for index, reason in enumerate(_REASONS):
        if reason in _SWITCHED:
            continue
        summary[f"rejects/{reason}"] = int((reason_N == index).sum())
    if expert_N.any():
        summary["errs/acceptance"] = float(accepted_N.sum() / expert_N.sum())
    if kept_N.any():
        summary["bonus/mean"] = float(bonus_N[kept_N].mean())
    for index, origin in enumerate(ORIGINS):
        mine_N = judged_N & (rows.origin == index)
        if mine_N.any():
            summary[f"reward/{origin}"] = float(rows.reward[mine_N].mean())
    return summary


def _of_bonus(rows: Rows, kept_N: Bools, counted_N: Bools, advantage_N: Floats) -> dict[str, float]:
    """Where the signal lies: what RS does to right rows, and to groups with nothing wrong in them.

    `bonus/pushed_down` counts right rows of the batch with A < 0. `advantage/solved_share`, absent
    without any signal: the share of the sum of |A| over tokens in groups where all that counts is
    right.
    """
    pushed_N = kept_N & rows.correct & (advantage_N < 0)
    figures: dict[str, float] = {"bonus/pushed_down": int(pushed_N.sum())}
    weight_N = np.abs(advantage_N) * rows.length * kept_N
    if weight_N.any():
        wrong_N = counted_N & ~rows.correct
        wrong = np.bincount(rows.group[wrong_N], minlength=int(rows.group.max()) + 1)
        share = weight_N[wrong[rows.group] == 0].sum() / weight_N.sum()
        figures["advantage/solved_share"] = float(share)
    return figures


def _overlong(
    rows: Rows, reason_N: Ints, counted_N: Bools, penalty_N: Floats, settings: SelectSection
) -> dict[str, float]:
    """What became of rollouts that were cut off."""
    kept_N = reason_N == _KEPT
    figures: dict[str, float] = {
        "rejects/truncated": int((reason_N == _REASONS.index(RejectReason.TRUNCATED)).sum()),
        "overlong/truncated": int(rows.truncated.sum()),
        "overlong/right": int((rows.truncated & rows.known & rows.correct).sum()),
        "overlong/masked": 0,
    }
    if settings.truncated == "mask":
        figures["overlong/masked"] = int((rows.truncated & counted_N & ~kept_N).sum())
    if settings.truncated == "shaped":
        figures["overlong/penalised"] = int((kept_N & (penalty_N < 0)).sum())
        if kept_N.any():
            figures["overlong/penalty"] = float(penalty_N[kept_N].mean())
    return figures
