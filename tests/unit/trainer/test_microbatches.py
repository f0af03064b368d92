"""Rows into micro-batches, and micro-batches over ranks."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icpo_core.store import tables
from icpo_core.trainer.microbatches import (
    BUNDLES_A_RANK,
    MICRO_BATCH_COST,
    Layout,
    Row,
    collate,
    padding_share,
    plan,
    rows_of,
    shown_tokens,
)

CPU = torch.device("cpu")
lengths = st.lists(st.integers(1, 3000), min_size=1, max_size=60)


def of_lengths(sizes: list[int]) -> list[Row]:
    return [Row(np.ones(1, dtype=np.int32), np.ones(size, dtype=np.int32)) for size in sizes]


def sharing(sizes: list[tuple[int, int]]) -> list[Row]:
    """Rows of (prompt, tokens of the response): a prompt of n tokens is always the same."""
    return [
        Row(np.arange(prompt, dtype=np.int32), np.arange(100, 100 + size, dtype=np.int32))
        for prompt, size in sizes
    ]


@given(lengths, st.integers(1, 20_000), st.integers(1, 5), st.booleans())
def test_every_row_once_within_the_budget(
    sizes: list[int], budget: int, ranks: int, packed: bool
) -> None:
    shares = plan(of_lengths(sizes), budget, ranks, Layout.PACKED if packed else Layout.PADDED)
    assert len(shares) == ranks
    assert len({len(batches) for batches in shares}) == 1  # ranks meet at every micro-batch
    batches = [batch for share in shares for batch in share]
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    for batch in batches:
        own = [sizes[i] for i in batch]
        size = sum(own) if packed else len(own) * max(own, default=0)
        assert len(batch) <= 1 or size <= budget
        assert packed or size - sum(own) <= MICRO_BATCH_COST
    # No rank has more than another by more than a row.
    loads = [sum(sizes[i] for batch in share for i in batch) for share in shares]
    assert max(loads) - min(loads) <= max(sizes)


def test_short_rows_do_not_pay_for_long_ones() -> None:
    sizes = [2000] * 2 + [50] * 64
    (batches,) = plan(of_lengths(sizes), 16_384, 1)
    assert sorted(map(len, batches)) == [2, 64]
    assert padding_share(sizes, batches) == 0
    # But little padding does not make a micro-batch more.
    assert len(plan(of_lengths(list(range(40, 50)) * 2), 16_384, 1)[0]) == 1


shared_rows = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=60)


@settings(deadline=None)
@given(shared_rows, st.integers(1, 3000), st.integers(1, 5))
def test_shared_prompts_stay_together(
    sizes: list[tuple[int, int]], budget: int, ranks: int
) -> None:
    rows = sharing(sizes)
    own = [row.length for row in rows]
    shares = plan(rows, budget, ranks, Layout.SHARED)
    assert len({len(batches) for batches in shares}) == 1
    batches = [batch for share in shares for batch in share]
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    assert all(len(batch) <= 1 or sum(own[i] for i in batch) <= budget for batch in batches)
    loads = [sum(own[i] for batch in share for i in batch) for share in shares]
    bundle = sum(own) if ranks == 1 else sum(own) // (ranks * BUNDLES_A_RANK)
    assert max(loads) - min(loads) <= max(bundle, *own)
    shown = shown_tokens(rows, batches)
    if ranks == 1 and budget >= sum(own):
        assert sum(shown) == sum({p for p, _ in sizes}) + sum(r - 1 for _, r in sizes)
    device = [
        collate([rows[i] for i in batch], 0, CPU, Layout.SHARED) for batch in batches if batch
    ]
    assert sum(shown) == sum(micro.tokens_BS.numel() for micro in device)


@given(shared_rows)
def test_rows_are_found_in_a_shared_row(sizes: list[tuple[int, int]]) -> None:
    rows = sharing(sizes)
    micro = collate(rows, 0, CPU, Layout.SHARED)
    assert micro.shared is not None
    assert micro.positions_BS is not None
    tokens, positions = micro.tokens_BS[0], micro.positions_BS[0]
    pieces = [piece for places in micro.shared.places for piece in places]
    found = sorted(tuple(tokens[piece].tolist()) for piece in pieces)
    assert len(found) == len(rows)
    wanted = [tuple(np.concatenate([r.prompt_ids, r.response_ids[:-1]]).tolist()) for r in rows]
    for padded, row in zip(found, sorted(wanted), strict=True):
        assert padded[: len(row)] == row
    # From the rows back to the tokens.
    flat = torch.cat([places.flatten() for places in micro.shared.places])
    assert flat[micro.shared.back_N].tolist() == list(range(len(tokens)))
    # A token is predicted from the one before it, at its own position.
    assert positions[micro.predictors_N].tolist() == [
        len(row.prompt_ids) - 1 + place for row in rows for place in range(len(row.response_ids))
    ]
    assert micro.targets_N.tolist() == [token for row in rows for token in row.response_ids]


def test_batch_columns_become_rows(tmp_path: Path) -> None:
    shared = {"reward": 0.0, "bonus": 0.0, "shaped_reward": 0.0, "advantage": 0.5}
    table = tables.table(
        "batch",
        [
            {"prompt_id": "a", "sample_index": 0, "origin": "on_policy", "prompt_ids": [5, 6],
             "response_ids": [7], "behaviour_logprobs": [-0.5], **shared},
            {"prompt_id": "a", "sample_index": 7, "origin": "expert", "prompt_ids": [5, 6],
             "response_ids": [8, 9], "behaviour_logprobs": [-1.0, -2.0], **shared},
            {"prompt_id": "b", "sample_index": 1, "origin": "trace", "prompt_ids": [4],
             "response_ids": [8], "behaviour_logprobs": None, **shared},
        ],
    )  # fmt: skip
    # As it is read back, in pieces, and as a slice of a longer table.
    pieces = pa.concat_tables([table.slice(0, 2), table.slice(2, 1)])
    for form in (table, pieces, pa.concat_tables([table, table]).slice(3, 3)):
        rows = rows_of(form)
        assert [row.prompt_ids.tolist() for row in rows] == [[5, 6], [5, 6], [4]]
        assert [row.response_ids.tolist() for row in rows] == [[7], [8, 9], [8]]
        behaviour = [row.behaviour_logprobs for row in rows]
        assert behaviour[2] is None
        assert [one.tolist() for one in behaviour[:2]] == [[-0.5], [-1.0, -2.0]]
        assert [(row.expert, row.group) for row in rows] == [(False, "a"), (True, "a"), (True, "b")]


@pytest.mark.parametrize("packed", [False, True])
def test_collate(packed: bool) -> None:
    """The pad id is that of a token in the rows: what is a response is known by position. The last
    token of a row is no input."""
    rows = [
        Row(np.array([5, 6]), np.array([7, 1]), np.array([-0.5, -0.25]), 1.0),
        Row(np.array([1]), np.array([8, 9, 1]), None, -1.0, expert=True),
    ]
    micro = collate(rows, 1, CPU, Layout.PACKED if packed else Layout.PADDED)
    if packed:
        assert micro.tokens_BS.tolist() == [[5, 6, 7, 1, 8, 9]]
        assert micro.positions_BS is not None
        assert micro.positions_BS.tolist() == [[0, 1, 2, 0, 1, 2]]
    else:
        assert micro.tokens_BS.tolist() == [[5, 6, 7], [1, 8, 9]]
        assert micro.positions_BS is None
    assert micro.predictors_N.tolist() == [1, 2, 3, 4, 5]
    assert micro.targets_N.tolist() == [7, 1, 8, 9, 1]
    assert micro.mask_BT.tolist() == [[True, True, False], [True, True, True]]
    assert micro.behaviour_BT.tolist() == [[-0.5, -0.25, 0], [0, 0, 0]]
    assert micro.known_B.tolist() == [True, False]
    assert micro.expert_B.tolist() == [False, True]
    assert micro.advantages_B.tolist() == [1, -1]
    values = torch.arange(1.0, 6.0, requires_grad=True)
    spread = micro.spread(values)
    assert spread.tolist() == [[1, 2, 0], [3, 4, 5]]
    spread.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1] * 5


@pytest.mark.parametrize("layout", Layout)
def test_a_rank_without_rows(layout: Layout) -> None:
    micro = collate([], 0, CPU, layout)
    assert micro.tokens_BS.shape == (1, 1)
    assert not micro.mask_BT.any()
    assert micro.predictors_N.numel() == micro.targets_N.numel() == 0
    assert not micro.spread(torch.zeros(0)).any()
    assert len(micro.known_B) == len(micro.expert_B) == len(micro.advantages_B) == 1
