"""Metrics, intervals and comparisons: against exact values, and by simulation."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icpo_core.evaluation.comparison import compare, holm, sign_flip
from icpo_core.evaluation.scores import (
    consensus,
    interval,
    intervals,
    majority,
    pass_at_k,
    ratio_interval,
    scores,
)
from icpo_core.store import tables


def samples(rewards: dict[str, list[float]], **columns: list) -> pa.Table:
    """Table `samples` with these rewards by problem; other columns as given, or plain."""
    rows = [(name, at, one) for name, some in rewards.items() for at, one in enumerate(some)]
    count = len(rows)
    whole = {
        "benchmark": ["b"] * count,
        "prompt_id": [name for name, _, _ in rows],
        "sample_index": [at for _, at, _ in rows],
        "response": [r"\boxed{1}"] * count,
        "response_ids": [[1, 2]] * count,
        "finish_reason": ["stop"] * count,
        "seed": [0] * count,
        "policy_version": ["v"] * count,
        "reward": [one for _, _, one in rows],
        "status": ["correct" if one else "wrong" for _, _, one in rows],
        "extracted": ["1" if one else "2" for _, _, one in rows],
        "gold": ["1"] * count,
        "seconds": [0.0] * count,
    }
    return tables.check("samples", pa.table({**whole, **columns}), "test")


@pytest.mark.parametrize("n", [1, 2, 5, 10, 32, 200])
def test_pass_at_k_is_the_published_estimator(n):
    """1 - C(n-c, k) / C(n, k) (Chen et al., 2021), in whole numbers."""
    for c in {0, 1, n // 3, n // 2, n - 1, n}:
        for k in {1, 2, n // 2, n} - {0}:
            if k <= n:
                exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
                assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)


def test_pass_at_k_is_the_mean_over_all_draws():
    rewards = [1, 0, 0, 1, 0, 0]
    for k in range(1, 7):
        draws = list(itertools.combinations(rewards, k))
        assert pass_at_k(6, 2, k) == pytest.approx(sum(any(one) for one in draws) / len(draws))


@pytest.mark.parametrize(
    ("votes", "maj", "cons"),
    [
        (["r", "r", "a"], 1, 1),
        (["r", "a", "b", "r", "c"], 1, 0),  # the most, but no majority
        (["r", "a"], 0.5, 0),  # a tie counts by its part
        (["r", "a", "b"], 1 / 3, 0),
        (["a", "a", "r"], 0, 0),
        ([None, None, "r"], 1, 0),  # no answer is no vote, but counts against a consensus
        ([None, None], 0, 0),
    ],
)
def test_votes(votes, maj, cons):
    assert majority(votes, "r") == pytest.approx(maj)
    assert consensus(votes, "r") == cons


def test_scores_of_a_table():
    table = samples(
        {"p": [1, 1, 0, 0], "q": [0, 0, 0, 0], "s": [1, 1, 1, 1]},
        extracted=["1", "1", r"\dfrac12", r"\frac{1}{2}", None, "3", "4", "5", *["1"] * 4],
        status=["correct", "correct", "wrong", "wrong", "no_answer", "wrong", "timeout", "wrong"]
        + ["correct"] * 4,
        response=[r"\boxed{1}"] * 4 + ["none", *[r"\boxed{3}"] * 7],
        finish_reason=["length"] + ["stop"] * 11,
        response_ids=[[1] * (1 + at) for at in range(12)],
    )
    asked = pa.table(
        {
            "benchmark": ["b"] * 3,
            "prompt_id": ["p", "q", "s"],
            "prompt": [""] * 3,
            "prompt_ids": [[0]] * 3,
            "gold": ["1"] * 3,
            "subject": ["x", "y", "x"],
            "level": pa.array([None] * 3, pa.string()),
            "demo_ids": pa.array([[]] * 3, pa.list_(pa.string())),
        }
    )
    found = scores(table, asked)["b"]
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["avg@k"] == {"4": {"value": found["accuracy"], "interval": found["interval"]}}
    assert found["standard_error"] == pytest.approx(0.5 / math.sqrt(3))
    assert found["pass@k"]["2"]["value"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    # \dfrac12 and \frac{1}{2} vote together, so p is a tie of two and two.
    assert found["maj@k"]["4"]["value"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert found["cons@k"]["4"]["value"] == pytest.approx(1 / 3)
    assert found["maj@k"]["1"]["value"] == found["cons@k"]["1"]["value"] == found["accuracy"]
    assert (found["problems"], found["samples"], found["k"]) == (3, 12, 4)
    assert found["format"] == pytest.approx(11 / 12)
    shares = (found["truncated"], found["no_answer"], found["unjudged"])
    assert shares == pytest.approx((1 / 12,) * 3)
    assert found["mean_tokens"] == 6.5
    assert found["tokens"]["right"] == pytest.approx(np.mean([1, 2, 9, 10, 11, 12]))
    assert found["subject"]["x"]["accuracy"] == pytest.approx(0.75)
    assert found["subject"]["x"]["problems"] == 2
    assert "level" not in found


def test_dressed_wrong_answers_vote_together():
    table = samples(
        {"p": [1, 0, 0]},
        extracted=["1", r"\dfrac{1}{3}", r" $\frac{1}{3}$."],
        status=["correct", "wrong", "wrong"],
    )
    assert scores(table)["b"]["maj@k"]["3"]["value"] == 0.0


@pytest.mark.parametrize(
    ("problems", "samples_each", "a", "b", "low", "high"),
    [
        (30, 32, 0.3, 0.7, 0.93, 0.99),  # AIME, hard
        (30, 1, 0.3, 0.7, 0.93, 0.99),
        (30, 32, 0.1, 1.9, 0.93, 0.995),  # AIME, hardly solved: where plain percentiles have 0.89
        (40, 32, 0.5, 0.5, 0.93, 0.98),
        (300, 1, 1, 3, 0.93, 0.97),
        (500, 1, 9, 1, 0.93, 0.97),
        (300, 4, 0.2, 0.6, 0.93, 0.975),
    ],
)
def test_intervals_cover_at_the_nominal_rate(problems, samples_each, a, b, low, high):
    """2,000 benchmarks whose problems' accuracies are drawn from a beta distribution."""
    rng = np.random.default_rng(problems + samples_each)
    truth = rng.beta(a, b, (problems, 2000))
    values_NM = rng.binomial(samples_each, truth) / samples_each
    bounds = np.array(intervals(values_NM))
    mean = a / (a + b)
    covered = np.mean((bounds[:, 0] <= mean) & (mean <= bounds[:, 1]))
    assert low <= covered <= high, covered


