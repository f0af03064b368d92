"""Group advantages and the annealed bonus."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SHARED

from icpo_core.method.advantages import group_advantages
from icpo_core.method.expert_bonus import gamma

GOLDEN = SHARED / "golden" / "released_code.json"
CASES = json.loads(GOLDEN.read_text())["advantage_cases"] if GOLDEN.is_file() else []

rewards = st.sampled_from([0.0, 0.1, 0.25, 1.0, 1.75, 2.0])
groups = st.lists(st.tuples(st.integers(0, 4), rewards), min_size=1, max_size=24)


@pytest.mark.skipif(not CASES, reason="the released code's numbers are not beside the repository")
@pytest.mark.parametrize("case", CASES, ids=[str(i) for i in range(len(CASES))])
def test_released_code(case):
    ours = group_advantages(case["rewards"], case["groups"], case["divide_by_std"])
    for group, advantage, theirs in zip(case["groups"], ours, case["advantages"], strict=True):
        if case["groups"].count(group) == 1:
            assert advantage == 0  # theirs is the raw reward, from which nothing can be learned
        else:
            assert advantage == pytest.approx(theirs, abs=1e-8)


@settings(deadline=None)
@given(groups, st.booleans(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(rows, by_std, random):
    ids, values = zip(*rows, strict=True)
    order = list(range(len(rows)))
    random.shuffle(order)
    plain = group_advantages(values, ids, by_std)
    mixed = group_advantages([values[i] for i in order], [ids[i] for i in order], by_std)
    np.testing.assert_allclose(mixed, plain[order], atol=1e-12)


@settings(deadline=None)
@given(groups, st.booleans(), st.integers(-3, 3))
def test_shift_does_not_matter(rows, by_std, shift):
    ids, values = zip(*rows, strict=True)
    shifted = group_advantages(np.array(values) + shift, ids, by_std)
    np.testing.assert_allclose(shifted, group_advantages(values, ids, by_std), atol=1e-9)


@settings(deadline=None)
@given(groups, st.sampled_from([0.5, 2.0, 8.0]))
def test_scale_does_not_matter_with_std_and_scales_without(rows, scale):
    ids, values = zip(*rows, strict=True)
    scaled = np.array(values) * scale
    # With the 1e-6 beside the deviation the advantage is scale-free to about 1e-6 / std.
    np.testing.assert_allclose(
        group_advantages(scaled, ids, True), group_advantages(values, ids, True), rtol=1e-3
    )
    np.testing.assert_allclose(
        group_advantages(scaled, ids, False), scale * group_advantages(values, ids, False)
    )


@settings(deadline=None)
@given(groups, st.booleans())
def test_groups_are_apart_and_centred(rows, by_std):
    ids, values = (np.array(column) for column in zip(*rows, strict=True))
    whole = group_advantages(values, ids, by_std)
    for group in np.unique(ids):
        alone = group_advantages(values[ids == group], ids[ids == group], by_std)
        np.testing.assert_allclose(alone, whole[ids == group], atol=1e-12)
        assert abs(alone.sum()) < 1e-9


@given(
    st.floats(-1e3, 1e3), st.integers(1, 17), st.booleans()
)  # e.g. 0.1: the mean of eight equal floats need not be that float
def test_equal_rewards_give_exactly_nothing(reward, size, by_std):
    assert (group_advantages([reward] * size, [0] * size, by_std) == 0.0).all()


def test_zero_variance_is_exact_equality_and_not_a_small_deviation():
    """The trap: a threshold, or trusting the mean: sum([0.1] * 7) / 7 is not 0.1."""
    tiny = group_advantages([0.1, 0.1, 0.1 + 1e-9], [0] * 3, True)
    assert (tiny != 0).all()
    assert (group_advantages([0.1] * 7, [0] * 7, True) == 0).all()


def test_one_member_gets_nothing():
    assert group_advantages([1.0, 0.0, 1.0], ["a", "b", "b"], True)[0] == 0.0


def test_deviation_is_unbiased():
    """The trap: NumPy's std divides by n, torch's by n − 1."""
    values = np.array([1.0, 0.0, 0.0, 0.0])
    want = (values - 0.25) / (values.std(ddof=1) + 1e-6)
    np.testing.assert_allclose(group_advantages(values, [0] * 4, True), want, rtol=1e-15)
    assert abs(want[0] - 0.75 / (values.std() + 1e-6)) > 0.1


@settings(deadline=None)
@given(groups, st.booleans(), st.data())
def test_uncounted_rows_have_no_say(rows, by_std, data):
    ids, values = (np.array(column) for column in zip(*rows, strict=True))
    counted = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    out = group_advantages(np.where(counted, values, np.nan), ids, by_std, counted)
    assert (out[~counted] == 0).all()
    np.testing.assert_array_equal(
        out[counted], group_advantages(values[counted], ids[counted], by_std)
    )


# --- annealing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "start", "half", "end"),
    [
        ("linear", 1.0, 0.5, 0.0),
        ("cosine", 1.0, 0.5, 0.0),
        ("exponential", 1.0, math.exp(-2.5), math.exp(-5.0)),
        ("off", 0.0, 0.0, 0.0),
    ],
)
def test_annealing_at_start_half_and_end(kind, start, half, end):
    assert gamma(kind, 0, 400, 5.0) == start
    assert gamma(kind, 200, 400, 5.0) == pytest.approx(half, abs=1e-15)
    assert gamma(kind, 400, 400, 5.0) == pytest.approx(end, abs=1e-15)
    assert gamma(kind, 401, 400, 5.0) == 0.0


@given(
    st.sampled_from(["linear", "cosine", "exponential"]), st.integers(1, 500), st.floats(0.1, 20)
)
def test_annealing_never_rises_and_stays_in_range(kind, horizon, decay):
    values = [gamma(kind, t, horizon, decay) for t in range(horizon + 2)]
    assert values[0] == 1.0
    assert all(0.0 <= b <= a for a, b in pairwise(values))
    assert values[1] < 1.0  # the released code stays at 1


def test_annealing_needs_a_time_and_a_horizon():
    with pytest.raises(ValueError, match="never negative"):
        gamma("linear", -1, 10, 5.0)
    with pytest.raises(ValueError, match="horizon"):
        gamma("linear", 0, None, 5.0)
    assert gamma("off", 0, None, 5.0) == 0.0
