"""Flips and distances against every pair, and intervals that cover."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from stub_engines import StubEngines

from icpo_core.evaluation.benchmarks import Benchmark, Problem
from icpo_core.evaluation.evaluator import Evaluator
from icpo_core.evaluation.exploration import distance, explore, flips
from icpo_core.evaluation.scores import ratio_interval
from icpo_core.method.diagnostics import spread
from icpo_core.run.evaluations import target

ROLLOUT = st.tuples(st.booleans(), st.lists(st.integers(1, 4), max_size=6))


def table(problems: list) -> pa.Table:
    rows = [
        {"prompt_id": f"p{at}", "sample_index": i, "reward": float(right), "response_ids": ids}
        for at, rollouts in enumerate(problems)
        for i, (right, ids) in enumerate(rollouts)
    ]
    kinds = [("prompt_id", pa.string()), ("sample_index", pa.int32()), ("reward", pa.float32())]
    schema = pa.schema([*kinds, ("response_ids", pa.list_(pa.int32()))])
    return pa.Table.from_pylist(rows, schema)


@settings(deadline=None)
@given(st.data(), st.integers(2, 4), st.integers(1, 4))
def test_flips_and_distance_are_those_of_all_pairs_of_unlike_numbers(data, n, problems):
    shape = st.lists(
        st.lists(ROLLOUT, min_size=n, max_size=n), min_size=problems, max_size=problems
    )
    first, second = data.draw(shape), data.draw(shape)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    each = [(a[i], b[j]) for a, b in zip(first, second, strict=True) for i, j in pairs]
    gained, lost = flips(table(first), table(second))
    for found, before in ((gained, False), (lost, True)):
        asked = [b[0] for a, b in each if a[0] is before]
        if not asked:
            assert found is None
            continue
        assert found.share == pytest.approx(np.mean([right is not before for right in asked]))
        low, high = found.interval
        assert 0 <= low <= found.share + 1e-9
        assert found.share - 1e-9 <= high <= 1
    apart = np.mean([Levenshtein.normalized_distance(a[1], b[1]) for a, b in each])
    assert distance(table(first), table(second)) == pytest.approx(apart)


def test_bare_rollouts_are_as_far_from_themselves_as_they_are_diverse():
    rng = np.random.default_rng(0)
    problems = [[(False, rng.integers(1, 9, 5).tolist()) for _ in range(4)] for _ in range(6)]
    rows = table(problems)
    groups = np.repeat(np.arange(6), 4)
    assert distance(rows, rows) == pytest.approx(spread(rows["response_ids"], groups))


@pytest.mark.parametrize(
    ("problems", "n", "before", "after"), [(30, 2, (1, 2), (2, 1)), (30, 4, (0.5, 2), (0.3, 3))]
)
def test_intervals_of_flips_cover(problems, n, before, after):
    """1,000 studies whose problems' accuracies are drawn from beta distributions. (100 problems
    covered in the same range, and took 44 s.)"""
    rng = np.random.default_rng(problems + n)
    truth = after[0] / sum(after)  # the two are independent
    hits = 0
    for _ in range(1000):
        x = rng.random((problems, n)) < rng.beta(*before, (problems, 1))
        y = rng.random((problems, n)) < rng.beta(*after, (problems, 1))
        wrong = (~x).sum(axis=1)
        both = wrong * y.sum(axis=1) - (~x & y).sum(axis=1)
        low, high = ratio_interval(both, (n - 1) * wrong)
        hits += low <= truth <= high
    assert 0.93 <= hits / 1000 <= 0.995, hits


def test_examples_and_heat_are_explored_from_one_protocol(small_protocol, small, tmp_path):
    """A stub engine that is right behind examples, and says something else when it is hot."""

    def choose(asked, index):
        if asked["demo_ids"]:
            return 0
        return 1 if asked["temperature"] <= 1.0 else 4

    own = small_protocol.sampling.model_copy(update={"samples": 2})
    demos = {"demonstrations": str(small / "demonstrations.parquet")}
    prompting = small_protocol.prompting.model_copy(update=demos)
    rules = {"sampling": own, "prompting": prompting, "benchmarks": {}}
    base = target(str(small / "base"))
    problems = tuple(
        Problem(f"p{at}", f"{at}+1", "AB"[at % 2], None, None, None, ("1", "2")) for at in range(6)
    )
    drawn = Benchmark("letters", problems, "choice", private=False)  # judged without a process
    with Evaluator(tmp_path, small_protocol.model_copy(update=rules), lambda *_: None) as evaluator:
        evaluator.engines = lambda _: StubEngines(choose)
        bare, steered, hot = explore(evaluator, base, drawn, [0, 1], [1.5])
        assert (bare.k, bare.distance, bare.gained.share) == (0, None, 0.0)
        assert (steered.k, steered.temperature, steered.gained.share) == (1, 1.0, 1.0)
        assert (hot.k, hot.temperature, hot.gained.share) == (0, 1.5, 0.0)
        assert steered.lost is hot.lost is None  # nothing was right
        assert steered.distance == hot.distance == 1.0
        assert hot.as_json()["gained"]["interval"][0] == 0.0
        assert evaluator.protocol.prompting.shots == small_protocol.prompting.shots
        few = own.model_copy(update={"samples": 1})
        evaluator.follow(evaluator.protocol.model_copy(update={"sampling": few}))
        with pytest.raises(ValueError, match="two samples a problem"):
            explore(evaluator, base, drawn, [1], [1.5])
