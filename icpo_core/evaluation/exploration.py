"""What lies outside of the bare prompt's rollouts: worked examples beside raised temperatures.

The paper's Figure 3 asks whether in-context examples explore better than heat does. Two figures say
so, of rollouts from the same problems: how far they are from the bare rollouts (edit distance), and
how much of what was wrong turns right (flips), or the other way round.

Rollouts of one number have one seed, and at two temperatures they begin alike. So a rollout is
never paired with the other one of its number. Legend: N problems, n rollouts of a problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.evaluation.benchmarks import Benchmark
from icpo_core.evaluation.evaluator import Evaluation, Evaluator
from icpo_core.evaluation.scores import ratio_interval
from icpo_core.evaluation.target import Target
from icpo_core.method.diagnostics import DIVERSITY_PAIRS, as_text, spread


@dataclass(frozen=True)
class Flips:
    """A share of pairs of rollouts, with its interval over problems."""

    share: float
    interval: list[float]


@dataclass(frozen=True)
class Explored:
    """Rollouts of one way to sample, against those of the bare prompt."""

    k: int
    """Worked examples in the prompt."""
    temperature: float
    evaluation: Evaluation
    diversity: float | None
    """Mean normalised edit distance between its rollouts of one problem."""
    distance: float | None
    """The same between its rollouts and the bare ones of the problem; None of the bare ones."""
    gained: Flips | None
    """Of what is wrong under the bare prompt, how much is right here; of the bare prompt itself,
    when it is asked again. None if nothing is wrong."""
    lost: Flips | None
    """Of what is right there, how much is wrong here."""

    def as_json(self) -> dict[str, Any]:
        figures = self.evaluation.figures
        told = ("accuracy", "interval", "truncated", "mean_tokens")
        return {
            "k": self.k,
            "temperature": self.temperature,
            **{key: figures[key] for key in told},
            "diversity": self.diversity,
            "distance": self.distance,
            "gained": vars(self.gained) if self.gained else None,
            "lost": vars(self.lost) if self.lost else None,
        }


def explore(
    evaluator: Evaluator,
    target: Target,
    benchmark: Benchmark,
    shots: Sequence[int],
    temperatures: Sequence[float],
) -> list[Explored]:
    """The bare prompt, each number of worked examples, and each temperature without examples.

    The evaluator's protocol names demonstrations, the bare temperature and at least two samples a
    problem. Samples are stored and found again like those of any evaluation.

    Raises ValueError for fewer samples.
    """
    base = evaluator.protocol
    if base.samples(benchmark.name) < 2:
        raise ValueError("--temperatures needs two samples a problem: --samples 2 or more")
    heat = base.sampling.temperature
    ways = dict.fromkeys([(0, heat), *((k, heat) for k in shots), *((0, t) for t in temperatures)])
    found: list[Explored] = []
    bare: pa.Table | None = None
    for k, temperature in ways:
        prompting = base.prompting.model_copy(update={"shots": k})
        sampling = base.sampling.model_copy(update={"temperature": temperature})
        update = {"prompting": prompting, "sampling": sampling}
        evaluator.follow(base.model_copy(update=update))
        done = evaluator.evaluate(target, benchmark)
        rows = done.read("prompt_id", "sample_index", "reward", "response_ids")
        rows = rows.sort_by([("prompt_id", "ascending"), ("sample_index", "ascending")])
        groups = np.unique(rows["prompt_id"].to_pylist(), return_inverse=True)[1]
        gained, lost = flips(bare or rows, rows)
        found.append(
            Explored(
                k=k,
                temperature=temperature,
                evaluation=done,
                diversity=spread(rows["response_ids"], groups),
                distance=distance(bare, rows) if bare else None,
                gained=gained,
                lost=lost,
            )
        )
        bare = bare or rows
    evaluator.follow(base)
    return found


def flips(bare: pa.Table, other: pa.Table) -> tuple[Flips | None, Flips | None]:
    """Gained and lost from one table of rollouts to another, sorted by problem and number, with n
    rollouts of each problem in both. None where nothing is wrong, or right, to begin with."""
    x, y = _right(bare), _right(other)
    n = x.shape[1]
    return _share(1 - x, y, n), _share(x, 1 - y, n)


def _share(first_Nn: np.ndarray, second_Nn: np.ndarray, n: int) -> Flips | None:
    """Of pairs (i, j), i ≠ j, whose i is in `first`, the share whose j is in `second`."""
    weights_N = (n - 1) * first_Nn.sum(axis=1)
    if not weights_N.sum():
        return None
    both_N = first_Nn.sum(axis=1) * second_Nn.sum(axis=1) - (first_Nn * second_Nn).sum(axis=1)
    share = float(both_N.sum() / weights_N.sum())
    return Flips(share, ratio_interval(both_N, weights_N))


def _right(rows: pa.Table) -> np.ndarray:
    """(N, n) 1 where right."""
    problems = pc.count_distinct(rows["prompt_id"]).as_py()
    right: np.ndarray = (rows["reward"].to_numpy() > 0).astype(np.int64).reshape(problems, -1)
    return right


def distance(bare: pa.Table, other: pa.Table) -> float:
    """Mean over problems of the mean normalised edit distance (as `diagnostics.diversity` has it)
    between a rollout of one table and one of the other, of another number. The tables are sorted
    by problem and number. Past `DIVERSITY_PAIRS` pairs it looks at evenly spaced ones."""
    from rapidfuzz.distance import Levenshtein

    first, second = (as_text(one["response_ids"]) for one in (bare, other))
    problems = pc.count_distinct(bare["prompt_id"]).as_py()
    n = len(first) // problems
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    pairs = pairs[:: max(1, -(-len(pairs) * problems // DIVERSITY_PAIRS))]
    means = [
        np.mean([Levenshtein.normalized_distance(first[at + i], second[at + j]) for i, j in pairs])
        for at in range(0, len(first), n)
    ]
    return float(np.mean(means))
