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
from icpo.data.mending import damage, mended_gold
from icpo.data.recipes import Row, gold_of, stated_answer
from icpo_core.grading.golds import acceptable, together
from icpo_core.grading.grade import Question, VerdictStatus
from icpo_core.grading.pool import Judges
from icpo_core.method.problems import normal_text
from icpo_core.method.templates import Template


class Reason(StrEnum):
    """Why a row was removed."""

    NOT_TEXT = "not_text"  # a value that is no text, number or list of such, or half a character
    NO_PROBLEM = "no_problem"  # the problem is empty
    NO_ANSWER = "no_answer"  # there is no gold answer, and none in the solution
    NO_SOLUTION = "no_solution"  # a demonstration or a trace without its solution
    DAMAGED_GOLD = "damaged_gold"  # the gold answer is cut short, broken, or no answer at all
    LANGUAGE = "language"  # the problem is in another language
    CONFLICT = "conflict"  # the problem stands more than once, with answers that differ
    DUPLICATE = "duplicate"  # an earlier row is the same problem with the same answer
    CONTAMINATION = "contamination"  # the problem is, or nearly is, one of an evaluation set
    PROMPT_LENGTH = "prompt_length"  # the bare prompt is longer than the token limit
    UNREADABLE_GOLD = "unreadable_gold"  # the verifier can make nothing of the gold answer
    WRONG_SOLUTION = "wrong_solution"  # the solution ends in another answer than the gold one


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


def faulty(rows: Sequence[Row]) -> dict[int, Removal]:
    """Rows with a value that their field cannot take."""
    return {
        place: Removal(Reason.NOT_TEXT, row.fault) for place, row in enumerate(rows) if row.fault
    }


def damaged(rows: Sequence[Row]) -> dict[int, Removal]:
    """Rows whose gold answer is damaged beyond `data.mending`. Of several answers those that are
    damaged go, and the row only with the last of them."""
    found = {}
    for place, row in enumerate(rows):
        if not row.has_answer:
            continue
        golds = acceptable(row.answer or "")
        # A lone letter is suspect where it is all there is.
        problem = row.problem or "" if len(golds) == 1 else " ".join(golds)
        faults = {gold: damage(gold, problem) for gold in golds}
        whole = [gold for gold, fault in faults.items() if fault is None]
        if not whole:
            found[place] = Removal(Reason.DAMAGED_GOLD, next(filter(None, faults.values())))
        elif len(whole) < len(golds):
            row.answer = together(whole)
            row.mended += ("damaged answer of several dropped",)
    return found


def contradicted(judges: Judges, unjudged: list[str]) -> Check:
    """Rows whose solution ends in another answer than their gold one: nobody knows which is right.

    The answer of a solution is read as that of a response: its last box, what follows ``####``,
    else what follows its last "answer is". Ids of rows whose solution shows none go to `unjudged`:
    they stay. What cannot be judged in time stays too.
    """

    def check(rows: Sequence[Row]) -> dict[int, Removal]:
        asked: dict[int, Question] = {}
        found = {}
        for place, row in enumerate(rows):
            if row.solution is None or not row.stated:
                continue
            if "<think>" in row.solution and "</think>" not in row.solution:
                found[place] = Removal(Reason.WRONG_SOLUTION, "it ends before it has an answer")
                continue
            said = gold_of(row.solution) or stated_answer(row.solution)
            if said is None:
                unjudged.append(row.id)
            elif "\\boxed" in row.solution:  # several boxes may be one answer
                asked[place] = Question(row.answer or "", row.solution)
            else:
                asked[place] = Question(row.answer or "", f"\\boxed{{{mended_gold(said)[0]}}}")
        verdicts = judges.judge(list(asked.values()))
        for place, verdict in zip(asked, verdicts, strict=True):
            if verdict.status is VerdictStatus.wrong:
                detail = f"it ends in {verdict.extracted}, and the gold answer is "
                found[place] = Removal(Reason.WRONG_SOLUTION, detail + (rows[place].answer or ""))
        return found

    return check


def incomplete(solutions: bool, answers: bool = True) -> Check:
    """Rows without a problem, or, where they are needed, without a solution or an answer."""

    def check(rows: Sequence[Row]) -> dict[int, Removal]:
        found = {}
        for place, row in enumerate(rows):
            if row.problem is None:
                found[place] = Removal(Reason.NO_PROBLEM)
            elif solutions and row.solution is None:
                found[place] = Removal(Reason.NO_SOLUTION)
            elif answers and row.answer is None and row.has_answer:
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
        held = [row for row in rows if row.has_answer]
        golds = {row.answer or "": acceptable(row.answer or "") for row in held}
        for gold in dict.fromkeys(one for several in golds.values() for one in several):
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
        found = {}
        for place, row in enumerate(rows):
            several = golds[row.answer or ""] if row.has_answer else []
            if several and all(gold in faults for gold in several):
                found[place] = Removal(Reason.UNREADABLE_GOLD, faults[several[0]])
        return found

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
        for gold, other in (pair, pair[::-1])
        for answer in acceptable(other)
    ]
    same = set(pairs)
    for (pair, _), verdict in zip(asked, judges.judge([one for _, one in asked]), strict=True):
        if verdict.status is not VerdictStatus.correct:
            same.discard(pair)
    return same | {(pair[0], pair[0]) for pair in pairs}
