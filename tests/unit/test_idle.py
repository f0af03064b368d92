"""The simulation of idle shares, on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.idle import (
    QUANTILES,
    Costs,
    Sampled,
    Shares,
    log_normal,
    sampled,
    sampling_seconds,
    scheduled,
    with_quantiles,
)

STEPS = Costs(step=1, cached=0, computed=0, learned=1, flow=0, published=0, loaded=0)


def test_an_engine_reads_weights_and_cache_a_step() -> None:
    assert sampling_seconds([(9, 3)], 4, STEPS) == 3
    assert sampling_seconds([(9, 2), (9, 4), (9, 1)], 4, STEPS) == 4
    # The third takes the place of the first, when that ends.
    assert sampling_seconds([(9, 2), (9, 3), (9, 4)], 2, STEPS) == 6
    reads = Costs(0, 1, 0, 0, 0, 0, 0)
    assert sampling_seconds([(5, 3)], 4, reads) == 5 + 6 + 7
    assert sampling_seconds([(5, 1), (2, 3)], 4, reads) == (5 + 2) + 3 + 4
    assert sampling_seconds([(5, 1), (2, 2)], 4, Costs(0, 0, 1, 0, 0, 0, 0)) == 7


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=12))
def test_more_places_are_never_slower_and_one_is_one_after_another(asked) -> None:
    tokens = [length for _, length in asked]
    seconds = [sampling_seconds(asked, slots, STEPS) for slots in range(1, len(asked) + 1)]
    assert seconds[0] == sum(tokens)
    assert seconds[-1] == max(tokens)
    # What is read of the cache is the same, whatever is read beside it.
    reads = Costs(0, 1, 0, 0, 0, 0, 0)
    alone = sum(sampling_seconds([one], 1, reads) for one in asked)
    assert sampling_seconds(asked, 3, reads) == alone


def test_a_long_response_goes_on_in_the_next_iteration() -> None:
    """Two engines, groups of two. Of 7 tokens 3 are sampled an iteration; its group waits."""
    lengths = [[[2, 7], [1, 3]], [[1, 1], [2, 2]], [[3, 3], [3, 3]]]
    whole = list(sampled(lengths, 2, 4, STEPS))
    assert [one.engines for one in whole] == [[7, 3], [1, 2], [3, 3]]
    assert [one.rollouts for one in whole] == [4, 4, 4]
    cut = list(sampled(lengths, 2, 4, STEPS, budget=3))
    assert [one.engines for one in cut] == [[3, 3], [3, 2], [3, 3]]
    assert [one.rollouts for one in cut] == [2, 4, 6]
    assert sum(one.tokens for one in cut) == sum(one.tokens for one in whole)


def laid(seconds: list[float], update: int, k: int) -> Shares:
    made = [Sampled([one], 1, update) for one in seconds]
    return scheduled(made, 1, k, STEPS, (5, 15))


def test_on_policy_each_waits_for_the_other_and_off_policy_the_faster_one() -> None:
    on, off = laid([10.0] * 20, 4, 0), laid([10.0] * 20, 4, 1)
    assert (on.engines, on.trainer, on.seconds) == pytest.approx((4 / 14, 10 / 14, 14))
    assert (off.engines, off.trainer, off.seconds) == pytest.approx((0, 6 / 10, 10))
    slow = laid([4.0] * 20, 10, 1)
    assert (slow.engines, slow.trainer, slow.seconds) == pytest.approx((6 / 10, 0, 10))


def test_two_steps_off_policy_a_slow_iteration_holds_up_nobody() -> None:
    """16 and 4 seconds in turn, beside updates of 10. One step: the short one is sampled while the
    long one is trained on, and then the engine waits 6 s, and the trainer for the next long one."""
    one, two = laid([16.0, 4.0] * 10, 10, 1), laid([16.0, 4.0] * 10, 10, 2)
    assert (one.engines, one.trainer, one.seconds) == pytest.approx((6 / 26, 6 / 26, 13))
    assert (two.engines, two.trainer, two.seconds) == pytest.approx((0, 0, 10), abs=1e-9)


def test_several_engines_wait_for_the_slowest() -> None:
    made = [Sampled([10.0, 5.0], 1, 0)] * 20
    assert scheduled(made, 1, 2, STEPS, (5, 15)).engines == pytest.approx(1 / 4)


@pytest.mark.parametrize("shape", [log_normal(1.0), with_quantiles(QUANTILES)])
def test_lengths_have_their_mean_and_their_quantiles(shape) -> None:
    z = np.random.default_rng(0).standard_normal(200_000)
    assert shape(z).mean() == pytest.approx(1.0, rel=0.02)
    ninth, middle = shape(np.array([1.2816])), shape(np.array([0.0]))
    assert ninth / middle == pytest.approx(3.6 if shape(z).max() > 20 else 2.73, rel=0.01)
