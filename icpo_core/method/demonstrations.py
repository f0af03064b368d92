"""Which worked examples may be shown with a problem, and in which order they are tried."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from icpo_core.common.seeds import generator
from icpo_core.method.near_duplicates import NearDuplicates, words
from icpo_core.method.problems import SCORE
from icpo_core.method.templates import Example

Selection = Literal["random", "similar", "best"]


class Demonstrations:
    """A pool of worked examples for a set of problems.

    Never offered: an example without a solution, one that is a near-duplicate (`near_duplicates`)
    of a problem in an `excluded` set, and, with a problem, the problem itself or a near-duplicate
    of it. `left_out` counts the pool's rows that are never offered, by reason.

    `random` tries examples in an order seeded by (seed, iteration, problem's id); `similar` the
    nearest by BM25 of the problem texts first; `best` the highest `score` of the pool first.

    Raises ValueError with one line for a pool that cannot serve.
    """

    def __init__(
        self,
        pool: pa.Table,
        problems: pa.Table,
        excluded: Sequence[pa.Table],
        selection: Selection,
        seed: int,
    ) -> None:
        if pool.num_rows == 0:
            raise ValueError("the demonstrations have no rows: set prompts.demonstrations to a "
                             "pool of worked examples")  # fmt: skip
        solved = [solution is not None for solution in pool.column("solution").to_pylist()]
        shown = _texts(pool)
        index = NearDuplicates(shown)
        barred: set[int] = set()
        for table in excluded:
            for places in index.find(_texts(table)):
                barred.update(places)
        barred = {place for place in barred if solved[place]}
        self.left_out = {"no solution": solved.count(False), "excluded": len(barred)}
        kept = [place for place, whole in enumerate(solved) if whole and place not in barred]
        if not kept:
            raise ValueError(
                f"none of the {pool.num_rows} demonstrations can be shown "
                f"({self.left_out['no solution']} have no solution, {len(barred)} are problems of "
                "the sets in prompts.exclude): give a pool with column solution filled"
            )
        pool = pool.take(kept)
        self.ids: list[str] = pool.column("id").to_pylist()
        self.examples = [
            Example(problem, solution)
            for problem, solution in zip(
                _texts(pool), pool.column("solution").to_pylist(), strict=True
            )
        ]
        self._problem_ids: list[str] = problems.column("id").to_pylist()
        self._problems = _texts(problems)
        moved = {old: new for new, old in enumerate(kept)}
        same = {name: new for new, name in enumerate(self.ids)}
        self._forbidden: list[list[int]] = []
        for name, places in zip(self._problem_ids, index.find(self._problems), strict=True):
            found = {moved[place] for place in places if place in moved}
            if name in same:
                found.add(same[name])
            self._forbidden.append(sorted(found))
        self._seed = seed
        self._selection = selection
        if selection == "best":
            self._ranking = _by_score(pool)
        elif selection == "similar":
            import bm25s  # takes a second where numba is installed

            logging.getLogger("bm25s").setLevel(logging.WARNING)
            self._index = bm25s.BM25()
            tokens = [words(example.problem) or [""] for example in self.examples]
            self._index.index(tokens, show_progress=False)

    def __len__(self) -> int:
        return len(self.ids)

    def choices(self, problem: int, iteration: int) -> np.ndarray:
        """Places in `ids` and `examples` that may be shown, the first choice first, (n,) int64.

        `problem` is the problem's row. The same arguments give the same order.
        """
        order = self._order(problem, iteration)
        forbidden = self._forbidden[problem]
        return order[~np.isin(order, forbidden)] if forbidden else order

    def _order(self, problem: int, iteration: int) -> np.ndarray:
        if self._selection == "best":
            return self._ranking
        if self._selection == "similar":
            known = self._index.vocab_dict
            query = [word for word in words(self._problems[problem]) if word in known]
            if query:
                return np.argsort(-self._index.get_scores(query), kind="stable")
            return np.arange(len(self))
        name = self._problem_ids[problem]
        return generator(self._seed, "demonstrations", iteration, name).permutation(len(self))


def _texts(table: pa.Table) -> list[str]:
    texts: list[str] = table.column("problem").to_pylist()
    return texts


def _by_score(pool: pa.Table) -> np.ndarray:
    """Rows by falling score, equal ones in the pool's order. Raises ValueError without scores."""
    scores = pool.column(SCORE).to_pylist() if SCORE in pool.column_names else [None]
    if None in scores:
        raise ValueError(
            f"prompts.selection = best needs a number in column {SCORE!r} of every demonstration: "
            "add it, or choose random or similar"
        )
    return np.argsort(-np.array(scores, np.float64), kind="stable")
