"""A verifier of one's own: what a function or class returns, as findings.

A function `(response, answer, row)` returns the reward: a number or a bool, a mapping of named
parts whose sum is the reward, or None where it has none to give. A class without arguments is made
once; its `judge` takes a list of `Question`s and returns as many `Verdict`s, or what a function
returns. `row` holds the problem: `prompt_id`, `problem`, `answer`, `source`, `truncated`, `tokens`
(of the response), and `extra`, the data set's own column.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from icpo_core.common import plugins
from icpo_core.grading.grade import (
    Finding,
    GradingRules,
    Pair,
    Question,
    Verdict,
    VerdictStatus,
)
from icpo_core.grading.verifiers.base import Verifier

BATCH = 16
"""Questions that a class is handed at once, unless its attribute `batch` says otherwise."""
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names of rewards and their parts: they become names of columns and figures."""
TAKEN = frozenset({"on_policy", "expert", "trace"})
"""Figures `reward/…` that mean something else."""

Judge = Callable[[Sequence[Question]], Sequence[Any]]


class _Batched(Protocol):
    def judge(self, questions: list[Question]) -> Sequence[Any]: ...


@dataclass
class Own(Verifier):
    """The verifier that `spec` names (`file.py:name` or `package.module:name`)."""

    spec: str
    digest: str | None = None
    """sha256 that its source must have."""
    right_from: float = 1.0
    """The reward from which a response counts as right."""
    batch: int = field(default=1, init=False)
    """Questions handed out at once; known after `warm_up`."""
    _judge: Judge | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        return self.spec.rpartition(":")[2]

    def prejudge(
        self, question: Question, rules: GradingRules
    ) -> tuple[str | None, Finding | Pair]:
        row = json.dumps({**question.row, "truncated": question.truncated})
        return None, Pair(question.gold, (question.response,), row)

    def warm_up(self) -> None:
        """Execute the source; make the object of a class.

        Raises ValueError, in one line, for what is wrong with it."""
        thing = plugins.resolve(self.spec, "", self.digest)
        if not isinstance(thing, type):
            self._judge = lambda questions: [
                thing(one.response, one.gold, dict(one.row)) for one in questions
            ]
            return
        if not callable(getattr(thing, "judge", None)):
            raise ValueError(f"{self.spec}: the class has no judge(questions)")
        try:
            made = cast(_Batched, thing())
        except Exception as error:
            # It is somebody's program, and may raise anything.
            raise ValueError(
                f"{self.spec}: {plugins.why(error, plugins.source_of(self.spec))}"
            ) from error
        self.batch = int(getattr(made, "batch", BATCH))
        self._judge = lambda questions: made.judge(list(questions))

    def compare(self, pair: Pair, rules: GradingRules) -> Finding:
        return self.compare_all([pair], rules)[0]

    def compare_all(self, pairs: Sequence[Pair], rules: GradingRules) -> list[Finding]:
        """The findings on some pairs, at most `batch`. Raises what one's own code raises, and
        ValueError if what it returns is no reward."""
        if self._judge is None:
            self.warm_up()
        assert self._judge is not None
        questions = []
        for pair in pairs:
            row = json.loads(pair.row)
            questions.append(Question(pair.gold, pair.answers[0], row["truncated"], row))
        found = self._judge(questions)
        if not isinstance(found, list | tuple) or len(found) != len(pairs):
            count = len(found) if isinstance(found, list | tuple) else type(found).__name__
            raise ValueError(f"{self.name} returned {count} for {len(pairs)} questions")
        return [self._finding(one) for one in found]

    def _finding(self, value: Any) -> Finding:
        if isinstance(value, Verdict):
            parts = _parts(value.parts)
            reward = _number(value.reward, self.name)
            return Finding(value.status, value.detail, value.extracted, reward, parts)
        if value is None:
            return Finding(VerdictStatus.abstained, f"{self.name} abstains")
        if not isinstance(value, Mapping):
            return self._of(_number(value, self.name), self.name, {})
        parts = _parts(value)
        if all(one is None for one in parts.values()):
            return Finding(VerdictStatus.abstained, f"{self.name} abstains", parts=parts)
        return self._of(total(parts.values()), self.name, parts)

    def _of(self, reward: float, detail: str, parts: Mapping[str, float | None]) -> Finding:
        return Finding(status_of(reward, self.right_from), detail, None, reward, parts)


def status_of(reward: float, right_from: float) -> VerdictStatus:
    """Right from `right_from` on; the weights of several rewards may miss a sum by a rounding."""
    return VerdictStatus.correct if reward > right_from - 1e-6 else VerdictStatus.wrong


def total(parts: Iterable[float | None]) -> float:
    """Sum of the parts that did not abstain."""
    return math.fsum(one for one in parts if one is not None)


def _parts(value: Mapping[Any, Any]) -> dict[str, float | None]:
    parts = {}
    for name, one in value.items():
        if not isinstance(name, str) or not PART.fullmatch(name) or name in TAKEN:
            raise ValueError(
                f"a part of a reward cannot be named {name!r}: use letters, digits, '.', '_' and "
                f"'-', and not {', '.join(sorted(TAKEN))}"
            )
        parts[name] = None if one is None else _number(one, name)
    return parts


def _number(value: Any, name: str) -> float:
    if isinstance(value, str | bytes):
        raise ValueError(f"{name} returned {value!r:.40}: return a number, a dict of parts or None")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} returned {number}: return a finite number")
    return number
