"""What samples of a benchmark say: accuracy and its kin, with intervals clustered by problem.

Every figure is a mean over problems of a number a problem has, and its interval comes from drawing
problems, since samples of one problem are alike. Legend: N problems, n samples of a problem, c of
them correct, k as in pass@k.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.common.seeds import generator
from icpo_core.grading.extraction import extract
from icpo_core.grading.grade import VerdictStatus

LEVEL = 0.95
"""Nominal level of the intervals."""
DRAWS = 4000
"""Bootstrap draws."""
_DRAWN_AT_ONCE = 4_000_000  # problems, so that memory does not grow with the benchmark

_DRESS = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[,;:! ]|\\text(?=\{)|[\s${}]+|\.$")
_FRACTION = re.compile(r"\\[dt]frac(?![a-z])")


@dataclass(frozen=True)
class Problems:
    """Samples by problem: rewards, votes and what else the figures are made of."""

    ids: list[str]
    """Problems in the order of their first sample."""
    group: np.ndarray
    """(samples,) int64: place of each sample's problem."""
    reward: np.ndarray
    """(samples,) float64."""
    votes: list[str | None]
    """What each sample votes for; None for no answer. All correct ones vote for the same."""

    @cached_property
    def by_problem(self) -> list[list[str | None]]:
        """The votes of each problem."""
        found: list[list[str | None]] = [[] for _ in self.ids]
        for at, one in zip(self.group.tolist(), self.votes, strict=True):
            found[at].append(one)
        return found

    @property
    def counts(self) -> np.ndarray:
        """(N,) samples of each problem."""
        return np.bincount(self.group, minlength=len(self.ids))

    @property
    def correct(self) -> np.ndarray:
        """(N,) correct samples of each problem."""
        return np.bincount(self.group, self.reward, minlength=len(self.ids))


