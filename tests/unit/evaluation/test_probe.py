"""Steerability: figures against hand-made cases."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from icpo_core.evaluation.comparison import compare
from icpo_core.evaluation.evaluator import Evaluation
from icpo_core.evaluation.steerability import Advice, Reach, Shot, flips, gradient_share, judge


def rewards(table: dict[str, list[float]]) -> pa.Table:
    rows = [(name, at, one) for name, some in table.items() for at, one in enumerate(some)]
    return pa.table(
        {
            "prompt_id": [name for name, _, _ in rows],
            "sample_index": [at for _, at, _ in rows],
            "reward": [float(one) for _, _, one in rows],
        }
    )


def shot(
    k: int,
    table: dict[str, list[float]],
    bare: dict[str, list[float]] | None = None,
    cut: float = 0.25,
) -> Shot:
    accuracy = float(np.mean([np.mean(one) for one in table.values()]))
    evaluation = Evaluation(
        "m", "b", Path("x"), manifest=None, ids=[], made=0,
        figures={"accuracy": accuracy, "truncated": cut},
    )  # fmt: skip
    change = compare(rewards(bare), rewards(table)) if bare else None
    gained, lost = flips(rewards(bare), rewards(table)) if bare else (None, None)
    return Shot(k, float(k), evaluation, None, change, gained, lost)


def test_where_most_answers_are_cut_no_gain_decides_nothing():
    for steered in (SOME, HARD):
        found, sentence = judge(shot(0, SOME, cut=0.83), shot(1, steered, SOME, 0.92), NEAR, 0.01)
        assert found is Advice.UNDECIDED
        assert "92% of the answers were cut" in sentence
    found, _ = judge(shot(0, SOME, cut=0.83), shot(1, EASY, SOME, 0.92), NEAR, 0.01)
    assert found is Advice.STEER


def test_flips_pair_every_sample_with_every_other():
    gained, lost = flips(rewards({"a": [1, 0], "b": [0, 0]}), rewards({"a": [1, 1], "b": [1, 0]}))
    # Wrong: half of a, all of b. Of these right afterwards: all of a's, half of b's.
    assert gained == pytest.approx((0.5 * 1 + 1 * 0.5) / 1.5)
    assert lost == 0.0
    assert flips(rewards({"a": [1]}), rewards({"a": [0]})) == (None, 1.0)


def test_the_gradient_share_is_that_of_the_loss():
    """Against the derivative of f by the log-probability, of the loss itself."""
    logprob = torch.tensor(np.log([1e-7, 2.5e-4, 0.01, 0.5]), requires_grad=True)
    ratio = logprob.exp()
    (ratio / (ratio + 0.01)).sum().backward()
    assert logprob.grad is not None
    share = [gradient_share(float(p), 0.01) for p in logprob.detach().exp()]
    assert share == pytest.approx((4 * logprob.grad).tolist())
    assert share[2] == pytest.approx(1.0)


HARD = {f"p{at}": [0, 0, 0, 0] for at in range(30)}
EASY = {f"p{at}": [1, 1, 1, 1] for at in range(30)}
SOME = {f"p{at}": [at % 4 == 0] * 4 for at in range(30)}
NEAR = Reach(100, 0.8, 1e-4, 2.5e-4, gradient_share(2.5e-4, 0.01))
FAR = Reach(100, 0.5, 1e-9, 1e-7, gradient_share(1e-7, 0.01))


@pytest.mark.parametrize(
    ("bare", "steered", "reach", "advice", "words"),
    [
        (SOME, EASY, NEAR, Advice.STEER, "Steer: with k = 1 accuracy goes from 26.7% to 100.0%"),
        (SOME, EASY, FAR, Advice.OUT_OF_REACH, "warm the model up"),
        (EASY, EASY, NEAR, Advice.ALREADY_SOLVED, "right already"),
        (SOME, SOME, NEAR, Advice.NO_GAIN, "examples add nothing"),
        (SOME, HARD, None, Advice.NO_GAIN, "examples add nothing"),
        (HARD, HARD, None, Advice.UNDECIDED, "up to 25% of them were cut"),
        (
            SOME,
            {**SOME, "p1": [1, 1, 1, 1], "p2": [1, 1, 0, 0]},
            NEAR,
            Advice.UNDECIDED,
            "probe more problems",
        ),
    ],
)
def test_the_advice_follows_what_was_measured(bare, steered, reach, advice, words):
    found, sentence = judge(shot(0, bare), shot(1, steered, bare), reach, 0.01)
    assert found is advice
    assert words in sentence
    assert "\n" not in sentence
