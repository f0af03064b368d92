"""Recipes: where a data set's problem, gold answer and worked solution are to be found.

A column is named by a path such as `problem`, `reward_model.ground_truth` or `prompt.-1.content`
(the last message of a conversation); of several paths the first that holds something counts.
Without a gold answer of its own, a row's gold is read off its solution: what follows ``####``, else
its last ``\\boxed``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from icpo.data import columns
from icpo.data.mending import absent, mended_gold, mended_text
from icpo_core.grading.extraction import extract
from icpo_core.grading.golds import together
from icpo_core.method.problems import as_json, problem_id
from icpo_core.store.tables import EXTRA

FIELDS = ("id", "problem", "answer", "solution", "source", "score")
_GOLD_MARK = "####"
_HALF = re.compile("[\ud800-\udfff]")
_STATED = re.compile(r"(?:final\s+)?answer\s*(?:is|:)[\s*:]*(?=\S)([^\n]+)", re.I)
_ONLY = re.compile(
    r"\$*\s*\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}\s*\$*\.?|\$+([^$\n]+)\$+\.?"
    r"|([-+]?[\d.,]*\d(?:/\d+)?)"
)


@dataclass(slots=True)
class Row:
    """A problem on its way from a data set to a Parquet file; `row` counts from 1.

    `problem` and `answer` are None where the data set has none; an answer may stand for several
    (`icpo_core.grading.golds`). `fault`: why a value is none that the field can take. `mended`:
    what was done to its texts. `stated`: the gold answer is the data set's own, and not read off
    the solution.
    """

    row: int
    id: str
    problem: str | None
    answer: str | None
    solution: str | None
    source: str
    score: float | None = None
    fault: str = ""
    mended: tuple[str, ...] = ()
    stated: bool = True
    extra: str | None = None
    """What is for the verifier alone, as JSON."""

    @property
    def has_answer(self) -> bool:
        """Whether a gold answer says what is right, and not column `extra` alone."""
        return self.answer is not None or self.extra is None


@dataclass(frozen=True)
class Recipe:
    """A data set on the hub and the paths of its columns.

    unwrap: what stands around the problem and is no part of it. calculator: drop GSM8K's
    ``<<48/2=24>>`` and box the answer that ends its solutions. traces: rows without a solution are
    of no use. streaming: too large to be downloaded whole. guess: columns that are not named are
    found by `data.columns`. kinds: what was found to stand in a field's column. lenient: a value of
    the wrong kind is a fault of its row, and no error. only: how the source of its rows begins;
    others are no part of it. programs: its solutions are programs that compute the answer, so there
    is none to read, and its rows are of use as demonstrations only.
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
    guess: bool = False
    kinds: Mapping[str, str] = field(default_factory=dict)
    lenient: bool = False
    only: str = ""
    programs: bool = False

    def with_columns(self, columns: Mapping[str, str]) -> Recipe:
        """The recipe with some columns named by the user, who is then taken at their word."""
        for name in columns:
            if name not in (*FIELDS, EXTRA):
                raise ValueError(f"--column {name}: choose one of {', '.join((*FIELDS, EXTRA))}")
        mine = {**self.columns, **{name: (path,) for name, path in columns.items()}}
        return replace(self, columns=mine, named=frozenset(columns))

    def fitted(self, sample: Sequence[Mapping[str, Any]], source: str) -> tuple[Recipe, list[str]]:
        """The recipe for a data set that begins with `sample`, and what each field is taken from,
        a line each. Raises ValueError with one line if a needed column is missing."""
        if not self.guess:
            self._check(sample, source)
            there = {
                name: next((path for path in paths if any(_has(row, path) for row in sample)), None)
                for name, paths in self.columns.items()
            }
            if any(columns.at(row, self._extra) is not None for row in sample):
                there[EXTRA] = self._extra
            lines = [f"{name:9} from {path}" for name, path in there.items() if path]
            return replace(self, lenient=True), lines
        found = columns.found(sample, source)
        for name in self.named:
            found.pop(name, None)
        paths = {name: (one.path,) for name, one in found.items()}
        mine = {name: paths_ for name, paths_ in self.columns.items() if name in self.named} | paths
        kinds = {name: one.kind for name, one in found.items()}
        kinds |= {name: "list" for name in self.named if name == "answer"}
        recipe = replace(
            self, columns=mine, kinds=kinds, lenient=True, unwrap=INSTRUCTIONS, calculator=True
        )
        recipe._check(sample, source)
        said = {name: one.about() for name, one in found.items()}
        said |= {name: f"{mine[name][0]} (as you say)" for name in self.named}
        if any(columns.at(row, self._extra) is not None for row in sample):
            said.setdefault(EXTRA, f"{self._extra} (for the verifier)")
        lines = [f"{name:9} from {said[name]}" for name in (*FIELDS, EXTRA) if name in said]
        used = {path.split(".")[0] for (path, *_) in mine.values()} | {self._extra.split(".")[0]}
        left = sorted({str(name) for row in sample for name in row} - used - set(said.values()))
        if left:
            lines.append(f"not used: {', '.join(left)}")
        return recipe, lines

    def rows(
        self,
        raw: Iterable[Mapping[str, Any]],
        source: str,
        where: Callable[[int], str] | None = None,
    ) -> Iterator[Row]:
        """Rows as `Row`s, in order; `source` is the default of that column. `where`: what the row
        of a number is called.

        Raises ValueError with one line if the first row lacks a needed column, for a score that is
        no number, and, where the recipe is not `fitted`, for a value that is neither text nor
        number.
        """
        where = where or (lambda number: f"{source}: row {number}")
        texts: dict[str, str] = {}  # a problem that stands a hundred times is held once
        for number, values in enumerate(raw, 1):
            if number == 1 and not self.lenient:
                self._check([values], source)
            found: dict[str, str | None] = {}
            fault = ""
            for name in FIELDS:
                try:
                    found[name] = self._field(name, values)
                except TypeError as error:
                    if not self.lenient:
                        raise ValueError(f"{where(number)}, {name}: {error}") from None
                    found[name] = None
                    fault = fault or f"{where(number)}, {name}: {error}"
            mended: list[str] = []
            if not (found["source"] or source).startswith(self.only):
                continue
            problem = found["problem"]
            if problem is not None:
                problem, done = mended_text(problem)
                mended += [f"{what} in the problem" for what in done]
                problem = self._unwrapped(problem)
            if problem is not None:
                problem = texts.setdefault(problem, problem)
            solution, answer = found["solution"], found["answer"]
            if solution is not None:
                solution, done = mended_text(solution)
                mended += [f"{what} in the solution" for what in done]
            stated = answer is not None
            if answer is None and solution is not None:
                answer = gold_of(solution) or (self.guess and stated_answer(solution)) or None
                if self.guess and only_answer(solution):
                    answer, solution, stated = answer or only_answer(solution), None, True
            elif answer is not None and _GOLD_MARK in answer:
                if self.guess and solution is None and answer.partition(_GOLD_MARK)[0].strip():
                    solution, stated = answer, False
                answer = gold_of(answer)
            if answer is not None:
                answer, done = _mended_answers(answer)
                mended += [f"{what} in the answer" for what in done]
            if solution is not None and self.calculator:
                solution = _boxed_ending(solution)
            try:
                score = None if found["score"] is None else float(found["score"])
            except ValueError:
                raise ValueError(
                    f"{where(number)}, score: {found['score']!r} is no number"
                ) from None
            yield Row(
                number,
                found["id"] or problem_id(problem or f"row {number}"),
                problem,
                answer,
                solution,
                found["source"] or source,
                score,
                fault,
                tuple(mended),
                stated,
                as_json(columns.at(values, self._extra)),
            )

    @property
    def _extra(self) -> str:
        """Path of column `extra`."""
        return self.columns.get(EXTRA, (EXTRA,))[0]

    def _field(self, name: str, values: Mapping[str, Any]) -> str | None:
        """The text of a field of one row. Raises TypeError for what it cannot take."""
        kind, paths = self.kinds.get(name), self.columns.get(name, ())
        if kind == "messages":
            (path,) = paths
            value = columns.at(values, path)
            said = columns.spoken(value, "assistant" if name == "solution" else "user")
            if said is None and columns.messages_of(value) is None:
                said = columns.text_of(value)
        elif kind == "true or false":
            (path,) = paths
            value = columns.at(values, path)
            said = str(value) if isinstance(value, bool) else columns.text_of(value)
        elif name == "answer":
            said = _gold(values, paths)
        else:
            said = _value(values, paths)
        if said is not None and (half := _HALF.search(said)):
            raise TypeError(
                f"half a character (\\u{ord(half[0]):04x}, a lone surrogate); write the text again "
                "with whole characters, or drop the row"
            )
        return said

    def _check(self, sample: Sequence[Mapping[str, Any]], source: str) -> None:
        def there(name: str) -> bool:
            paths = self.columns.get(name, ())
            return any(_has(values, path) for values in sample for path in paths)

        needed = [*self.named, "problem"]
        verifier = any(columns.at(values, self._extra) is not None for values in sample)
        if not there("solution") and not verifier:
            needed.append("answer")
        for name in needed:
            if not there(name):
                paths = " or ".join(self.columns.get(name, ())) or name
                raise ValueError(
                    f"{source}: no column {paths}, found {', '.join(map(str, sample[0]))}; "
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


def stated_answer(solution: str) -> str | None:
    """What follows the last "the answer is" of a solution, on its line."""
    found = _STATED.findall(solution)
    return (found[-1].strip().rstrip(".").strip() or None) if found else None


def only_answer(solution: str) -> str | None:
    """The answer that a "solution" is nothing but: a box, a formula or a number (TRL's column
    `solution` holds the gold answer); None of a worked solution."""
    match = _ONLY.fullmatch(solution.strip())
    return next(group for group in match.groups() if group).strip() if match else None


def _mended_answers(answer: str) -> tuple[str | None, list[str]]:
    texts, done = [], []
    for text in columns.listed(answer) or [answer]:
        text, what = mended_gold(text)
        done += what
        if text and not absent(text):
            texts.append(text)
    return (together(texts) if texts else None), list(dict.fromkeys(done))


def _gold(row: Mapping[str, Any], paths: tuple[str, ...]) -> str | None:
    """The first gold answer that is there; a list is several, any of which is right."""
    for path in paths:
        value = columns.at(row, path)
        many = columns.listed(value)
        texts = [columns.text_of(one) for one in ([value] if many is None else many)]
        there = [text for text in texts if text is not None]
        if there:
            return together(there)
    return None


def _value(row: Mapping[str, Any], paths: tuple[str, ...]) -> str | None:
    """The first value that is there, as text. A list is its only element, or its elements joined.

    Raises TypeError for anything but texts and numbers.
    """
    for path in paths:
        value = columns.at(row, path)
        if isinstance(value, list):
            texts = [columns.text_of(element) for element in value]
            value = ", ".join(text for text in texts if text is not None)
        text = columns.text_of(value)
        if text is not None:
            return text
    return None


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

_BOXED = r"\\boxed\s*\{(?:\s|your answer|answer)*\}"
INSTRUCTIONS = (
    *_DAPO_WRAPPERS,
    re.compile(
        r"\s*(?:Let's think step by step(?:,? and|\.)|Please reason step by step,?(?: and)?|Please|"
        r"You must|You should|Make sure to)?\s*"
        r"(?:output|put|provide|present|write|give|place|return|enclose) "
        rf"(?:the|your) (?:final )?answer\s+(?:(?:with)?in(?:side)? \$?{_BOXED}\$?"
        r'|after "####"|in LaTe[xX] format:? ' + _BOXED + r")\s*(?:notation)?\.?\s*\Z",
        re.I,
    ),
)
"""What trainers and their data sets write around a problem: the prompt has its own instruction."""

RECIPES: dict[str, Recipe] = {
    "columns": Recipe(
        "any data set: its columns are found, or named with --column", _OWN, guess=True
    ),
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
    "skywork-or1": Recipe(
        "Skywork-OR1-RL-Data, 105,055 mathematical problems, no solutions",
        {
            **_OWN,
            "problem": ("problem", "prompt.-1.content"),
            "answer": ("answer", "reward_model.ground_truth"),
            "source": ("source", "data_source"),
        },
        hub="Skywork/Skywork-OR1-RL-Data",
        split="math",
        unwrap=INSTRUCTIONS,
    ),
    "mathinstruct-pot": Recipe(
        "MathInstruct's programs of thought (PoT): solutions in Python, for demonstrations",
        {**_OWN, "problem": ("instruction",), "solution": ("output",)},
        hub="TIGER-Lab/MathInstruct",
        unwrap=(
            re.compile(
                r"\s*(?:Please|Let's|Write)\b[^.?!]*\b[Pp](?:rogram|ython)\b[^.?!]*[.!]?\s*\Z"
            ),
        ),
        only="data/PoT/",
        programs=True,
    ),
}
