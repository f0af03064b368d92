"""Whether rewarded answers still look like gold answers: the sign of a policy that games verdicts.

A policy under training finds what a verifier accepts by mistake, and then its reward says success.
SmolLM2-135M, trained by GRPO on additions, came to answer the sum itself, as `11 + 30`, at a reward
of 1.00. What such an answer lacks is the look of a gold: it is of another form, it is longer, or it
stands in the problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.grading.golds import acceptable
from icpo_core.store.tables import Origin

FORMS, LENGTH, RESTATED = "answers/other_form", "answers/length_ratio", "answers/restated"
LEAST_CHARACTERS = 3
"""Of an answer that can be said to restate the problem; shorter ones stand anywhere."""
RESTATING, OTHER = 0.2, 0.5
"""Shares past which something is wrong."""
LEAST_ROWS = 4
"""Rewarded answers under which a share says nothing."""

_DRESS = re.compile(
    r"\\(?:boxed|text|mathrm|left|right|displaystyle|[,;!: ])|\\[()\[\]]|[\s{}$]|\.$"
    r"|(?<=\d),(?=\d{3})"
)
_FORMS = (
    ("number", re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)%?")),
    ("number", re.compile(r"[+-]?(?:\\[dt]?frac\d+|\d+/\d+)")),
    ("letters", re.compile(r"\(?[A-Za-z]+\)?")),
)


def figures(verdicts: pa.Table, prompts: pa.Table) -> dict[str, float]:
    """Of the rewarded answers of bare rollouts: the share of another form than the gold answer
    (`answers/other_form`), the median of their length over the gold's (`answers/length_ratio`) and
    the share that stands in the problem, where the gold is another text (`answers/restated`).

    verdicts, prompts: tables of one iteration. {} with fewer than `LEAST_ROWS` such answers.
    """
    chosen = pc.and_(
        pc.equal(verdicts["origin"], Origin.ON_POLICY), pc.equal(verdicts["status"], "correct")
    )
    columns = ["prompt_id", "extracted", "gold"]
    rows = verdicts.select(columns).filter(chosen).to_pylist()
    rows = [row for row in rows if row["extracted"]]
    if len(rows) < LEAST_ROWS:
        return {}
    keys, problems = prompts["prompt_id"].to_pylist(), prompts["problem"].to_pylist()
    text = {key: _bare(problem) for key, problem in zip(keys, problems, strict=True)}
    other, restated, ratios = 0, 0, []
    for row in rows:
        answer, golds = _bare(row["extracted"]), [_bare(one) for one in acceptable(row["gold"])]
        other += _form(answer) not in {_form(gold) for gold in golds}
        restates = len(answer) >= LEAST_CHARACTERS and answer in text.get(row["prompt_id"], "")
        restated += restates and answer not in golds
        ratios.append(len(answer) / max(1, max(map(len, golds))))
    return {
        FORMS: other / len(rows),
        LENGTH: float(median(ratios)),
        RESTATED: restated / len(rows),
    }


class Watch:
    """Looks at one iteration after another; says what is wrong once, until it is right again."""

    def __init__(self, rows: Iterable[Mapping[str, float]] = ()) -> None:
        """rows: figures of the iterations that are done."""
        self._first = next((row[FORMS] for row in rows if FORMS in row), None)
        self._said = False

    def look(self, figures: Mapping[str, float]) -> str | None:
        """What is newly wrong, in words."""
        if self._first is None:
            self._first = figures.get(FORMS)
        words = sign(figures, self._first or 0.0)
        said, self._said = self._said, words is not None
        return None if said else words


def sign(newest: Mapping[str, float], first: float = 0.0) -> str | None:
    """What is wrong with an iteration's figures, in words; None if nothing is.

    first: the share of another form when the run began. A data set whose right answers are of
    another form from the start is no sign: it has to be twice as many as then.
    """
    restated, other = newest.get(RESTATED, 0.0), newest.get(FORMS, 0.0)
    if restated > RESTATING:
        return f"{restated:.0%} of the rewarded answers restate the problem"
    if other > OTHER and other >= 2 * first:
        return (
            f"{other:.0%} of the rewarded answers are of another form than the gold answers "
            f"({first:.0%} at first)"
        )
    return None


def _bare(text: str) -> str:
    """Without what only dresses an answer: boxes, dollars, braces, spaces."""
    return _DRESS.sub("", text)


def _form(answer: str) -> str:
    for name, pattern in _FORMS:
        if pattern.fullmatch(answer):
            return name
    return "expression"
