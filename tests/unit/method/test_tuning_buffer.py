"""ReLIFT's buffer: who joins it, when it is full, and what a step of fine-tuning on it costs."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
import torch
from groups import expert, keys, policy, reasons, tables
from hypothesis import given
from hypothesis import strategies as st

from icpo_core.config import SelectSection
from icpo_core.method import tuning_buffer
from icpo_core.method.loss import cross_entropy
from icpo_core.method.selection import Selection, select
from icpo_core.store.tables import TABLES


def trace(reward: float = 1.0) -> list[dict]:
    return [{"reward": reward, "origin": "trace", "tokens": 3}]


def of(*groups: list[dict], **switches) -> tuple[Selection, pa.Table]:
    """What is selected of iteration 4, and what of it joins the buffer."""
    section = SelectSection(**{"tuning_buffer": 2, "errs": "off", **switches})
    made = tables(*groups)
    selection = select(*made, section, 4, 0)
    return selection, tuning_buffer.joined(*made[:2], selection, 4)


def test_a_trace_waits_where_no_bare_rollout_is_right() -> None:
    chosen, joined = of(
        policy(0.0, 0.0) + trace(),
        policy(0.0, 1.0) + trace(),
        policy(1.0, 1.0) + trace(),
        [{"reward": 0.0}, {"status": "timeout"}, *trace()],  # nobody knows
        trace(),  # nobody has tried
        policy(0.0, 0.0),  # there is none
        policy(0.0, 0.0) + trace(0.0),  # judged wrong, and taken by errs = off
    )
    assert keys(joined) == [("p0", 0, "trace"), ("p6", 0, "trace")]
    assert joined["iteration"].to_pylist() == [4, 4]
    assert joined["prompt_ids"].to_pylist() == [[1, 0], [1, 6]]
    assert joined["response_ids"].to_pylist()[0] == [104, 105, 106]  # three tokens behind two of 2
    apart = {key for key, reason in reasons(chosen).items() if reason == "apart"}
    assert apart == {(f"p{group}", 0, "trace") for group in (0, 1, 2, 3, 4, 6)}
    assert chosen.summary["rejects/apart"] == 6
    # In the group it has no part: one of two is right, so the advantages are those of two.
    rows = {key: row["advantage"] for key, row in zip(keys(chosen.batch), chosen.batch.to_pylist(),
                                                     strict=True)}  # fmt: skip
    assert rows["p1", 1, "on_policy"] == pytest.approx(math.sqrt(0.5), abs=1e-5)
    assert rows["p1", 0, "on_policy"] == -rows["p1", 1, "on_policy"]


def test_errs_lets_only_right_ones_wait_and_of_several_the_first() -> None:
    chosen, joined = of(policy(0.0) + expert(0.0, 1.0, 1.0), policy(0.0) + expert(0.0), errs="drop")
    assert keys(joined) == [("p0", 1, "expert")]
    assert sorted(reasons(chosen).values()) == ["apart", "apart", "below_delta", "below_delta"]


def test_without_a_buffer_nothing_is_apart() -> None:
    chosen, joined = of(policy(0.0, 0.0) + trace(), tuning_buffer=0)
    assert joined.num_rows == 0
    assert chosen.rejects.num_rows == 0
    assert "rejects/apart" not in chosen.summary


def news(*names: int) -> pa.Table:
    rows = [
        {"prompt_id": f"q{name}", "sample_index": 8, "origin": "trace", "iteration": 1,
         "prompt_ids": [name], "response_ids": [name, 2]} for name in names
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=TABLES["tuning"])


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(1, 7))
def test_what_joins_is_learned_once_in_the_order_it_came(joins: list[int], size: int) -> None:
    waiting, learned, came = None, [], 0
    for count in joins:
        buffer = tuning_buffer.fill(waiting, news(*range(came, came + count)), size)
        came, waiting = came + count, buffer.waiting
        assert buffer.taken.num_rows in (0, size)
        # At most one step an iteration: five may join where a step takes one.
        assert buffer.taken.num_rows == size or waiting.num_rows < size
        assert buffer.summary == {"tuning/joined": count, "tuning/waiting": waiting.num_rows}
        learned += buffer.taken["prompt_id"].to_pylist()
    left = waiting["prompt_id"].to_pylist() if waiting is not None else []
    assert learned + left == [f"q{name}" for name in range(came)]


def test_a_step_is_the_mean_surprise_of_a_token() -> None:
    """By hand: tokens of probability 1/2, 1/4 and 1/8 are ln 2, 2·ln 2 and 3·ln 2; the mean of
    three is 2·ln 2, its gradient −1/3 a token. Padding holds NaN and has no part."""
    logprobs_BT = torch.tensor([[0.5, 0.25], [0.125, math.nan]]).log().requires_grad_()
    mask_BT = torch.tensor([[True, True], [True, False]])
    outputs = cross_entropy(logprobs_BT, mask_BT, 3)
    assert outputs.loss.item() == pytest.approx(2 * math.log(2))
    outputs.loss.backward()
    assert logprobs_BT.grad is not None
    assert logprobs_BT.grad.flatten().tolist() == pytest.approx([-1 / 3] * 3 + [0.0])
    total, count = outputs.metrics["tuning/loss"]
    assert (total.item(), count.item()) == (pytest.approx(6 * math.log(2)), 3)
    assert outputs.maxima["tuning/loss_max"].item() == pytest.approx(3 * math.log(2))
    # Parts of a step add up to it.
    parts = [cross_entropy(logprobs_BT[i : i + 1], mask_BT[i : i + 1], 3).loss for i in (0, 1)]
    assert sum(part.item() for part in parts) == pytest.approx(2 * math.log(2))