@pytest.mark.parametrize("figure", ["pass@8", "cons@8", "maj@8", "budget"])
@pytest.mark.parametrize("problems", [30, 100])
def test_intervals_of_the_other_figures_cover(figure, problems):
    """1,000 benchmarks of problems of accuracy p ~ Beta(0.4, 0.8) with 16 samples each: pass@8 by
    its estimator, maj@8 and cons@8 over both halves, wrong ones saying one of three things, and
    accuracy at a token budget that a right answer keeps to with probability 0.4 + 0.6 p."""
    a, b, n, k = 0.4, 0.8, 16, 8
    rng = np.random.default_rng(problems)
    of_c = np.array([pass_at_k(n, c, k) for c in range(n + 1)])

    def drawn(count):
        p = rng.beta(a, b, (problems, count))
        if figure == "pass@8":
            return of_c[rng.binomial(n, p)]
        if figure == "cons@8":
            return (rng.binomial(k, p, (2, *p.shape)) > k / 2).mean(0)
        if figure == "budget":
            return rng.binomial(n, p * (0.4 + 0.6 * p)) / n
        said = np.stack([p, *[(1 - p) / 3] * 3], axis=-1)
        votes = rng.multinomial(k, said / said.sum(-1, keepdims=True), (2, *p.shape))
        top = votes.max(-1)
        return ((votes[..., 0] == top) / (votes == top[..., None]).sum(-1)).mean(0)

    def beta(x, y):
        return math.exp(math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y))

    truth = {
        "pass@8": 1 - beta(a, b + k) / beta(a, b),
        "cons@8": sum(math.comb(k, j) * beta(a + j, b + k - j) for j in range(5, 9)) / beta(a, b),
        "budget": 0.4 * a / (a + b) + 0.6 * a * (a + 1) / ((a + b) * (a + b + 1)),
    }.get(figure)
    if truth is None:
        truth = float(np.mean(drawn(4000)))
    bounds = np.array(intervals(drawn(1000)))
    covered = np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1]))
    assert 0.93 <= covered <= 0.985, covered


