"""The benchmarks that the method is judged on, and how any file becomes one.

An entry of the registry says where a benchmark is had, which columns hold what, how many problems
it must have, how many samples the paper takes, and what its authors ask of those who use it. Ids,
configurations, splits, columns and sizes are those of the Hugging Face hub's data set cards. A
local file, of the hub's columns or of `id, problem, answer, solution`, serves as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from icpo_core.common.files import canonical_digest
from icpo_core.common.seeds import generator
from icpo_core.method.problems import as_json, problem_id, read_rows, text_of
from icpo_core.store.tables import EXTRA

Kind = Literal["math", "choice"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GOLD_MARK = "####"  # GSM8K


@dataclass(frozen=True)
class Entry:
    """What is known of a benchmark. Of several columns the first that a row has counts; a dot
    leads into a nested value."""

    name: str
    about: str
    licence: str
    hub: str | None = None
    config: str | None = None
    split: str = "test"
    sizes: tuple[int, ...] = ()
    """Numbers of problems that the published versions have; empty: any."""
    samples: int = 1
    """Samples a problem in the paper's protocol (avg@k); 1: pass@1."""
    kind: Kind = "math"
    private: bool = False
    """Its authors ask that its text is not published: it stays out of logs and reports."""
    id: tuple[str, ...] = ("id",)
    problem: tuple[str, ...] = ("problem", "question")
    answer: tuple[str, ...] = ("answer", "answerKey")
    solution: tuple[str, ...] = ("solution",)
    subject: tuple[str, ...] = ("subject", "meta.subject")
    level: tuple[str, ...] = ("level", "meta.level")
    options: tuple[str, ...] = ("options", "choices.text", "choices")
    """Columns with the list of a multiple choice's options."""
    labels: tuple[str, ...] = ("choices.label",)
    """Columns with the options' own names, where the answer is one of these."""
    wrong: tuple[str, ...] = ()
    """Columns with one wrong option each, where `answer` has the text of the right one."""


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "aime2024",
            "AIME 2024 I and II, integer answers from 0 to 999",
            "problems are the MAA's",
            hub="HuggingFaceH4/aime_2024",
            split="train",
            sizes=(30,),
            samples=32,
        ),
        Entry(
            "aime2025",
            "AIME 2025 I and II, integer answers from 0 to 999",
            "problems are the MAA's",
            hub="math-ai/aime25",
            sizes=(30,),
            samples=32,
        ),
        Entry(
            "amc2023",
            "AMC 12 2023 A and B, the problems with integer answers",
            "problems are the MAA's",
            hub="math-ai/amc23",
            sizes=(40,),
            samples=32,
        ),
        Entry(
            "math500",
            "MATH-500, by subject and level",
            "MIT",
            hub="HuggingFaceH4/MATH-500",
            sizes=(500,),
            id=("id", "unique_id"),
        ),
        Entry(
            "minerva",
            "Minerva Math: MIT OpenCourseWare problems with numeric and symbolic answers",
            "MIT OpenCourseWare, CC BY-NC-SA 4.0",
            hub="math-ai/minervamath",
            sizes=(272,),
            subject=("type", "meta.type"),
        ),
        Entry(
            "olympiadbench",
            "OlympiadBench, English text-only open-ended mathematics (OE_TO_maths_en_COMP)",
            "Apache-2.0",
            hub="Hothan/OlympiadBench",
            config="OE_TO_maths_en_COMP",
            split="train",
            sizes=(674, 675),  # the hub's; the one of Qwen2.5-Math's evaluation
            answer=("final_answer", "answer"),
            subject=("subfield", "meta.subfield"),
            level=(),
        ),
        Entry(
            "gsm8k",
            "GSM8K test, integer answers after ####",
            "MIT",
            hub="openai/gsm8k",
            config="main",
            sizes=(1319,),
        ),
        Entry(
            "mmlu-pro",
            "MMLU-Pro, up to ten options, by category",
            "MIT",
            hub="TIGER-Lab/MMLU-Pro",
            sizes=(12032,),
            kind="choice",
            id=("id", "question_id"),
            answer=("answer_index", "answer"),
            subject=("category",),
        ),
        Entry(
            "gpqa-diamond",
            "GPQA-Diamond, four options; gated on the hub",
            "CC BY 4.0; its authors ask not to reveal examples in plain text or images online",
            hub="Idavidrein/gpqa",
            config="gpqa_diamond",
            split="train",
            sizes=(198,),
            kind="choice",
            private=True,
            id=("Record ID", "id"),
            problem=("Question", "question"),
            answer=("Correct Answer",),
            wrong=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
            subject=("High-level domain",),
            level=("Subdomain",),
        ),
        Entry(
            "arc-c",
            "ARC-Challenge test, mostly four options",
            "CC BY-SA 4.0",
            hub="allenai/ai2_arc",
            config="ARC-Challenge",
            sizes=(1172,),
            kind="choice",
        ),
    )
}

