"""Rollouts of an iteration as numbers: what they are chosen by, and nothing of what they say.

A row of `Rows` is a rollout with its verdict, in order of prompts, origins and sample indices. It
takes little memory however long the responses are.

Legend: N rollouts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.grading.grade import VerdictStatus
from icpo_core.store.tables import Origin

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ORIGINS = list(Origin)
UNKNOWN = [VerdictStatus.timeout.value, VerdictStatus.error.value, VerdictStatus.abstained.value]
"""Verdicts by which nobody knows whether a rollout is right."""
OUTLINE = ["prompt_id", "sample_index", "origin", "finish_reason"]
OUTLINED = [*OUTLINE, "response_ids", "logprobs"]
"""Columns of a rollout that its `outline` is made from."""


@dataclass(frozen=True)
class Rows:
    """N rollouts in order of prompts, origins and sample indices, with their verdicts."""

    take: Ints  # row in the rollout table
    group: Ints  # row in the prompts table
    origin: Ints  # index into ORIGINS
    reward: Floats
    correct: Bools
    known: Bools  # the judge came to a verdict
    length: Ints  # tokens of the response
    truncated: Bools  # it was cut off at the token limit

    @property
    def empty(self) -> Bools:
        empty_N: Bools = self.length == 0
        return empty_N

    @property
    def policy(self) -> Bools:
        policy_N: Bools = self.origin == ORIGINS.index(Origin.ON_POLICY)
        return policy_N


def outline(rollouts: pa.Table) -> pa.Table:
    """What rollouts are chosen by: keys, how they ended, and `tokens`, the length of each.

    Raises ValueError, naming the row, if one has not one logprob a token.
    """
    _check_logprobs(rollouts)
    lengths = pc.list_value_length(rollouts["response_ids"])
    return rollouts.select(OUTLINE).append_column("tokens", lengths)


def join(prompts: pa.Table, outlines: pa.Table, verdicts: pa.Table) -> Rows:
    """Rollouts, by their `outline`, and verdicts by (prompt_id, sample_index, origin), in order of
    those keys.

    Raises ValueError, naming the row, if the keys of the three tables do not fit together.
    """
    ids = prompts["prompt_id"].combine_chunks()
    repeated = _first_repeated(np.sort(ids.dictionary_encode().indices.to_numpy()))
    if repeated is not None:
        raise ValueError(f"prompts: problem {ids.unique()[repeated]} is in the batch twice")
    group_R, sample_R, origin_R = _keys(outlines, ids, "rollouts")
    group_V, sample_V, origin_V = _keys(verdicts, ids, "verdicts")
    order_R = np.lexsort((sample_R, origin_R, group_R))
    order_V = np.lexsort((sample_V, origin_V, group_V))
    keys_R = np.stack([group_R, origin_R, sample_R])[:, order_R]
    keys_V = np.stack([group_V, origin_V, sample_V])[:, order_V]
    for name, keys in (("rollouts", keys_R), ("verdicts", keys_V)):
        same = (keys[:, 1:] == keys[:, :-1]).all(0)
        if same.any():
            raise ValueError(f"{name}: {_name(ids, keys[:, same.argmax()])} is there twice")
    if keys_R.shape != keys_V.shape or (keys_R != keys_V).any():
        _raise_unmatched(ids, keys_R, keys_V)

    status = verdicts["status"].combine_chunks()
    reward_N = verdicts["reward"].to_numpy().astype(np.float64)[order_V]
    failed_V = pc.is_in(status, value_set=pa.array(UNKNOWN)).to_numpy(zero_copy_only=False)
    correct_V = pc.equal(status, VerdictStatus.correct.value).to_numpy(zero_copy_only=False)
    cut_R = pc.equal(outlines["finish_reason"], "length")
    lengths_R = outlines["tokens"].to_numpy()
    return Rows(
        take=order_R,
        group=keys_R[0],
        origin=keys_R[1],
        reward=reward_N,
        correct=correct_V[order_V],
        known=~failed_V[order_V] & np.isfinite(reward_N),
        length=lengths_R[order_R].astype(np.int64),
        truncated=cut_R.to_numpy()[order_R],
    )


def _keys(data: pa.Table, ids: pa.Array, name: str) -> tuple[Ints, Ints, Ints]:
    """Group, sample index and origin of every row, as numbers."""
    group = pc.index_in(data["prompt_id"], value_set=ids)
    origin = pc.index_in(data["origin"], value_set=pa.array([o.value for o in ORIGINS]))
    if group.null_count:
        lost = data["prompt_id"][pc.index(group.is_null(), True).as_py()]
        raise ValueError(f"{name}: problem {lost} is not among the prompts")
    if origin.null_count:
        odd = data["origin"][pc.index(origin.is_null(), True).as_py()]
        raise ValueError(f"{name}: origin {odd} is none of {', '.join(ORIGINS)}")
    group_N, sample_N, origin_N = (
        column.to_numpy().astype(np.int64) for column in (group, data["sample_index"], origin)
    )
    return group_N, sample_N, origin_N


def _first_repeated(values: Ints) -> int | None:
    same = np.flatnonzero(values[1:] == values[:-1])
    return int(values[same[0]]) if len(same) else None


def _name(ids: pa.Array, key: npt.NDArray[np.int64]) -> str:
    group, origin, sample = (int(part) for part in key)
    return f"rollout {sample} ({ORIGINS[origin]}) of problem {ids[group]}"


def _raise_unmatched(ids: pa.Array, keys_R: Ints, keys_V: Ints) -> None:
    rollouts, verdicts = set(map(tuple, keys_R.T)), set(map(tuple, keys_V.T))
    if lost := sorted(rollouts - verdicts):
        raise ValueError(
            f"verdicts: {_name(ids, np.array(lost[0]))} has no verdict; run `verify` again"
        )
    surplus = sorted(verdicts - rollouts)
    raise ValueError(
        f"verdicts: {_name(ids, np.array(surplus[0]))} was judged but is not among the rollouts; "
        "run `verify` again"
    )


def _check_logprobs(rollouts: pa.Table) -> None:
    tokens = pc.list_value_length(rollouts["response_ids"])
    odd = pc.fill_null(pc.not_equal(tokens, pc.list_value_length(rollouts["logprobs"])), False)
    where = pc.index(odd, True).as_py()
    if where >= 0:
        raise ValueError(
            f"rollouts: row {where} has {tokens[where]} tokens and "
            f"{len(rollouts['logprobs'][where])} logprobs"
        )
