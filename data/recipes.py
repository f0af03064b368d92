"""Recipes: where a data set's problem, gold answer and worked solution are to be found.

A column is named by a path such as `problem`, `reward_model.ground_truth` or `prompt.-1.content`
(the last message of a conversation); of several paths the first that holds something counts.
Without a gold answer of its own, a row's gold is read off its solution: what follows ``####``, else
its last ``\\boxed``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from icpo_core.grading.extraction import extract
from icpo_core.method.problems import problem_id, text_of

FIELDS = ("id", "problem", "answer", "solution", "source", "score")
_GOLD_MARK = "####"


@dataclass(slots=True)
class Row:
    """A problem on its way from a data set to a Parquet file; `row` counts from 1.

    `problem` and `answer` are None where the data set has none.
    """

    row: int
    id: str
    problem: str | None
    answer: str | None
    solution: str | None
    source: str
    score: float | None = None


@dataclass(frozen=True)
class Recipe:
    """A data set on the hub and the paths of its columns.

    unwrap: what stands around the problem and is no part of it. calculator: drop GSM8K's
    ``<<48/2=24>>`` and box the answer that ends its solutions. traces: rows without a solution are
    of no use. streaming: too large to be downloaded whole.
    """

    about: str
    columns: Mapping[str, tuple[str, ...]]
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    streaming: bool = False
    unwrap: tuple[re.Pattern[str], ...] = ()
    calculator: bool = False
    traces: bool = False
    named: frozenset[str] = field(default_factory=frozenset)

    def with_columns(self, columns: Mapping[str, str]) -> Recipe:
        """The recipe with some columns named by the user, who is then taken at their word."""
        for name in columns:
            if name not in FIELDS:
                raise ValueError(f"--column {name}: choose one of {', '.join(FIELDS)}")
        mine = {**self.columns, **{name: (path,) for name, path in columns.items()}}
        return Recipe(
            **{**self.__dict__, "columns": mine, "named": frozenset(columns)}  # frozen: a copy
        )

    def rows(self, raw: Iterable[Mapping[str, Any]], source: str) -> Iterator[Row]:
        """Rows as `Row`s, in order; `source` is the default of that column.

        Raises ValueError with one line if the first row lacks a needed column, or for a value that
        is neither text nor number.
        """
        texts: dict[str, str] = {}  # a problem that stands a hundred times is held once
        for number, values in enumerate(raw, 1):
            if number == 1:
                self._check(values, source)
            found: dict[str, str | None] = {}
            for name in FIELDS:
                try:
                    found[name] = _value(values, self.columns.get(name, ()))
                except TypeError as error:
                    raise ValueError(f"{source}: row {number}, {name}: {error}") from None
            problem = self._unwrapped(found["problem"])
            if problem is not None:
                problem = texts.setdefault(problem, problem)
            solution, answer = found["solution"], found["answer"]
            if answer is None and solution is not None:
                answer = gold_of(solution)
            elif answer is not None and _GOLD_MARK in answer:
                answer = gold_of(answer)
            if solution is not None and self.calculator:
                solution = _boxed_ending(solution)
            try:
                score = None if found["score"] is None else float(found["score"])
            except ValueError:
                raise ValueError(
                    f"{source}: row {number}, score: {found['score']!r} is no number"
                ) from None
            yield Row(
                number,
                found["id"] or problem_id(problem or f"row {number}"),
                problem,
                answer.strip() if answer else None,
                solution,
                found["source"] or source,
                score,
            )

    def _check(self, values: Mapping[str, Any], source: str) -> None:
        def there(name: str) -> bool:
            return any(_has(values, path) for path in self.columns.get(name, ()))

        needed = [*self.named, "problem"]
        if not there("solution"):
            needed.append("answer")
        for name in needed:
            if not there(name):
                paths = " or ".join(self.columns.get(name, ())) or name
                raise ValueError(
                    f"{source}: no column {paths}, found {', '.join(map(str, values))}; "
                    f"name yours with --column {name}=NAME"
                )

    def _unwrapped(self, problem: str | None) -> str | None:
        for pattern in self.unwrap if problem else ():
            problem = pattern.sub("", problem or "")
        return problem.strip() or None if problem else None


def gold_of(solution: str) -> str | None:
    """The gold answer that a solution ends in: after ``####``, else its last ``\\boxed``."""
    _, mark, after = solution.rpartition(_GOLD_MARK)
    if mark and after.strip():
        return after.strip()
    return extract(solution, "boxed").answer


