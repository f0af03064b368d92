"""Answers in words beside answers in words, and beside formulas that say the same."""

import re

from icpo_core.grading.answers import wording
from icpo_core.grading.answers.families import residues_of
from icpo_core.grading.answers.forms import Form, Group, Named, Value, Words
from icpo_core.grading.answers.lists import is_empty


def same_spoken(gold: Form, answer: Form) -> bool:
    """Whether two answers, one of them in words at least, say the same.

    Words that describe a set of numbers (`all positive integers`) are for the caller to compare
    as regions.
    """
    if (
        isinstance(gold, Words)
        and isinstance(answer, Words)
        and wording.same_words(gold.text, answer.text)
    ):
        return True
    residues = residues_of(gold)
    if residues is not None and residues == residues_of(answer):
        return True
    if isinstance(gold, Words) and isinstance(answer, Words):
        return False
    if isinstance(gold, Words) and isinstance(answer, Group):
        # "No, it is impossible" reads as a list of two.
        spoken = [item.text for item in answer.items if isinstance(item, Words)]
        return (
            wording.is_polar(gold.text)
            and len(spoken) == len(answer.items)
            and wording.same_words(gold.text, ", ".join(spoken))
        )
    words, other = (gold, answer) if isinstance(gold, Words) else (answer, gold)
    assert isinstance(words, Words)
    return _says(words.text, other, words is gold)


def _says(words: str, other: Form, believed: bool) -> bool:
    """Whether words say what a form that is not in words says; `believed`: the words are gold."""
    meaning = wording.meaning(words)
    if meaning == wording.EMPTY:
        return is_empty(other)
    value = other.value if isinstance(other, Named) else other
    if not isinstance(value, Value):
        return False
    tex = value.tex.strip()
    if meaning == wording.INFINITE:
        return isinstance(other, Value) and tex == r"\infty"
    powers = re.search(r"\bpowers? of (\d+)$", wording.clean(words))
    if powers:
        return bool(re.fullmatch(rf"{powers.group(1)}\s*\^\{{\w\}}", tex))
    if re.search(r"\bzero (?:function|polynomial|sequence)s?\b", words):
        return tex == "0"
    if re.search(r"\bidentity(?: function| map)?$", wording.clean(words)):
        argument = re.search(r"\((\w)\)$", other.name.strip()) if isinstance(other, Named) else None
        return argument is not None and tex == argument.group(1)
    squares = re.search(r"\bperfect (square|cube)s?\b", words)
    if squares:
        power = 2 if squares.group(1) == "square" else 3
        return bool(re.fullmatch(rf"[a-z]\s*\^\{{{power}\}}", tex))
    if re.search(r"\bconstant (?:function|polynomial|sequence)s?\b", words):
        return bool(re.fullmatch("[a-zA-Z]", tex))
    if value.unit:
        pair = (words, f"{tex} {value.unit}")
        if not believed and re.search(r"[^\w\s.,:'/-]", words):
            return False  # a sign that words do not have: $65 - $1
        return isinstance(other, Value) and wording.same_words(*(pair if believed else pair[::-1]))
    # Letters and names: \text{B} against B, "Evelyn" typed as a product of letters.
    plain = words.replace(" ", "").lower() == tex.replace(" ", "").lower()
    return isinstance(other, Value) and plain
