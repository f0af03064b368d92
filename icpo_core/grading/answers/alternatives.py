"""Other ways to read or to letter an answer, so that it is compared like with like."""

import itertools
import re

from icpo_core.grading.answers import units
from icpo_core.grading.answers.forms import Form, Value
from icpo_core.grading.answers.names import (
    PARAMETERS,
    is_name,
    names_in,
    rename,
    same_name,
    unworded,
)
from icpo_core.grading.answers.reading import read

_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")


_FUNCTION = re.compile(r"^\s*(\\?[A-Za-z]+)\s*(?:\(\s*([a-z])\s*\)|_\s*\{?\s*([a-z])\s*\}?)\s*=")


def readings(gold: str, answer: str) -> list[tuple[Form, Form]]:
    """Ways to read both: ``1,234`` as a number or a list, two ``\\pm`` as two items or four."""
    independent = (False, True) if r"\pm" in gold + answer else (False,)
    found = [(read(gold, signs), read(answer, signs, gold=gold)) for signs in independent]
    if len(independent) > 1:
        found += [
            (read(gold, True), read(answer, gold=gold)),
            (read(gold), read(answer, True, gold=gold)),
        ]
    numbers = [
        Value(re.sub("[, ]", "", text)) if _THOUSANDS.fullmatch(text) else None
        for text in (gold, answer)
    ]
    summed = [units.compound(text) for text in (gold, answer)]
    for ours, theirs in list(found[:1]):
        if summed[0] or summed[1]:
            values = [Value(*pair) if pair else None for pair in summed]
            found.append((values[0] or ours, values[1] or theirs))
        if numbers[0] or numbers[1]:
            found.append((numbers[0] or ours, numbers[1] or theirs))
        grouped = _thousands_with_unit(gold)
        if grouped is not None:
            found.append((read(grouped), theirs))
        grouped = _thousands_with_unit(answer)
        if grouped is not None:
            found.append((numbers[0] or ours, read(grouped, gold=gold)))
    return found


def _thousands_with_unit(text: str) -> str | None:
    match = re.match(r"[-+]?\d{1,3}(?:,\d{3})+(?![\d,])", text)
    if match and match.end() < len(text):
        return match.group().replace(",", "") + text[match.end() :]
    return None


def with_gold_names(gold: str, answer: str) -> str:
    """``f(n) = 2n`` in the letters of ``f(x) = 2x``: the letter of a definition is free."""
    ours, theirs = _FUNCTION.match(gold), _FUNCTION.match(answer)
    if ours is None or theirs is None:
        return answer
    old, new = theirs.group(2) or theirs.group(3), ours.group(2) or ours.group(3)
    if old == new or new in names_in(answer):
        return answer
    return rename(answer, old, new)


_DECLARED = re.compile(
    r"\\in\s*\\mathbb|\b(?:constants?|integers?|arbitrary|real|naturals?|any|some)\b", re.IGNORECASE
)


def renamings(gold: str, answer: str) -> list[str]:
    r"""The answer with its parameters in the letters of the gold: ``n = 3m`` for ``n = 3k``.

    A letter may be renamed if it is a parameter: said to be one on either side, a second letter in
    a definition of a function or of the unknown, an index in a tuple, or a constant of integration.
    """
    found = [*_indices(gold, answer), *_constants(gold, answer)]
    return [text for text in dict.fromkeys(found) if text != answer]


def _indices(gold: str, answer: str) -> list[str]:
    head, _, body = gold.partition("=")
    if "=" not in answer and body and is_name(head):
        gold = body
    ours, theirs = names_in(unworded(gold)), names_in(unworded(answer))
    missing, extra = sorted(ours - theirs), sorted(theirs - ours)
    if len(missing) != len(extra) or not 0 < len(missing) <= 2:
        return []
    spoken = all(re.search(rf"\bintegers?\}}\s*{letter}\b", answer) for letter in extra)
    if not set(extra) <= PARAMETERS or not (spoken or set(missing) <= PARAMETERS):
        return []
    indices = {*missing, *extra} <= _INDICES
    declared = _DECLARED.search(gold) or _DECLARED.search(answer)
    heads = [text.partition("=")[0].strip() for text in (gold, answer) if "=" in text]
    defined = (
        len(heads) == 2
        and same_name(*heads)
        and not set(extra) & names_in(heads[1])
        and ("(" in heads[0] or indices)
    )
    tuples = indices and all(_TUPLE.search(text) for text in (gold, answer))
    if not declared and not defined and not tuples:
        return []
    found = []
    for order in itertools.permutations(missing):
        renamed = answer
        for old, new in zip(extra, order, strict=True):
            renamed = rename(renamed, old, new)
        found.append(renamed)
    return found