def _value(row: Mapping[str, Any], paths: tuple[str, ...]) -> str | None:
    """The first value that is there, as text. A list is its only element, or its elements joined.

    Raises TypeError for anything but texts and numbers.
    """
    for path in paths:
        value = _at(row, path)
        if isinstance(value, list):
            texts = [text_of(element) for element in value]
            value = ", ".join(text for text in texts if text is not None)
        text = text_of(value)
        if text is not None:
            return text
    return None


def _at(row: Any, path: str) -> Any:
    """What stands at a path, or None."""
    if isinstance(row, Mapping) and path in row:
        return row[path]  # a column may have a dot in its name
    for step in path.split("."):
        if isinstance(row, Mapping):
            row = row.get(step)
        elif isinstance(row, list) and re.fullmatch(r"-?\d+", step):
            row = row[int(step)] if -len(row) <= int(step) < len(row) else None
        else:
            return None
    return row


def _has(row: Mapping[str, Any], path: str) -> bool:
    return path in row or path.split(".")[0] in row


def _boxed_ending(solution: str) -> str:
    solution = re.sub(r"<<[^<>]*>>", "", solution)
    before, mark, after = solution.rpartition(_GOLD_MARK)
    if not mark:
        return solution
    return f"{before.rstrip()}\nThe answer is \\boxed{{{after.strip()}}}."


_OWN = {name: (name,) for name in FIELDS}
_DAPO_WRAPPERS = (
    re.compile(r"\A\s*Solve the following math problem step by step\..*?\n\s*\n", re.S),
    re.compile(r"\s*Remember to put your answer on its own line after \"Answer:\"\.?\s*\Z"),
    re.compile(r"\A\s*让我们一步一步地思考。请以“Answer:.*?请只输出最终答案的数值。", re.S),
)

RECIPES: dict[str, Recipe] = {
    "columns": Recipe("any data set, by the names of its columns (--column)", _OWN),
    "openr1-46k": Recipe(
        "OpenR1-Math-46k-8192 with its DeepSeek-R1 traces (training set of LUFFY and of the paper)",
        {
            **_OWN,
            "problem": ("problem", "prompt.-1.content"),
            "answer": ("answer", "reward_model.ground_truth"),
            "solution": ("solution", "target.0.content", "target"),
            "source": ("source", "data_source"),
        },
        hub="Elliott/Openr1-Math-46k-8192",
        traces=True,
    ),
    "math": Recipe(
        "MATH, 7,500 training problems with solutions (the paper's demonstrations)",
        _OWN,
        hub="DigitalLearningGmbH/MATH-lighteval",
    ),
    "gsm8k": Recipe(
        "GSM8K, gold after ####",
        {**_OWN, "problem": ("problem", "question"), "solution": ("solution", "answer")},
        hub="openai/gsm8k",
        config="main",
        calculator=True,
    ),
    "dapo-17k": Recipe(
        "DAPO-Math-17k, integer answers, no solutions; on the hub every problem stands 100 times",
        {
            **_OWN,
            "problem": ("problem", "prompt.-1.content"),
            "answer": ("answer", "reward_model.ground_truth"),
            "source": ("source", "data_source"),
        },
        hub="BytedTsinghua-SIA/DAPO-Math-17k",
        streaming=True,
        unwrap=_DAPO_WRAPPERS,
    ),
    "deepscaler": Recipe(
        "DeepScaleR-Preview, 40,000 problems of AIME, AMC, Omni-MATH and Still",
        _OWN,
        hub="agentica-org/DeepScaleR-Preview-Dataset",
    ),
}
