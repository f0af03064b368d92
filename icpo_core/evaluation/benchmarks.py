"""Benchmarks that were read: the problems of a file, in one form whatever its columns.

A local file, of the hub's columns (`icpo_core.evaluation.registry`) or of `id, problem, answer,
solution`, serves as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icpo_core.common.files import canonical_digest
from icpo_core.common.seeds import generator
from icpo_core.evaluation.registry import Entry, Kind, entry
from icpo_core.grading.extraction import extract
from icpo_core.method import gym
from icpo_core.method.problems import as_json, problem_id, read_problems, read_rows, text_of
from icpo_core.store.tables import EXTRA

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GOLD_MARK = "####"  # GSM8K


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
    family: str | None = None
    """What all versions of one problem have in common."""

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
    def families(self) -> dict[str, str]:
        """The family of each problem that has one, by the problem's id."""
        return {one.id: one.family for one in self.problems if one.family is not None}

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
    generated = path.startswith(gym.PREFIX)
    if not generated and not file.is_file():
        raise ValueError(
            f"{path}: no such file; check the path, or leave it out to have {name} from the hub"
        )
    rows = read_problems(path).to_pylist() if generated else read_rows(file)
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
        answer = gold_of(answer)
    named = text(known.id)
    if named and known.instance:
        named = f"{named}-{text((known.instance,))}"
    return Problem(
        id=named or problem_id(problem),
        problem=problem.strip(),
        answer=answer,
        solution=text(known.solution),
        subject=text(known.subject),
        level=text(known.level),
        options=options,
        extra=extra,
        family=text((known.family,)) if known.family else None,
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


def gold_of(answer: str) -> str:
    """A gold answer without the worked solution before it (GSM8K) or around it (a box)."""
    _, mark, after = answer.rpartition(_GOLD_MARK)
    if mark:
        return re.sub(r"(?<=\d),(?=\d{3})", "", after.strip())
    boxed = extract(answer, "boxed").answer if r"\boxed" in answer else None
    return boxed or answer.strip()


def _at(row: Any, column: str) -> Any:
    """What stands at a dotted path, or None."""
    if isinstance(row, Mapping) and column in row:
        return row[column]
    for step in column.split("."):
        row = row.get(step) if isinstance(row, Mapping) else None
    return row