GROUPS: dict[str, tuple[str, ...]] = {
    "math": ("aime2024", "aime2025", "amc2023", "math500", "minerva", "olympiadbench"),
    "ood": ("arc-c", "gpqa-diamond", "mmlu-pro"),
}
GROUPS["paper"] = GROUPS["math"] + GROUPS["ood"]
"""Names that stand for several benchmarks: the columns of the paper's tables."""


@dataclass(frozen=True)
class Problem:
    """One problem of a benchmark. `options` is None where the answer is free."""

    id: str
    problem: str
    answer: str
    """Gold answer; of a multiple choice the letter in the order of `options`."""
    solution: str | None
    subject: str | None
    level: str | None
    options: tuple[str, ...] | None = None
    extra: str | None = None
    """JSON for verifiers."""

    @property
    def text(self) -> str:
        """What is asked: the problem, and its options a line each under their letters."""
        if self.options is None:
            return self.problem
        lines = [f"{LETTERS[at]}. {option}" for at, option in enumerate(self.options)]
        return "\n".join([self.problem, "", *lines])


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that was read."""

    name: str
    problems: tuple[Problem, ...]
    kind: Kind
    private: bool

    def drawn(self, count: int, seed: int) -> Benchmark:
        """Some of its problems, drawn by the seed, in the benchmark's order."""
        if count >= len(self.problems):
            return self
        order = generator("drawn", seed, self.name).permutation(len(self.problems))[:count]
        chosen = tuple(self.problems[at] for at in sorted(order.tolist()))
        return Benchmark(self.name, chosen, self.kind, self.private)

    @property
    def asked(self) -> str:
        """Digest of what is asked: ids and texts, in order."""
        return canonical_digest([[one.id, one.text] for one in self.problems])

    @property
    def golds(self) -> str:
        """Digest of the gold answers, and of what verifiers are told."""
        told = [[one.extra] if one.extra else [] for one in self.problems]
        return canonical_digest(
            [[one.id, one.answer, *more] for one, more in zip(self.problems, told, strict=True)]
        )

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """What verifiers of one's own are told of each problem, by its id."""
        return {
            one.id: {
                "prompt_id": one.id,
                "problem": one.text,
                "answer": one.answer,
                "source": self.name,
                EXTRA: json.loads(one.extra or "{}"),
            }
            for one in self.problems
        }


def entry(name: str) -> Entry:
    """The registry's entry, or one for a file that it does not know: math, or multiple choice
    where the file has options."""
    return ENTRIES.get(name, Entry(name, "a local file", "yours to know"))


def read(name: str, path: str, option_seed: int | None = 0) -> Benchmark:
    """Read a benchmark from a Parquet, JSONL, JSON or CSV file.

    option_seed: options of a multiple choice are put in an order drawn by (seed, name, problem's
    id), so that no position is favoured and memorised letters are of no use; None: as given.

    Raises ValueError with one line that names the file and the mend: a missing column or value, a
    number of problems that no published version has, an answer that is none of the options. The
    line holds no text of a problem.
    """
    known = entry(name)
    file = Path(path)
    if not file.is_file():
        raise ValueError(
            f"{path}: no such file; check the path, or leave it out to have {name} from the hub"
        )
    rows = read_rows(file)
    if known.sizes and len(rows) not in known.sizes:
        sizes = " or ".join(map(str, known.sizes))
        raise ValueError(
            f"{path}: {name} has {sizes} problems, this file {len(rows)}; give the whole benchmark "
            f"(sampling.limit takes a part of it), or call the file by another name"
        )
    if not rows:
        raise ValueError(f"{path}: has no rows; name another file")
    problems = [_problem(known, row, f"{path}: row {at}") for at, row in enumerate(rows, 1)]
    ids = [one.id for one in problems]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise ValueError(f"{path}: two rows have the same id {twice!r}; ids must differ")
    if option_seed is not None:
        problems = [_shuffled(one, option_seed, name) for one in problems]
    choices = [one.options is not None for one in problems]
    if any(choices) and not all(choices):
        raise ValueError(f"{path}: some rows have options and some have none; part them")
    return Benchmark(name, tuple(problems), "choice" if choices[0] else "math", known.private)