def test_intervals_of_versions_of_one_problem_cover_by_family():
    """500 benchmarks of 40 problems in eight versions: versions that count as problems of their
    own give intervals that are far too narrow."""
    rng = np.random.default_rng(8)
    truth, sizes = 0.3 / 0.8, np.full(40, 8)
    right = rng.random((40, 8, 500)) < rng.beta(0.3, 0.5, (40, 1, 500))
    families = [ratio_interval(column, sizes) for column in right.sum(axis=1).T]
    versions = intervals(right.reshape(320, 500).astype(float))
    family, version = (
        np.mean([low <= truth <= high for low, high in bounds]) for bounds in (families, versions)
    )
    assert 0.93 <= family <= 0.985
    assert version < 0.75


def test_families_widen_the_interval_and_leave_the_accuracy():
    rewards = {f"{at}-{version}": [float(at < 6)] for at in range(20) for version in range(5)}
    table = samples(rewards)
    alone = scores(table)["b"]
    together = scores(table, families={name: name.partition("-")[0] for name in rewards})["b"]
    assert together["accuracy"] == alone["accuracy"] == pytest.approx(0.3)
    assert together["standard_error"] > 2 * alone["standard_error"]
    widths = [one["interval"][1] - one["interval"][0] for one in (together, alone)]
    assert widths[0] > 1.8 * widths[1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_an_interval_holds_its_estimate(values):
    low, high = interval(np.array(values))
    assert 0 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= 1


def test_an_interval_of_nothing_right_is_no_point():
    assert interval(np.zeros(30))[0] == 0
    assert 0.05 < interval(np.zeros(30))[1] < 0.25
    assert 0.75 < interval(np.ones(30))[0] < 0.95


def test_sign_flips_are_exact_on_few_and_close_on_many():
    rng = np.random.default_rng(0)
    differences = np.array([0.5, 0.25, -0.125, 1, 0, 0.75])
    moved = differences[differences != 0]
    signs = itertools.product([-1, 1], repeat=len(moved))
    exact = np.mean([abs(np.dot(one, moved)) >= abs(moved.sum()) - 1e-12 for one in signs])
    assert sign_flip(differences, rng) == pytest.approx(exact)
    assert sign_flip(np.zeros(5), rng) == 1.0
    # 30 problems of which 20 went up and 10 down: the binomial tail, twice.
    many = np.array([1.0] * 20 + [-1.0] * 10)
    tail = 2 * sum(math.comb(30, k) for k in range(20, 31)) / 2**30
    assert sign_flip(many, rng) == pytest.approx(tail, rel=0.1)


def test_p_values_are_as_rare_as_they_say():
    """Two models that are alike differ at p < 0.05 in about 5% of 200 comparisons, never more."""
    rng = np.random.default_rng(1)
    truth = rng.beta(0.5, 0.5, (60, 200))
    differences = rng.binomial(4, truth) / 4 - rng.binomial(4, truth) / 4
    small = np.mean([sign_flip(column, rng) < 0.05 for column in differences.T])
    assert 0.015 < small < 0.095, small


def test_many_p_values_are_held_together():
    """By hand, and by simulation: without any effect one of twelve is below 0.05 in 46% of cases,
    and one of Holm's in 5%."""
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([0.2, 0.9, 0.01, 0.5]) == pytest.approx([0.6, 1.0, 0.04, 1.0])
    assert holm([0.3]) == [0.3]
    assert holm([]) == []
    drawn = np.random.default_rng(0).random((2000, 12))
    assert np.mean(drawn.min(1) < 0.05) > 0.4
    assert np.mean([min(holm(row)) < 0.05 for row in drawn.tolist()]) < 0.065


def test_a_comparison_names_what_flipped():
    before = samples({"a": [1, 1], "b": [0, 0], "c": [1, 0], "only": [1, 1]})
    after = samples({"a": [0, 0], "b": [1, 1], "c": [1, 1], "other": [0, 0]})
    found = compare(before, after)
    assert (found.problems, found.accuracy) == (3, (0.5, pytest.approx(2 / 3)))
    assert (found.gained, found.lost) == (["b", "c"], ["a"])
    assert found.difference == pytest.approx(1 / 6)
    assert found.interval[0] < 1 / 6 < found.interval[1]
    with pytest.raises(ValueError, match="no problem in common"):
        compare(before, samples({"z": [1]}))
