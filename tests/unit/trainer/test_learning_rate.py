"""The learning rate, iteration by iteration."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from icpo_core.config import UpdateSection
from icpo_core.trainer.learning_rate import learning_rate

PEERS = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}


def rates(last: int, **settings) -> list[float]:
    section = UpdateSection(learning_rate=1.0, **settings)
    return [learning_rate(section, t) for t in range(1, last + 1)]


def test_by_hand() -> None:
    assert rates(3) == [1.0, 1.0, 1.0]
    assert rates(4, warmup_iterations=2) == [0.5, 1.0, 1.0, 1.0]
    assert rates(6, schedule="linear", horizon=4) == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    warm = rates(7, schedule="linear", horizon=6, warmup_iterations=2)
    assert warm == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    want = [1.0, 0.5 + 0.25 * math.sqrt(2), 0.5, 0.5 - 0.25 * math.sqrt(2), 0.0]
    assert rates(5, schedule="cosine", horizon=4) == pytest.approx(want)


@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("warmup", [0, 3])
def test_after_the_warm_up_as_transformers(kind: str, warmup: int) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = PEERS[kind](optimizer, warmup, 10)
    theirs = []
    for _ in range(12):
        theirs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    ours = rates(10, schedule=kind, horizon=10, warmup_iterations=warmup)
    assert ours[warmup:] == pytest.approx(theirs[warmup:10])


@given(st.sampled_from(["linear", "cosine"]), st.integers(0, 20), st.integers(1, 60))
def test_up_then_down_and_never_nothing_within_the_horizon(kind: str, warmup: int, more: int):
    horizon = warmup + more
    found = rates(horizon + 2, schedule=kind, horizon=horizon, warmup_iterations=warmup)
    assert all(a < b for a, b in pairwise(found[:warmup]))
    assert found[max(0, warmup - 1)] == found[warmup] == 1.0
    assert all(a > b for a, b in pairwise(found[warmup : horizon + 1]))
    assert min(found[:horizon]) > 0.0
    assert found[horizon:] == [0.0, 0.0]


def test_a_schedule_needs_its_end() -> None:
    with pytest.raises(ValueError, match=r"needs update\.horizon"):
        rates(1, schedule="cosine")
