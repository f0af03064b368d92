"""Why a row of a data set is not used, and the checks that find such rows.

A check takes rows and returns the ones to remove, by place, each with its reason and detail. A row
is removed by the first check that finds something; those after it do not see the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from icpo.data.language import language_of
from icpo.data.recipes import Row
from icpo_core.grading.grade import Question, VerdictStatus
from icpo_core.grading.pool import Judges
from icpo_core.method.problems import normal_text
from icpo_core.method.templates import Template


class Reason(StrEnum):
    """Why a row was removed."""

    NO_PROBLEM = "no_problem"  # the problem is empty
    NO_ANSWER = "no_answer"  # there is no gold answer, and none in the solution
    NO_SOLUTION = "no_solution"  # a demonstration or a trace without its solution
    LANGUAGE = "language"  # the problem is in another language
    CONFLICT = "conflict"  # the problem stands more than once, with answers that differ
    DUPLICATE = "duplicate"  # an earlier row is the same problem with the same answer
    CONTAMINATION = "contamination"  # the problem is, or nearly is, one of an evaluation set
    PROMPT_LENGTH = "prompt_length"  # the bare prompt is longer than the token limit
    UNREADABLE_GOLD = "unreadable_gold"  # the verifier can make nothing of the gold answer


@dataclass(frozen=True)
class Removal:
    """A reason, and what a person needs to check it."""

    reason: Reason
    detail: str = ""


MOST_WORDS = 8
"""A gold answer with more words of three letters and more is prose."""
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_PROSE_WORD = re.compile(r"[^\W\d_]{3,}")
_WORD = re.compile(r"[^\W\d_]{4,}|\b(?:and|or)\b")
# What makes a gold answer more than one expression: lists, relations, intervals, units, bases.
_STRUCTURE = re.compile(
    r"[,;:=<>\[\]$%°]|\\(?:leq?(?:slant)?|geq?(?:slant)?|neq?|in|cup|cap|text\w*|mbox|math\w+|pm|mp|circ|degree|begin|to"
    r"|equiv|infty|p?mod)(?![A-Za-z])|\d_"
)

Check = Callable[[Sequence[Row]], dict[int, Removal]]

REMOVED_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # of the source, from 1
        pa.field("id", pa.string(), nullable=False),
        pa.field("problem", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)


def clean(rows: Sequence[Row], checks: Sequence[Check]) -> tuple[list[Row], pa.Table]:
    """The rows that pass every check, in order, and the others as a table of `REMOVED_SCHEMA`."""
    kept = list(rows)
    removed: list[tuple[Row, Removal]] = []
    for check in checks:
        found = check(kept)
        removed += [(kept[place], removal) for place, removal in found.items()]
        kept = [row for place, row in enumerate(kept) if place not in found]
    removed.sort(key=lambda entry: entry[0].row)
    columns = {
        "row": [row.row for row, _ in removed],
        "id": [row.id for row, _ in removed],
        "problem": [row.problem for row, _ in removed],
        "answer": [row.answer for row, _ in removed],
        "reason": [str(removal.reason) for _, removal in removed],
        "detail": [removal.detail for _, removal in removed],
    }
    return kept, pa.table(columns, schema=REMOVED_SCHEMA)


def incomplete(solutions: bool) -> Check:
    """Rows without a problem or an answer, or, where `solutions` are needed, without one."""

    def check(rows: Sequence[Row]) -> dict[int, Removal]:
        found = {}
        for place, row in enumerate(rows):
            if row.problem is None:
                found[place] = Removal(Reason.NO_PROBLEM)
            elif solutions and row.solution is None:
                found[place] = Removal(Reason.NO_SOLUTION)
            elif row.answer is None:
                found[place] = Removal(Reason.NO_ANSWER)
        return found

    return check


def foreign(language: str) -> Check:
    """Problems that are not in `language`, an ISO 639-1 code."""

    def check(rows: Sequence[Row]) -> dict[int, Removal]:
        # Data sets that repeat a problem a hundred times are read as fast as any.
        spoken = {text: language_of(text, language) for text in {row.problem or "" for row in rows}}
        return {
            place: Removal(Reason.LANGUAGE, spoken[row.problem or ""])
            for place, row in enumerate(rows)
            if spoken[row.problem or ""] != language
        }

    return check


def repeated(judges: Judges) -> Check:
    """Problems that stand more than once, by `normal_text`.

    If the verifier takes their answers for the same, the first stays. If not, nobody knows which is
    right, and all go.
    """

    def check(rows: Sequence[Row]) -> dict[int, Removal]:
        normal = {text: normal_text(text) for text in {row.problem or "" for row in rows}}
        groups: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            groups.setdefault(normal[row.problem or ""], []).append(place)
        several = [places for places in groups.values() if len(places) > 1]
        pairs = {
            (rows[places[0]].answer or "", rows[place].answer or "")
            for places in several
            for place in places[1:]
        }
        same = _same_answers(sorted(pairs), judges)
        found = {}
        for places in several:
            first = rows[places[0]]
            answers = dict.fromkeys(rows[place].answer or "" for place in places)
            if all((first.answer or "", answer) in same for answer in answers):
                for place in places[1:]:
                    found[place] = Removal(Reason.DUPLICATE, f"of {first.id}")
            else:
                detail = f"answers {', '.join(answers)} (first at {first.id})"
                for place in places:
                    found[place] = Removal(Reason.CONFLICT, detail)
        return found

    return check


def too_long(template: Template, limit: int) -> Check:
    """Problems whose bare prompt is longer than `limit` tokens."""

    def check(rows: Sequence[Row]) -> dict[int, Removal]:
        texts = [template.render(row.problem or "") for row in rows]
        counts = [len(ids) for ids in template.tokenize(texts)]
        return {
            place: Removal(Reason.PROMPT_LENGTH, f"{count} tokens")
            for place, count in enumerate(counts)
            if count > limit
        }

    return check


def unreadable(judges: Judges) -> Check:
    """Gold answers that the verifier cannot use.

    Each is put to it, in processes that can be killed, as a model might write it: a plain
    expression with zero added, which takes parsing, anything else with other spacing. What it does
    not accept even then would reward nobody. Prose is refused too: no model repeats a sentence word
    for word.
    """

    def check(rows: Sequence[Row]) -> dict[int, Removal]:
        faults: dict[str, str] = {}
        asked: dict[str, str] = {}
        for gold in dict.fromkeys(row.answer or "" for row in rows):
            prose = len(_PROSE_WORD.findall(_COMMAND.sub(" ", gold)))
            if not any(letter.isalnum() for letter in gold):
                faults[gold] = "no letter and no digit"
            elif prose > MOST_WORDS:
                faults[gold] = f"{prose} words"
            elif not _NUMBER.fullmatch(gold):
                asked[gold] = _rewritten(gold)
        questions = [Question(gold, f"\\boxed{{{text}}}") for gold, text in asked.items()]
        for (gold, text), verdict in zip(asked.items(), judges.judge(questions), strict=True):
            if verdict.status is not VerdictStatus.correct:
                faults[gold] = f"{text} is judged {verdict.status}: {verdict.detail}"
        return {
            place: Removal(Reason.UNREADABLE_GOLD, faults[row.answer or ""])
            for place, row in enumerate(rows)
            if (row.answer or "") in faults
        }

    return check


def _rewritten(gold: str) -> str:
    """The gold answer in other clothes that the verifier must see through."""
    bare = gold.strip().rstrip(".")
    if _STRUCTURE.search(bare) or _WORD.search(_COMMAND.sub(" ", bare)):
        return f"{{{gold}}}"
    return f"({bare})+0"


def _same_answers(pairs: Sequence[tuple[str, str]], judges: Judges) -> set[tuple[str, str]]:
    """The pairs that the verifier takes for one answer, whichever of both is the gold."""
    asked = [
        (pair, Question(gold, f"\\boxed{{{answer}}}"))
        for pair in pairs
        for gold, answer in (pair, pair[::-1])
    ]
    same = set(pairs)
    for (pair, _), verdict in zip(asked, judges.judge([one for _, one in asked]), strict=True):
        if verdict.status is not VerdictStatus.correct:
            same.discard(pair)
    return same | {(pair[0], pair[0]) for pair in pairs}