def scores(
    samples: pa.Table,
    questions: pa.Table | None = None,
    families: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Figures of each benchmark in a table of samples, by its name.

    Shares are in [0, 1], lengths in tokens, intervals [low, high] at `LEVEL`.

    accuracy (avg@k, the mean of a problem's samples), standard_error, interval, problems, samples,
    k (samples a problem), `avg@k`, `pass@k`, `maj@k`, `cons@k` by k with intervals, format (share
    of responses with an answer in the asked form), truncated, no_answer, unjudged (the judge timed
    out or failed; counted as wrong), mean_tokens, tokens (median, p95, right, wrong), and, with
    `questions` that tell them, subject and level.

    families: of problems, by id, where some are versions of one problem: then intervals draw
    families, as versions are alike.
    """
    found = {}
    for name in dict.fromkeys(samples["benchmark"].to_pylist()):
        mine = samples.filter(pc.equal(samples["benchmark"], name))
        asked = None
        if questions is not None:
            asked = questions.filter(pc.equal(questions["benchmark"], name))
        found[name] = _benchmark(mine, asked, families or {})
    return found


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that of k samples drawn from n without putting back at least one of the c correct ones
    is among them: 1 - C(n-c, k) / C(n, k), the unbiased estimator of Chen et al., 2021
    (arXiv 2107.03374, section 2.1). Needs n >= k."""
    assert 0 <= c <= n, (n, c)
    assert 1 <= k <= n, (n, k)
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def majority(votes: Sequence[str | None], right: str) -> float:
    """maj@k of one problem: 1 if the answer with the most votes is the right one; of answers that
    share the most votes each counts for its part. No answer is no vote."""
    if 2 * votes.count(right) > len(votes):
        return 1.0
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    leaders = [vote for vote, count in counts.items() if count == most]
    return 1.0 / len(leaders) if right in leaders else 0.0


def consensus(votes: Sequence[str | None], right: str) -> float:
    """cons@k of one problem: 1 if more than half of all k samples give the right answer."""
    return 1.0 if 2 * votes.count(right) > len(votes) else 0.0


def interval(values_N: np.ndarray, level: float = LEVEL) -> list[float]:
    """Confidence interval of the mean over problems, [low, high].

    values_N: (N,) one number a problem, in [0, 1]. Percentiles of the means of problems drawn with
    putting back, from the N problems and two more, one with 0 and one with 1: without the two, an
    interval of few hard problems is too short, and that of N problems without a right answer is a
    point. The percentiles are those that make up for the spread that N values lack (Hesterberg,
    2015, "expanded percentile"). Its width is only as good as the problems are a sample of others.
    """
    return intervals(values_N[:, None], level)[0]


def intervals(values_NM: np.ndarray, level: float = LEVEL) -> list[list[float]]:
    """`interval` of each of M columns, from the same draws."""
    N, M = values_NM.shape
    assert N, "an interval of no problems"
    padded = np.vstack([values_NM, np.zeros((1, M)), np.ones((1, M))])
    size = N + 2
    means = np.concatenate([drawn @ padded / size for drawn in _draws(size)])
    tail = expanded_tail(N, size, level)
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    middle = values_NM.mean(axis=0)
    # The two extra problems may draw the interval of a mean at 0 or 1 off its own estimate.
    return [[float(min(a, m)), float(max(b, m))] for a, b, m in zip(low, high, middle, strict=True)]


def ratio_interval(parts_N: np.ndarray, weights_N: np.ndarray, level: float = LEVEL) -> list[float]:
    """Confidence interval of sum(parts) / sum(weights) over problems, [low, high].

    parts_N, weights_N: (N,) numbers of a problem, 0 <= part <= weight, not all weights 0. As
    `interval`: problems are drawn, and two more of the mean weight, one with nothing and one with
    all of it. Problems without weight say nothing, and are left out.
    """
    told = weights_N > 0
    parts, weights = parts_N[told].astype(float), weights_N[told].astype(float)
    N, middle = len(weights), float(weights.mean())
    padded = np.stack(
        [np.append(parts, [0.0, middle]), np.append(weights, [middle, middle])], axis=1
    )
    sums = np.concatenate([drawn @ padded for drawn in _draws(N + 2)])
    shares = sums[:, 0] / sums[:, 1]
    tail = expanded_tail(N, N + 2, level)
    low, high = np.quantile(shares, [tail, 1.0 - tail])
    share = float(parts.sum() / weights.sum())
    return [float(min(low, share)), float(max(high, share))]


def _draws(size: int) -> Iterator[np.ndarray]:
    """How often each of `size` problems is drawn, (some, size) int32, `DRAWS` rows in all."""
    if DRAWS * size <= _DRAWN_AT_ONCE:
        yield _kept_draws(size)
        return
    rng = generator("bootstrap", size)
    at_once = max(1, _DRAWN_AT_ONCE // size)
    for first in range(0, DRAWS, at_once):
        yield _multinomial(rng, size, min(at_once, DRAWS - first))


@lru_cache(8)
def _kept_draws(size: int) -> np.ndarray:
    """The draws of a small benchmark, which every evaluation of it asks for again."""
    return _multinomial(generator("bootstrap", size), size, DRAWS)


def _multinomial(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    return rng.multinomial(size, np.full(size, 1.0 / size), size=count).astype(np.int32)


def expanded_tail(N: int, size: int, level: float = LEVEL) -> float:
    """Percentile of the means of `size` drawn values below which (1 - level) / 2 of the truth is,
    where N values were seen: Student's t and the divisor N - 1 in the place of the normal and N."""
    return NormalDist().cdf(-student(N - 1, level) * (size / max(N - 1, 1)) ** 0.5)


def grouped(samples: pa.Table) -> Problems:
    """The samples of one benchmark by problem."""
    names = samples["prompt_id"].to_pylist()
    place: dict[str, int] = {}
    group = np.array([place.setdefault(name, len(place)) for name in names], np.int64)
    reward = samples["reward"].to_numpy().astype(np.float64)
    status, extracted = samples["status"].to_pylist(), samples["extracted"].to_pylist()
    votes = [
        _RIGHT if one == VerdictStatus.correct else None if answer is None else _normal(answer)
        for one, answer in zip(status, extracted, strict=True)
    ]
    return Problems(list(place), group, reward, votes)


_RIGHT = "\0right"


def _benchmark(
    samples: pa.Table, questions: pa.Table | None, families: Mapping[str, str]
) -> dict[str, Any]:
    problems = grouped(samples)
    n_N, c_N = problems.counts, problems.correct
    k = int(n_N.min())
    means_N = c_N / n_N
    columns: dict[tuple[str, int], np.ndarray] = {("avg", k): means_N}
    for size in _sizes(k):
        columns["pass", size] = np.array(
            [pass_at_k(int(n), round(c), size) for n, c in zip(n_N, c_N, strict=True)]
        )
        columns["maj", size] = _voted(problems, size, majority)
        columns["cons", size] = _voted(problems, size, consensus)
    if families:
        names = [families.get(one, one) for one in problems.ids]
        family_N = np.unique(names, return_inverse=True)[1]
        sizes = np.bincount(family_N)
        around = [ratio_interval(np.bincount(family_N, one), sizes) for one in columns.values()]
        apart_N = np.bincount(family_N, means_N) / sizes
    else:
        around, apart_N = intervals(np.stack(list(columns.values()), axis=1)), means_N
    error = float(apart_N.std(ddof=1) / np.sqrt(len(apart_N))) if len(apart_N) > 1 else 0.0
    status = samples["status"].to_pylist()
    made: dict[str, Any] = {
        "accuracy": float(means_N.mean()),
        "standard_error": error,
        "interval": around[0],
        "problems": len(means_N),
        "samples": samples.num_rows,
        "k": k,
    }
    for kind in ("avg", "pass", "maj", "cons"):
        made[f"{kind}@k"] = {
            str(size): {"value": float(values.mean()), "interval": bounds}
            for ((name, size), values), bounds in zip(columns.items(), around, strict=True)
            if name == kind
        }
    made |= {
        "format": _formatted(samples),
        "truncated": _share(samples["finish_reason"].to_pylist(), "length"),
        "no_answer": _share(status, VerdictStatus.no_answer),
        "unjudged": _share(status, VerdictStatus.timeout, VerdictStatus.error),
    }
    made |= _lengths(samples)
    if questions is not None:
        for column in ("subject", "level"):
            if parts := _by(problems, means_N, questions, column):
                made[column] = parts
    return made


def _sizes(k: int) -> list[int]:
    """1, 2, 4, … and k itself."""
    powers = [1 << power for power in range(k.bit_length()) if 1 << power < k]
    return [*powers, k]


def _voted(
    problems: Problems, k: int, vote: Callable[[Sequence[str | None], str], float]
) -> np.ndarray:
    """(N,) mean of a vote over the disjoint runs of k samples that each problem has."""
    if k == 1:
        shares: np.ndarray = problems.correct / problems.counts
        return shares
    runs = [
        [mine[i : i + k] for i in range(0, len(mine) - k + 1, k)] for mine in problems.by_problem
    ]
    return np.array([sum(vote(run, _RIGHT) for run in mine) / len(mine) for mine in runs])


def _formatted(samples: pa.Table) -> float:
    """Share of responses with a boxed answer or, where the gold answer is a letter, with one."""
    responses, golds = samples["response"].to_pylist(), samples["gold"].to_pylist()
    free = {
        response for response, gold in zip(responses, golds, strict=True) if not _is_letter(gold)
    }
    boxed = {response: extract(response, "boxed").answer is not None for response in free}
    return float(
        np.mean(
            [
                _is_letter(answer or "") if _is_letter(gold) else boxed[response]
                for response, gold, answer in zip(
                    responses, golds, samples["extracted"].to_pylist(), strict=True
                )
            ]
        )
    )


def _is_letter(text: str) -> bool:
    return len(text) == 1 and "A" <= text <= "Z"


def _lengths(samples: pa.Table) -> dict[str, Any]:
    lengths = pc.list_value_length(samples["response_ids"]).to_numpy()
    right = samples["reward"].to_numpy() > 0
    tokens = {"median": float(np.median(lengths)), "p95": float(np.percentile(lengths, 95))}
    for name, mask in (("right", right), ("wrong", ~right)):
        if mask.any():
            tokens[name] = float(lengths[mask].mean())
    return {"mean_tokens": float(lengths.mean()), "tokens": tokens}


def _by(
    problems: Problems, means_N: np.ndarray, questions: pa.Table, column: str
) -> dict[str, dict[str, Any]]:
    """Accuracy of the problems of each subject or level; empty if there are none."""
    told = dict(zip(questions["prompt_id"].to_pylist(), questions[column].to_pylist(), strict=True))
    labels = [told.get(one) for one in problems.ids]
    made = {}
    for label in sorted({label for label in labels if label is not None}):
        values = means_N[[one == label for one in labels]]
        made[label] = {
            "accuracy": float(values.mean()),
            "interval": interval(values),
            "problems": len(values),
        }
    return made


@lru_cache(4096)
def _normal(answer: str) -> str:
    """An answer without its dress, so that wrong answers of one value mostly vote together."""
    return _DRESS.sub("", _FRACTION.sub(r"\\frac", answer.strip()))


def _share(values: Sequence[str], *wanted: str) -> float:
    return sum(one in wanted for one in values) / len(values)


def student(freedom: int, level: float) -> float:
    """Two-sided quantile of Student's t: exact for one and two degrees of freedom, else within 1%
    (Abramowitz and Stegun, 26.7.5)."""
    if freedom <= 1:
        return math.tan(math.pi * level / 2)
    if freedom == 2:
        return level * math.sqrt(2 / (1 - level**2))
    z = NormalDist().inv_cdf(0.5 + level / 2)
    v = freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def shown(figures: Mapping[str, Any]) -> str:
    """A benchmark's accuracy with its interval, for people: `41.7 [35.2, 48.5]`, in percent."""
    low, high = figures["interval"]
    return f"{figures['accuracy']:.1%} [{low:.1%}, {high:.1%}]".replace("%", "")
