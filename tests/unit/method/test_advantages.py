"""Group advantages and the annealed bonus."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SHARED

from icpo_core.common.annealing import gamma
from icpo_core.method.advantages import Groups, advantages

GOLDEN = SHARED / "golden" / "released_code.json"
CASES = json.loads(GOLDEN.read_text())["advantage_cases"] if GOLDEN.is_file() else []

rewards = st.sampled_from([0.0, 0.1, 0.25, 1.0, 1.75, 2.0])
ESTIMATORS = ("group", "group-mean", "maxrl", "rloo")
groups = st.lists(st.tuples(st.integers(0, 4), rewards), min_size=1, max_size=24)


def group_advantages(values, ids, by_std, counted=None):
    return advantages("group" if by_std else "group-mean", values, ids, counted)


def as_v0_1_0(rewards_N, group_ids_N, by_std):
    """What version 0.1.0 computed, operation by operation."""
    rewards = np.asarray(rewards_N, dtype=np.float64)
    _, groups = np.unique(np.asarray(group_ids_N), return_inverse=True)
    count = int(groups.max()) + 1
    sizes = np.bincount(groups, minlength=count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, groups, rewards)
    np.maximum.at(high, groups, rewards)
    centred = rewards - (np.bincount(groups, rewards, count) / np.maximum(sizes, 1))[groups]
    if by_std:
        variances = np.bincount(groups, centred**2, count) / np.maximum(sizes - 1, 1)
        centred = centred / (np.sqrt(variances) + 1e-6)[groups]
    return np.where((high > low)[groups], centred, 0.0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(-10, 10)), min_size=1, max_size=40),
    st.booleans(),
)
def test_stored_batches_stay_as_they_are_to_the_bit(rows, by_std):
    ids, values = zip(*rows, strict=True)
    now, before = group_advantages(values, ids, by_std), as_v0_1_0(values, ids, by_std)
    assert now.tobytes() == before.tobytes()


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
@given(groups, st.sampled_from(ESTIMATORS), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(rows, name, random):
    ids, values = zip(*rows, strict=True)
    order = list(range(len(rows)))
    random.shuffle(order)
    plain = advantages(name, values, ids)
    mixed = advantages(name, [values[i] for i in order], [ids[i] for i in order])
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
@given(groups, st.sampled_from(ESTIMATORS))
def test_groups_are_apart_and_centred(rows, name):
    ids, values = (np.array(column) for column in zip(*rows, strict=True))
    whole = advantages(name, values, ids)
    for group in np.unique(ids):
        alone = advantages(name, values[ids == group], ids[ids == group])
        np.testing.assert_allclose(alone, whole[ids == group], atol=1e-12)
        assert abs(alone.sum()) < 1e-9


@given(
    st.floats(-1e3, 1e3), st.integers(1, 17), st.sampled_from(ESTIMATORS)
)  # e.g. 0.1: the mean of eight equal floats need not be that float
def test_equal_rewards_give_exactly_nothing(reward, size, name):
    assert (advantages(name, [reward] * size, [0] * size) == 0.0).all()


def test_zero_variance_is_exact_equality_and_not_a_small_deviation():
    """The trap: a threshold, or trusting the mean: sum([0.1] * 7) / 7 is not 0.1."""
    tiny = group_advantages([0.1, 0.1, 0.1 + 1e-9], [0] * 3, True)
    assert (tiny != 0).all()
    assert (group_advantages([0.1] * 7, [0] * 7, True) == 0).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_one_member_gets_nothing(name):
    assert advantages(name, [1.0, 0.0, 1.0], ["a", "b", "b"])[0] == 0.0


def test_rloo_leaves_one_out():
    values = np.array([1.0, 0.0, 0.25, 1.75])
    want = [value - np.delete(values, i).mean() for i, value in enumerate(values)]
    np.testing.assert_allclose(advantages("rloo", values, [0] * 4), want, rtol=1e-12)


def test_maxrl_divides_by_the_success_rate():
    """Weights of arXiv 2602.02710: 1/(number solved) for what is solved, less the baseline."""
    values = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    found = advantages("maxrl", values, [0] * 4 + [1] * 4 + [2] * 2)
    np.testing.assert_allclose(found, [3, -1, -1, -1, 1, 1, -1, -1, 0, 0], rtol=1e-15)


def test_an_estimator_of_ones_own_sees_all_of_a_group_that_counts(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def mine(groups):\n    return groups.tokens_N + 10.0 * groups.expert_N + groups.group_N\n"
    )
    found = advantages(
        f"{file}:mine",
        [1.0, 0.0, 5.0, 0.0],
        ["b", "a", "c", "d"],
        [True, True, False, True],
        [False, True, True, False],
        [3, 4, 5, 6],
    )
    assert found.tolist() == [4.0, 14.0, 0.0, 8.0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("groups.mean_N / 0", r"mine returned inf for a rollout of a group with rewards 1, 0: it"),
        ("groups.rewards_N[:1]", r"mine returned an array of shape \(1,\) for 2 rollouts"),
        ("0.0", r"mine returned an array of shape \(\) for 2 rollouts"),
    ],
)
def test_what_an_estimator_returns_is_checked(body, words, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"def mine(groups): return {body}\n")
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=words) as caught:
        advantages(f"{file}:mine", [1.0, 0.0], [0, 0])
    assert "\n" not in str(caught.value)


def test_what_is_said_of_groups():
    groups = Groups.of(
        np.array([1.0, 0.0, 0.1, 0.1, 0.1]),
        np.array([0, 0, 1, 1, 1]),
        np.zeros(5, bool),
        np.zeros(5, np.int64),
    )
    assert groups.size_N.tolist() == [2, 2, 3, 3, 3]
    assert groups.mean_N.tolist() == [0.5, 0.5, 0.1, 0.1, 0.1]
    assert groups.std_N.tolist() == [0.5**0.5] * 2 + [0.0] * 3


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
    assert [gamma("constant", t, 10, 5.0) for t in (0, 10, 399)] == [1.0] * 3
