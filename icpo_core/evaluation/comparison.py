"""Two models on the same problems: the difference, whether it may be chance, and what flipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from icpo_core.common.seeds import generator
from icpo_core.evaluation.scores import expanded_tail

EXACT = 16
"""Up to so many problems that differ, all signs are tried."""
SIGNS = 20_000
"""Else so many draws of signs."""
DRAWS = 4000
FLIPS_SHOWN = 8
"""Problems that are named of those that flipped."""


@dataclass(frozen=True)
class Comparison:
    """What changes from model a to model b on the problems that both have."""

    problems: int
    accuracy: tuple[float, float]
    """Of a and of b, on these problems."""
    difference: float
    """b minus a."""
    interval: list[float]
    """Of the difference, at `scores.LEVEL`, problems drawn with putting back."""
    p_value: float
    """Chance of a difference at least as large, in either direction, if a and b were alike."""
    gained: list[str]
    """Problems that a mostly gets wrong and b mostly right."""
    lost: list[str]
    """The other way round."""
    p_holm: float | None = None
    """The p-value as one of all comparisons that are shown together (`holm`)."""

    def as_json(self) -> dict[str, Any]:
        return {
            "problems": self.problems,
            "accuracy": list(self.accuracy),
            "difference": self.difference,
            "interval": self.interval,
            "p_value": self.p_value,
            "p_holm": self.p_holm,
            "gained": self.gained,
            "lost": self.lost,
        }


@dataclass(frozen=True)
class Agreement:
    """Two judges on the same samples."""

    share: float
    """Of the samples that have the same verdict."""
    only_first: list[str]
    """Problems with a sample that only the first judge calls right."""
    only_second: list[str]


def agreement(first: pa.Table, second: pa.Table) -> Agreement:
    """Two tables of the same samples, by two judges: `prompt_id`, `sample_index`, `reward`."""
    x, y = (
        {(row["prompt_id"], row["sample_index"]): row["reward"] > 0 for row in one.to_pylist()}
        for one in (first, second)
    )
    assert x.keys() == y.keys(), "other samples"
    apart = [key for key in x if x[key] != y[key]]
    parts = [sorted({key[0] for key in apart if said[key]}) for said in (x, y)]
    return Agreement(1.0 - len(apart) / len(x), *parts)


def compare(a: pa.Table, b: pa.Table) -> Comparison:
    """Compare two tables of samples of one benchmark, paired by problem.

    Only columns `prompt_id` and `reward` are looked at. The p-value is that
    of the sign-flip permutation test on the problems' differences in accuracy: it asks only that
    under no effect a problem's difference is as likely to be minus itself. A problem flips where
    its accuracy passes one half (a half counts as wrong).

    Raises ValueError if the tables have no problem in common.
    """
    first, second = (accuracies(one) for one in (a, b))
    shared = [one for one in first if one in second]
    if not shared:
        raise ValueError(
            "the two have no problem in common: compare evaluations of the same benchmark"
        )
    x = np.array([first[one] for one in shared])
    y = np.array([second[one] for one in shared])
    rng = generator("comparison", len(shared))
    size = len(shared)
    drawn = rng.multinomial(size, np.full(size, 1.0 / size), size=DRAWS) @ (y - x) / size
    tail = expanded_tail(size, size)
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    right_x, right_y = x > 0.5, y > 0.5
    return Comparison(
        problems=size,
        accuracy=(float(x.mean()), float(y.mean())),
        difference=float(y.mean() - x.mean()),
        interval=[float(low), float(high)],
        p_value=sign_flip(y - x, rng),
        gained=[one for one, a, b in zip(shared, right_x, right_y, strict=True) if b and not a],
        lost=[one for one, a, b in zip(shared, right_x, right_y, strict=True) if a and not b],
    )


def sign_flip(differences_N: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p-value of the permutation test that flips the signs of paired differences.

    Exact while at most `EXACT` of them are not 0; else by `SIGNS` draws, never below 1 / (SIGNS+1).
    """
    moved = differences_N[differences_N != 0]
    if not len(moved):
        return 1.0
    seen = abs(moved.sum()) - 1e-9  # sums of the same numbers in another order
    if len(moved) <= EXACT:
        bits = np.arange(1 << len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float(np.mean(np.abs((2 * bits - 1) @ moved) >= seen))
    hits, left = 0, SIGNS
    while left:
        count = min(left, max(1, 2_000_000 // len(moved)))
        signs = 2 * rng.integers(0, 2, size=(count, len(moved)), dtype=np.int8) - 1
        hits += int(np.sum(np.abs(signs @ moved) >= seen))
        left -= count
    return (hits + 1) / (SIGNS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of tests that are looked at together, in their order (Holm 1979): under no effect
    anywhere, the chance that any of them is below α is at most α."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def accuracies(samples: pa.Table) -> dict[str, float]:
    """Mean reward of each problem in a table of samples."""
    ids, group = np.unique(samples["prompt_id"].to_pylist(), return_inverse=True)
    means = np.bincount(group, samples["reward"].to_numpy()) / np.bincount(group)
    return dict(zip(ids.tolist(), means.tolist(), strict=True))


def some(ids: list[str]) -> str:
    """The first ids of many, in brackets; nothing for none."""
    more = ", …" if len(ids) > FLIPS_SHOWN else ""
    return f" ({', '.join(ids[:FLIPS_SHOWN])}{more})" if ids else ""
