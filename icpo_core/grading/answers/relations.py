r"""Equations, inequalities and ratios: whether two say the same.

``y = 2x + 3`` and ``2x - y + 3 = 0`` are one equation: the difference of the sides of one is a
constant times that of the other. What single expressions are worth is asked of the function
`same_value` that the caller gives, gold first.
"""

import re
from collections.abc import Callable

import sympy

from icpo_core.grading.answers import numerics
from icpo_core.grading.answers.expressions import expression_of
from icpo_core.grading.answers.forms import SYMMETRIC, Form, Group, Named, Ratio, Relation, Value
from icpo_core.grading.answers.names import names_in

SameValue = Callable[[Value, Value], bool]


def same_relations(gold: Form, answer: Form, same_value: SameValue) -> bool:
    """Whether two answers, one of them a relation at least, say the same."""
    if isinstance(answer, Relation) and not isinstance(gold, Relation | Named):
        # 2 + 3 = 5 answers 5, if it holds.
        if set(answer.signs) != {"="} or not isinstance(gold, Value):
            return False
        if len(answer.sides) == 2 and answer.sides[1].strip() == "0" != gold.tex.strip():
            if not names_in(answer.sides[0]):
                return False  # 84 = 0
            return same_value(gold, Value(answer.sides[0]))  # the quadratic, set to zero
        return all(same_value(gold, Value(side)) for side in answer.sides)
    if isinstance(gold, Relation) and isinstance(answer, Group):
        listed = [item.tex.strip() for item in answer.items if isinstance(item, Value)]
        ordered = gold.signs[0] in ("<", ">") and len(set(gold.signs)) == 1
        return ordered and len(listed) > 2 and listed == [side.strip() for side in gold.sides]
    if isinstance(gold, Relation) and isinstance(answer, Value):
        return _solves(gold, answer)
    ours, theirs = _as_relation(gold), _as_relation(answer)
    if ours is None or theirs is None or len(ours.sides) != len(theirs.sides):
        return False
    ours, theirs = _ascending(ours), _ascending(theirs)
    if ours.signs != theirs.signs:
        return False
    for at, sign in enumerate(ours.signs):
        left = _difference(ours.sides[at], ours.sides[at + 1])
        right = _difference(theirs.sides[at], theirs.sides[at + 1])
        if left is None or right is None or sign in SYMMETRIC:
            return _same_sides(ours, theirs, same_value)
        factor = numerics.proportional(left, right)
        if factor is None or (factor < 0 and sign not in ("=", r"\ne")):
            return False
    return True


def _solves(gold: Relation, answer: Value) -> bool:
    """Whether a formula is what an equation says of a letter: 2x + 1 for y - 1 = 2x."""
    if gold.signs != ("=",) or answer.unit:
        return False
    difference, formula = _difference(*gold.sides), expression_of(answer.tex)
    if difference is None or formula is None or not formula.free_symbols:
        return False
    letters = difference.free_symbols - formula.free_symbols
    if len(letters) != 1 or not formula.free_symbols <= difference.free_symbols:
        return False
    (letter,) = letters
    slope = sympy.diff(difference, letter)
    if not slope.is_number or slope == 0:
        return False
    left = difference.subs(letter, 0) / slope
    return bool(numerics.equal_values(-left, formula))


def same_ratios(gold: Form, answer: Form, same_value: SameValue) -> bool:
    """Whether two answers, one of them a ratio or a time of day at least, say the same."""
    if isinstance(gold, Ratio) and isinstance(answer, Ratio) and (gold.half or answer.half):
        return (gold.terms == answer.terms and "" in (gold.half, answer.half)) or gold == answer
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, Ratio) and isinstance(other, Value) and other.unit in ("am", "pm"):
            return one == Ratio((other.tex.strip(), "00"), other.unit)
    ours, theirs = _terms(gold), _terms(answer)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return False
    if _is_time(gold) and _is_time(answer):
        return [int(term) for term in ours] == [int(term) for term in theirs]
    return all(
        same_value(Value(f"({a})({theirs[0]})"), Value(f"({b})({ours[0]})"))
        for a, b in zip(ours, theirs, strict=True)
    )


def _same_sides(gold: Relation, answer: Relation, same_value: SameValue) -> bool:
    """Relations that no parser reads, side by side; either way round where that says the same."""
    turned = [answer.sides[::-1]] if set(gold.signs) <= {"=", *SYMMETRIC} else []
    return any(
        all(same_value(Value(a), Value(b)) for a, b in zip(gold.sides, sides, strict=True))
        for sides in (answer.sides, *turned)
    )


def _as_relation(form: Form) -> Relation | None:
    if isinstance(form, Named) and isinstance(form.value, Value):
        return Relation((form.name, form.value.tex), ("=",))
    return form if isinstance(form, Relation) else None


def _ascending(form: Relation) -> Relation:
    """The relation with its inequalities pointing up: ``a > b`` as ``b < a``."""
    if form.signs[0] in (">", r"\ge"):
        turned = {">": "<", r"\ge": r"\le", "<": ">", r"\le": r"\ge"}
        signs = tuple(turned.get(sign, sign) for sign in form.signs[::-1])
        return Relation(form.sides[::-1], signs, form.integers)
    return form


def _difference(left: str, right: str) -> sympy.Basic | None:
    ours, theirs = expression_of(left), expression_of(right)
    if ours is None or theirs is None:
        return None
    try:
        return ours - theirs
    except TypeError:  # a matrix and a number
        return None


def _is_time(form: Form) -> bool:
    """Whether a ratio reads as hours and minutes: 5:10 is not 10:20 then."""
    return (
        isinstance(form, Ratio)
        and len(form.terms) == 2
        and bool(re.fullmatch(r"\d{1,2}:[0-5]\d", ":".join(form.terms)))
    )


def _terms(form: Form) -> list[str] | None:
    if isinstance(form, Ratio):
        return list(form.terms)
    if isinstance(form, Value):
        return [form.tex, "1"]
    return None
