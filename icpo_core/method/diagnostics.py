"""What a researcher looks for: one flat row an iteration.

Names that the selection's summary brings are passed on as they are (`reward/on_policy`,
`errs/acceptance`, `flips`, …); this module adds what is read off the rollouts themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.grading.grade import VerdictStatus
from icpo_core.method.rows import Rows
from icpo_core.store.tables import REWARD, Origin

DIVERSITY_TOKENS = 1024
"""Tokens of a response that the edit distance looks at: its cost grows with their square."""
DIVERSITY_PAIRS = 4096
"""Pairs compared in all, the same number in every group: all pairs up to 128 groups of eight."""


def iteration_row(
    prompts: pa.Table,
    outlines: pa.Table,
    verdicts: pa.Table,
    rows: Rows,
    summary: Mapping[str, float],
    diversity: float | None,
) -> dict[str, float]:
    """Figures of one iteration. A mean over nothing is left out.

    outlines, rows, summary: of `selection`. Adds lengths in tokens (`length/mean`,
    `length/p95`, `length/max`, by origin, and of right and wrong on-policy responses), `truncated`
    and `status/…` as shares of the rollouts, `diversity`, what on-policy rewards are made of
    (`reward/NAME`, a mean over those who did not abstain), and the share of problems for which no
    demonstration was used.
    """
    row = {name: float(value) for name, value in summary.items()}
    if prompts.num_rows:
        row["demonstrations/none"] = prompts["expert_prompt"].null_count / prompts.num_rows
    if not outlines.num_rows:
        return row
    row |= _lengths(rows)
    row["truncated"] = _share(outlines["finish_reason"], "length")
    for status in VerdictStatus:
        share = _share(verdicts["status"], status.value)
        # Only a verifier of one's own abstains: other runs go on with the same figures.
        if share or status is not VerdictStatus.abstained:
            row[f"status/{status}"] = share
    row |= _rewards(verdicts)
    row["judge/seconds"] = pc.mean(verdicts["seconds"]).as_py()
    if diversity is not None:
        row["diversity"] = diversity
    return row


class Diversity:
    """Mean over groups of the mean normalised edit distance between on-policy responses.

    Levenshtein distance over token ids divided by the longer length: 0 where all responses are the
    same, 1 where no token is kept. Looks at the first `DIVERSITY_TOKENS` tokens, and past
    `DIVERSITY_PAIRS` pairs at evenly spaced ones. The responses come part by part; of a group all
    are in one part.
    """

    def __init__(self, rows: Rows) -> None:
        """rows: all rollouts, of `selection`."""
        self._rows = rows
        self._most = _most_pairs(len(np.unique(rows.group[rows.policy])))
        self._means: dict[int, float] = {}

    def add(self, responses: pa.ChunkedArray, first: int = 0) -> None:
        """The responses, token ids, of a part whose first row is row `first` of all."""
        rows = self._rows
        mine_N = rows.policy & (rows.take >= first) & (rows.take < first + len(responses))
        parts = responses.take(rows.take[mine_N] - first)
        self._means |= _means(parts, rows.group[mine_N], self._most)

    def value(self) -> float | None:
        """None if no group has two responses."""
        means = [mean for _, mean in sorted(self._means.items())]
        return float(np.mean(means)) if means else None


def spread(responses: pa.ChunkedArray, groups: np.ndarray) -> float | None:
    """`Diversity` of responses (token ids) whose groups, (N,) int64, are sorted."""
    means = list(_means(responses, groups, _most_pairs(len(np.unique(groups)))).values())
    return float(np.mean(means)) if means else None


def _most_pairs(groups: int) -> int:
    """Of each group, with so many."""
    return max(1, DIVERSITY_PAIRS // max(1, groups))


def _means(responses: pa.ChunkedArray, groups: np.ndarray, most: int) -> dict[int, float]:
    """By group; those with fewer than two responses have none."""
    from rapidfuzz.distance import Levenshtein  # whoever only reads figures goes without

    texts = as_text(responses)
    means = {}
    for first, last in pairwise([0, *(np.flatnonzero(np.diff(groups)) + 1), len(groups)]):
        pairs = list(combinations(texts[first:last], 2))
        pairs = pairs[:: max(1, math.ceil(len(pairs) / most))]
        if pairs:
            total = sum(Levenshtein.normalized_distance(a, b) for a, b in pairs)
            means[int(groups[first])] = total / len(pairs)
    return means


def as_text(column: pa.ChunkedArray) -> list[str]:
    """The first `DIVERSITY_TOKENS` tokens of each response as a string with one character a token:
    what the C++ code takes fastest.

    There are 1,114,112 characters, several times more than the largest vocabulary.
    """
    responses: pa.ListArray = pc.list_slice(column, 0, DIVERSITY_TOKENS).combine_chunks()
    offsets = responses.offsets.to_numpy()
    characters = responses.values.to_numpy().astype("<u4").tobytes()
    return [
        characters[4 * first : 4 * last].decode("utf-32-le", "surrogatepass")
        for first, last in pairwise(offsets)
    ]


def _lengths(rows: Rows) -> dict[str, float]:
    figures = {
        "length/mean": float(rows.length.mean()),
        "length/p95": float(np.percentile(rows.length, 95)),
        "length/max": float(rows.length.max()),
    }
    masks = {str(origin): rows.origin == index for index, origin in enumerate(Origin)}
    masks["right"] = rows.policy & rows.known & rows.correct
    masks["wrong"] = rows.policy & rows.known & ~rows.correct
    for name, mask in masks.items():
        if mask.any():
            figures[f"length/{name}"] = float(rows.length[mask].mean())
    return figures


def _rewards(verdicts: pa.Table) -> dict[str, float]:
    names = [name for name in verdicts.column_names if name.startswith(REWARD)]
    failed = pc.is_in(verdicts["status"], pa.array(["timeout", "error"]))
    mine = pc.and_not(pc.equal(verdicts["origin"], Origin.ON_POLICY.value), failed)
    means = {name: pc.mean(verdicts[name].filter(mine)).as_py() for name in names}
    return {name: mean for name, mean in means.items() if mean is not None}


def _share(column: pa.ChunkedArray, value: str) -> float:
    return float(pc.sum(pc.equal(column, value)).as_py() / len(column))
