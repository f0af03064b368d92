"""What the columns of a data set are for, told by their names and by what stands in them.

The names are those that people and their tools give: plain tables, verl's Parquet
(`reward_model.ground_truth`), TRL's (`prompt`, `solution` or `completion`), OpenR1's, chat
messages. Of several names the first counts that most of the sampled rows fill with what the field
can take.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from icpo_core.method import problems

SAMPLE = 200
"""Rows that are looked at before it is told what the columns are."""

_VERL_GOLD = ("reward_model.ground_truth", "reward_model.ground_truth.target")
NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "uuid", "unique_id", "problem_id", "question_id", "_id"),
    "problem": (
        "problem", "question", "prompt", "query", "problem_statement", "messages", "conversations",
        "conversation", "instruction", "extra_info.question", "input", "text",
    ),
    "answer": (
        *_VERL_GOLD, "answer", "gold", "final_answer", "expected_answer", "ground_truth",
        "gold_answer", "reference_answer", "correct_answer", "gt_answer", "gt", "answers",
        "ground_truth.target", "target", "label", "extra_info.answer",
    ),
    "solution": (
        "solution", "worked_solution", "solution_text", "rationale", "reasoning", "explanation",
        "cot", "chain_of_thought", "response", "output", "completion", "generation", "target",
        "messages", "conversations", "conversation", "extra_info.answer",
    ),
    "source": ("source", "data_source", "dataset"),
    "score": ("score",),
}  # fmt: skip
_TAKES = {
    "id": {"text"},
    "problem": {"text", "messages"},
    "answer": {"text", "list", "true or false"},
    "solution": {"text", "messages"},
    "source": {"text"},
    "score": {"text"},
}
_CHOICES = ("choices", "options")
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


@dataclass(frozen=True)
class Column:
    """Where a field was found, and what stands there."""

    field: str
    path: str
    kind: str  # text, list, messages, true or false

    def about(self) -> str:
        """The column for a person to check."""
        said = {
            "list": "a list: any of its answers is right",
            "messages": "messages: the last of the assistant"
            if self.field == "solution"
            else "messages: the last of the user",
            "true or false": "true or false",
        }
        return f"{self.path} ({said[self.kind]})" if self.kind in said else self.path


def found(sample: Sequence[Mapping[str, Any]], source: str) -> dict[str, Column]:
    """The column of each field that the sampled rows have. Raises ValueError for options of a
    multiple choice: they are no part of the problem's text."""
    tops = {_plain(name): name for row in reversed(sample) for name in row}
    for name in _CHOICES:
        if name in tops and any(row.get(tops[name]) for row in sample):
            raise ValueError(
                f"{source}: has a column {tops[name]!r}, and a problem without its options cannot "
                "be solved; write them into the problem, and drop the column"
            )
    columns: dict[str, Column] = {}
    for field, names in NAMES.items():
        fits, misfits = [], []
        for name in names:
            top, dot, rest = name.partition(".")
            path = name if name in tops.values() else f"{tops.get(top, top)}{dot}{rest}"
            kinds = Counter(kind for row in sample if (kind := _kind(at(row, path))))
            if not kinds:
                continue
            kind, filled = kinds.most_common(1)[0]
            if kind in _TAKES[field]:
                fits.append((filled >= len(sample) / 2, Column(field, path, kind)))
            else:
                misfits.append(Column(field, path, "text"))
        fits.sort(key=lambda fit: not fit[0])
        if fits:
            columns[field] = fits[0][1]
        elif misfits and field in ("problem", "answer"):
            columns[field] = misfits[0]  # each row will say what is wrong with it
    if "score" in columns and not all(
        isinstance(at(row, columns["score"].path), int | float | None) for row in sample
    ):
        del columns["score"]
    answer, solution = columns.get("answer"), columns.get("solution")
    if answer and solution and answer.path == solution.path:
        del columns["solution"]
    return columns


def at(row: Any, path: str) -> Any:
    """What stands at a path, or None. A text that holds JSON is looked into."""
    if isinstance(row, Mapping) and path in row:
        return row[path]  # a column may have a dot in its name
    for step in path.split("."):
        if isinstance(row, str):
            row = _literal(row)
        if isinstance(row, Mapping):
            row = row.get(step)
        elif isinstance(row, list) and re.fullmatch(r"-?\d+", step):
            row = row[int(step)] if -len(row) <= int(step) < len(row) else None
        else:
            return None
    return row


def text_of(value: Any) -> str | None:
    """A text or a number as text; None for what is absent or blank. Raises TypeError otherwise."""
    if isinstance(value, bool):
        raise TypeError(f"a text or a number is needed, not bool ({str(value).lower()})")
    if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        return format(Decimal(repr(value)), "f")  # 0.0000001, and not 1e-07
    return problems.text_of(value)


def listed(value: Any) -> list[Any] | None:
    """A list of acceptable answers, also as the JSON text of one (`["5"]`); None of all else."""
    if isinstance(value, str) and re.match(r'\s*\[\s*["\']', value):
        value = _literal(value)
    return value if isinstance(value, list) else None


def spoken(value: Any, role: str) -> str | None:
    """What the last message of a role says; None where `value` holds no messages, or none of it.

    Raises TypeError for several turns of the user, and for messages that hold more than text.
    """
    messages = messages_of(value)
    if not messages:
        return None
    said = [content for who, content in messages if who == role]
    if role == "user" and len(said) > 1:
        raise TypeError(f"a conversation of {len(said)} turns; one problem a row is needed")
    return text_of(_joined(said[-1])) if said else None


def messages_of(value: Any) -> list[tuple[str, Any]] | None:
    """Roles and contents of chat messages, of whichever convention; None of anything else."""
    if isinstance(value, str):
        value = _literal(value) if re.match(r"\s*\[\s*\{", value) else None
    if not isinstance(value, list) or not value:
        return None
    messages = []
    for one in value:
        if not isinstance(one, Mapping):
            return None
        role = one.get("role", one.get("from"))
        if role is None or not ("content" in one or "value" in one):
            return None
        messages.append((_ROLES.get(str(role), str(role)), one.get("content", one.get("value"))))
    return messages


def _joined(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    if any(not isinstance(part, Mapping) or part.get("type") != "text" for part in content):
        raise TypeError("a message that holds more than text")
    return "\n".join(str(part.get("text") or "") for part in content)


def _kind(value: Any) -> str | None:
    if value is None or value in ("", [], {}) or value != value:  # NaN
        return None
    if isinstance(value, bool):
        return "true or false"
    if messages_of(value):
        return "messages"
    if (many := listed(value)) is not None:
        plain = all(isinstance(one, str | int | float | Decimal) for one in many)
        return "list" if plain else "other"
    return "text" if isinstance(value, str | int | float | Decimal) else "other"


def _literal(text: str) -> Any:
    """JSON, or Python's way of writing the same (pandas writes it into a CSV); else None."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", str(name).strip().casefold())