def _problem(known: Entry, row: Mapping[str, Any], where: str) -> Problem:
    def text(columns: Sequence[str]) -> str | None:
        for column in columns:
            value = _at(row, column)
            try:
                if isinstance(value, list):
                    value = ", ".join(filter(None, map(text_of, value)))
                found = text_of(value)
            except TypeError as error:
                raise ValueError(f"{where}, column {column!r}: {error}") from None
            if found is not None:
                return found
        return None

    problem, answer, extra = text(known.problem), text(known.answer), as_json(row.get(EXTRA))
    if answer is None and extra is not None:
        answer = ""  # what is right is said by column `extra`
    for what, value, columns in (
        ("problem", problem, known.problem),
        ("answer", answer, known.answer),
    ):
        if value is None:
            raise ValueError(f"{where} has no {what} (column {' or '.join(columns)})")
    assert problem is not None
    assert answer is not None
    options = _options(known, row)
    if options is not None:
        answer = LETTERS[_right_option(known, row, options, answer, where)]
    else:
        answer = _after_mark(answer)
    return Problem(
        id=text(known.id) or problem_id(problem),
        problem=problem.strip(),
        answer=answer,
        solution=text(known.solution),
        subject=text(known.subject),
        level=text(known.level),
        options=options,
        extra=extra,
    )


def _options(known: Entry, row: Mapping[str, Any]) -> tuple[str, ...] | None:
    if known.wrong and all(_at(row, column) is not None for column in known.wrong):
        listed = [_at(row, column) for column in (known.answer[0], *known.wrong)]
    else:
        found = [_at(row, column) for column in known.options]
        listed = next((one for one in found if isinstance(one, list)), [])
    options = tuple(str(one).strip() for one in listed)
    return options if 2 <= len(options) <= len(LETTERS) else None


def _right_option(
    known: Entry, row: Mapping[str, Any], options: tuple[str, ...], answer: str, where: str
) -> int:
    """Place of the right option: told by its label, its index from 0, its letter or its text."""
    labels = next((found for one in known.labels if (found := _at(row, one))), None)
    if labels and answer in map(str, labels):
        return [str(label) for label in labels].index(answer)
    if answer.isdecimal() and int(answer) < len(options):
        return int(answer)
    if len(answer) == 1 and answer in LETTERS[: len(options)]:
        return LETTERS.index(answer)
    if answer.strip() in options:
        return options.index(answer.strip())
    raise ValueError(f"{where}: the answer is none of the {len(options)} options")


def _shuffled(problem: Problem, seed: int, name: str) -> Problem:
    if problem.options is None:
        return problem
    order = generator("options", seed, name, problem.id).permutation(len(problem.options))
    right = LETTERS.index(problem.answer)
    return replace(
        problem,
        answer=LETTERS[order.tolist().index(right)],
        options=tuple(problem.options[at] for at in order),
    )


def _after_mark(answer: str) -> str:
    _, mark, after = answer.rpartition(_GOLD_MARK)
    return re.sub(r"(?<=\d),(?=\d{3})", "", after.strip()) if mark else answer.strip()


def _at(row: Any, column: str) -> Any:
    """What stands at a dotted path, or None."""
    if isinstance(row, Mapping) and column in row:
        return row[column]
    for step in column.split("."):
        row = row.get(step) if isinstance(row, Mapping) else None
    return row