def _constants(gold: str, answer: str) -> list[str]:
    """Constants of integration in the gold's letters, in whatever order."""
    ours = dict.fromkeys(match.group() for match in _GOLD_CONSTANT.finditer(unworded(gold)))
    if not 0 < len(ours) <= 3 or not _FREE_VARIABLE.search(unworded(gold)):
        return []
    theirs: dict[str, None] = {}
    for pattern in (_GOLD_CONSTANT, _CONSTANT):
        theirs = dict.fromkeys(match.group() for match in pattern.finditer(unworded(answer)))
        if len(theirs) == len(ours):
            break
    else:
        return []
    longest_first = sorted(map(re.escape, theirs), key=len, reverse=True)
    token = re.compile("|".join([r"\\[a-zA-Z]+", *longest_first]))
    found = []
    for order in itertools.permutations(ours):
        names = dict(zip(theirs, order, strict=True))

        def named(match: re.Match[str], names: dict[str, str] = names) -> str:
            return names.get(match.group(), match.group())

        found.append(token.sub(named, answer))
    return found


_GOLD_CONSTANT = re.compile(r"(?<![A-Za-z\\])[CcK](?:\s*_\s*(?:\{\d\}|\d))?(?!\()")
_CONSTANT = re.compile(r"(?<![A-Za-z\\])[ABCDKck](?:\s*_\s*(?:\{\d\}|\d))?(?!\()")
_FREE_VARIABLE = re.compile(r"(?<![A-Za-z\\])[xtuz](?![A-Za-z])")
_INDICES = frozenset("klmnt")
_TUPLE = re.compile(r"\([^()]*,[^()]*\)")
_LETTER_ONLY = re.compile(
    r"\W*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?\s*"
    r"((?i:(?:the |correct )*(?:option|choice|answer|player|graph|figure|statement)(?: is)?:?"
    r"\s*\}?\s*))?"
    r"\(?([A-J])\)?\s*[.)]?\s*\}?\W*"
)
_LETTER_FIRST = re.compile(
    r"\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?\s*(?:\(([A-J])\)|([A-J])[.):])\s*\}?[.:)]?\s*(?=\S)"
)


_NO_OPTION = re.compile(
    r"\s*(?:[,;]|\\text\s*\{\s*(?:is|are|was|were|has|had|does|did|can|must|will|\w+s|\w+ed)\b)"
)
"""What says something of a choice and is not what it offers."""
_ANOTHER_CHOICE = re.compile(r"\bor\b|\bnot\b|\bwrong\b|\([A-J]\)")


def without_choice(answer: str) -> str | None:
    """The 42 of ``(B) 42``; None where there is no such letter."""
    choice = _LETTER_FIRST.match(answer)
    if choice is None or _ANOTHER_CHOICE.search(answer, choice.end()):
        return None
    return answer[choice.end() :]


def same_choice(gold: str, answer: str) -> bool | None:
    """Whether ``(B) 42`` is the choice B; None if the two are not a letter and a choice."""
    ours, theirs = (
        re.sub(r"\\(?:text\w*|mathrm|mathbf)|\band\b|[\s{},;().$]", "", text)
        for text in (gold, answer)
    )
    if (
        re.fullmatch("[A-H]{2,6}", ours)
        and re.fullmatch("[A-H]{1,6}", theirs)
        and ours == "".join(sorted(set(ours)))
        and re.search("[,;]|and", gold + answer)
    ):
        return set(ours) == set(theirs)
    letters = [_LETTER_ONLY.fullmatch(text) for text in (gold, answer)]
    if letters[0] and letters[1]:
        spoken = letters[0].group(1) or letters[1].group(1)
        return letters[0].group(2) == letters[1].group(2) if spoken else None
    for one, other in ((gold, answer), (answer, gold)):
        letter, choice = _LETTER_ONLY.fullmatch(one), _LETTER_FIRST.match(other)
        if letter and choice and not _LETTER_ONLY.fullmatch(other):
            rest = other[choice.end() :]
            if _ANOTHER_CHOICE.search(rest) or _NO_OPTION.match(rest):
                return False
            return letter.group(2) == (choice.group(1) or choice.group(2))
    return None
