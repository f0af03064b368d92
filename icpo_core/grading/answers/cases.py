"""Values under conditions: ``n/2 if n is even``, compared branch by branch or point by point."""

import re
from collections.abc import Callable

import sympy
from mpmath import mp, mpf

from icpo_core.grading.answers import numerics, wording
from icpo_core.grading.answers.expressions import constant, expression_of
from icpo_core.grading.answers.families import residues_of
from icpo_core.grading.answers.forms import Cases, Form, Named, Value
from icpo_core.grading.answers.lists import Equal
from icpo_core.grading.answers.names import names_in, unworded
from icpo_core.grading.answers.reading import read
from icpo_core.grading.answers.regions import holds, region

Branches = list[tuple[sympy.Basic, Callable[[mpf], bool]]]

_OTHERWISE = re.compile(r"\b(?:otherwise|else)\b")
_LEAD = re.compile(r"^(?:\\text\{\s*(?:if|when|for|where|and|all|any)*\s*\}\s*)+")
_WORDS_OF_CONDITIONS = re.compile(
    r"\b(if|when|for|is|an?|and|number|integer|all)\b|[\s,.;]"
)  # fmt: skip


def same_cases(gold: Form, answer: Form, equal: Equal) -> bool:
    """Whether two answers, one of them in cases at least, have the same values.

    First by branches under the same conditions; else, where the conditions are on one letter, by
    their values at points on both sides of every condition.
    """
    if isinstance(gold, Named):
        gold = gold.value
    if isinstance(answer, Named):
        answer = answer.value
    if (
        isinstance(gold, Cases)
        and isinstance(answer, Cases)
        and _same_branches(gold, answer, equal)
    ):
        return True
    letters = _letters(gold) | _letters(answer)
    if len(letters) != 1:
        return False
    letter = letters.pop()
    ours, theirs = _branches(gold, letter), _branches(answer, letter)
    if ours is None or theirs is None:
        return False
    compared = 0
    for point in _points(gold, answer):
        expected, found = _value_at(ours, letter, point), _value_at(theirs, letter, point)
        if expected is None:
            continue  # outside the domain that the gold answer speaks of
        if found is None or not numerics.close(expected, found):
            return False
        compared += 1
    return compared >= 4


def _same_branches(gold: Cases, answer: Cases, equal: Equal) -> bool:
    if len(gold.branches) != len(answer.branches):
        return False
    rest = list(answer.branches)
    left = []
    for branch in gold.branches:
        value, condition = branch
        twin = next(
            (
                other
                for other in rest
                if _same_condition(condition, other[1]) and equal(value, other[0])
            ),
            None,
        )
        if twin is None:
            left.append(branch)
        else:
            rest.remove(twin)
    if not rest:
        return True
    # One branch may be left to "otherwise".
    return (
        len(rest) == 1
        and bool(_OTHERWISE.search(rest[0][1] + left[0][1]))
        and equal(left[0][0], rest[0][0])
    )


def _same_condition(gold: str, answer: str) -> bool:
    ours, theirs = (_WORDS_OF_CONDITIONS.sub("", wording.clean(text)) for text in (gold, answer))
    return ours == theirs


def _letters(form: Form) -> set[str]:
    """The letters that conditions are on."""
    if not isinstance(form, Cases):
        return set()
    return {name for _, condition in form.branches for name in names_in(unworded(condition))}


def _branches(form: Form, letter: str) -> Branches | None:
    """Each branch as its expression and whether its condition holds; None if one cannot be read."""
    pairs = form.branches if isinstance(form, Cases) else ((form, ""),)
    found: Branches = []
    for value, condition in pairs:
        expression = expression_of(value.tex) if isinstance(value, Value) else None
        test = _test(condition)
        if expression is None or test is None:
            return None
        if {str(symbol) for symbol in expression.free_symbols} - {letter}:
            return None
        found.append((expression, test))
    return found


def _test(condition: str) -> Callable[[mpf], bool] | None:
    """Whether a condition holds at a point, as a function; None if it cannot be read."""
    condition = condition.strip(" ,.;")
    if not condition or _OTHERWISE.search(condition):
        return lambda _: True
    if set(wording.clean(condition).split()) & wording.NEGATIONS:
        return None
    form = read(_LEAD.sub("", condition))
    residues = residues_of(form)
    if residues is not None:
        modulus, classes = residues
        return lambda point: bool(mp.isint(point)) and int(point) % modulus in classes
    where = region(form, constant)
    return None if where is None else lambda point: holds(where, point, constant)


def _points(gold: Form, answer: Form) -> list[mpf]:
    conditions = " ".join(
        condition
        for form in (gold, answer)
        if isinstance(form, Cases)
        for _, condition in form.branches
    )
    if re.search(r"even|odd|mod|\\equiv", conditions):
        return [mpf(n) for n in range(1, 25)]
    ends = [mpf(number) for number in re.findall(r"\d+(?:\.\d+)?", conditions)[:12]]
    ends += [-end for end in ends]
    grid = [mpf(n) / 4 + mpf("0.07") for n in range(-24, 25)]
    return [
        *ends,
        *(end + mpf("0.011") for end in ends),
        *(end - mpf("0.011") for end in ends),
        *grid,
    ]


def _value_at(branches: Branches, letter: str, point: mpf) -> mpf | None:
    for expression, test in branches:
        if test(point):
            try:
                return numerics.value(expression, {letter: point})
            except numerics.UndecidedError:
                return None
    return None
