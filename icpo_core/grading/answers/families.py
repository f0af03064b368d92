"""Infinitely many solutions in one formula: residue classes, and lines a + bk for integers k."""

import math
import re

from mpmath import mp, mpf

from icpo_core.grading.answers import numerics, wording
from icpo_core.grading.answers.expressions import expression_of
from icpo_core.grading.answers.forms import (
    Congruence,
    Form,
    Group,
    Named,
    Value,
    Words,
    goes_on,
    is_bare,
    items_of,
)
from icpo_core.grading.answers.names import PARAMETERS

MEMBERS = 200
"""Members of a line that are looked at on each side of its start."""
MODULUS = 10_000
"""Larger moduli are left to other ways of comparing."""
_ABOUT_INTEGERS = wording.words_of(
    "all any every each the a an integers integer numbers number values natural whole positive is "
    "are of for if must be n k m x such that"
)
_MULTIPLES = re.compile(
    r"(?:(?:all|any|every|the|an?|positive|integers?|numbers?|n|k|m|x|is|are|that|which|must be) )*"
    r"(not (?:an? )?)?(?:multiples? of|divisible by) (\d{1,6})"
)
_PARITIES = {"odd": (2, frozenset({1})), "even": (2, frozenset({0}))}


def lines_of(form: Form) -> list[tuple[mpf, mpf]] | None:
    """The (start, step) of each formula linear in one parameter; None if any is not."""
    values = [item.value if isinstance(item, Named) else item for item in items_of(form)]
    lines = []
    for value in values:
        expression = expression_of(value.tex) if isinstance(value, Value) else None
        if expression is None or len(expression.free_symbols) != 1:
            return None
        name = str(next(iter(expression.free_symbols)))
        try:
            at = [numerics.value(expression, {name: mpf(k)}) for k in (0, 1, 2)]
        except numerics.UndecidedError:
            return None
        step = at[1] - at[0]
        if step == 0 or name not in PARAMETERS or abs(at[2] - at[1] - step) > 1e-12:
            return None
        lines.append((at[0], step))
    return lines


def same_family(gold: Form, answer: Form) -> bool:
    """Solutions a + bk for all integers k, however they are divided among formulas.

    Compared as sets of numbers in a window that holds several periods of each.
    """
    ours, theirs = lines_of(gold), lines_of(answer)
    if ours is None or theirs is None:
        return False
    window = 6 * max(abs(step) for _, step in ours + theirs)
    sets = []
    for lines in (ours, theirs):
        members = {
            round(float(start + step * k), 9)
            for start, step in lines
            for k in range(-MEMBERS, MEMBERS + 1)
            if abs(start + step * k) <= window
        }
        if any(abs(start) + window > MEMBERS * abs(step) for start, step in lines):
            return False  # the window would not be full
        sets.append(sorted(members))
    return len(sets[0]) == len(sets[1]) and all(
        abs(a - b) < 1e-8 for a, b in zip(*sets, strict=True)
    )


Residues = tuple[int, frozenset[int]]
"""A modulus, the least that will do, and classes of it."""


def residues_of(form: Form) -> Residues | None:
    """The residue classes that a congruence, ``4k+1``, a list of such or words speak of."""
    if isinstance(form, Congruence):
        return _least(form.modulus, set(form.residues))
    if isinstance(form, Named):
        return residues_of(form.value)
    if isinstance(form, Words):
        return _in_words(form.text)
    if isinstance(form, Value):
        return _in_words(f"{form.tex} {form.unit}") if form.unit else _of_line(form.tex)
    if isinstance(form, Group) and goes_on(form):
        return _of_progression(form)
    if is_bare(form):
        return _union([residues_of(item) for item in items_of(form)])
    return None


def same_residues(gold: Form, answer: Form) -> bool:
    """Whether both speak of the same residue classes, one of them not as a single formula."""
    if _is_formula(gold) and _is_formula(answer):
        return False
    ours = residues_of(gold)
    return ours is not None and ours == residues_of(answer)


def _is_formula(form: Form) -> bool:
    value = form.value if isinstance(form, Named) else form
    return isinstance(value, Value) and not value.unit


def _of_line(tex: str) -> Residues | None:
    """``4k + 1``, ``1 + 4k`` or ``2(2k + 1)`` for all integers k."""
    if not re.fullmatch(r"[-+()\d\s]*[a-z][-+()\d\s]*", tex) or len(tex) > 30:
        return None
    lines = lines_of(Value(tex))
    if lines is None or not all(mp.isint(number) and abs(number) <= MODULUS for number in lines[0]):
        return None
    start, step = (int(number) for number in lines[0])
    return _least(abs(step), {start}) if abs(step) > 1 else None


def _of_progression(form: Group) -> Residues | None:
    """``2, 4, 6, \\ldots``"""
    items = [item.value if isinstance(item, Named) else item for item in form.items[:-1]]
    texts = [item.tex.strip() for item in items if isinstance(item, Value)]
    if len(texts) < max(3, len(items)) or not all(re.fullmatch(r"-?\d{1,6}", t) for t in texts):
        return None
    numbers = [int(text) for text in texts]
    step = numbers[1] - numbers[0]
    if step < 2 or numbers != list(range(numbers[0], numbers[-1] + 1, step)):
        return None
    return _least(step, {numbers[0]})


def _union(parts: list[Residues | None]) -> Residues | None:
    known = [part for part in parts if part is not None]
    modulus = math.lcm(*(modulus for modulus, _ in known)) if known else 0
    if len(known) < len(parts) or not 0 < modulus <= MODULUS:
        return None
    return _least(
        modulus,
        {at for at in range(modulus) for own, classes in known if at % own in classes},
    )


def _least(modulus: int, residues: set[int]) -> Residues:
    residues = {residue % modulus for residue in residues}
    for smaller in range(1, modulus):
        if modulus % smaller == 0:
            reduced = {residue % smaller for residue in residues}
            if len(reduced) * (modulus // smaller) == len(residues):
                return smaller, frozenset(reduced)
    return modulus, frozenset(residues)


def _in_words(text: str) -> Residues | None:
    """``all odd integers``, ``n is even``, ``multiples of 4``, ``not divisible by 3``."""
    words = wording.clean(text)
    multiple = _MULTIPLES.fullmatch(words)
    if multiple:
        modulus = int(multiple.group(2))
        classes = set(range(1, modulus)) if multiple.group(1) else {0}
        return _least(modulus, classes) if 0 < modulus <= MODULUS else None
    said = set(words.split()) - _ABOUT_INTEGERS
    return _PARITIES.get(" ".join(said)) if len(said) == 1 else None
