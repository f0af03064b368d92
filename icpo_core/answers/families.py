"""Infinitely many solutions in one formula: residue classes, and lines a + bk for integers k."""

import re

from mpmath import mpf

from icpo_core.answers import numerics, wording
from icpo_core.answers.forms import Congruence, Form, Named, Value, Words, items_of
from icpo_core.answers.names import PARAMETERS
from icpo_core.answers.values import expression_of

MEMBERS = 200
"""Members of a line that are looked at on each side of its start."""


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


def residues_of(form: Form) -> tuple[int, frozenset[int]] | None:
    """The residue classes that a congruence or words (`all odd integers`) speak of."""
    if isinstance(form, Congruence):
        modulus = form.modulus
        residues = {residue % modulus for residue in form.residues}
        for smaller in range(1, modulus):
            if modulus % smaller == 0:
                reduced = {residue % smaller for residue in residues}
                if len(reduced) * (modulus // smaller) == len(residues):
                    return smaller, frozenset(reduced)
        return modulus, frozenset(residues)
    if isinstance(form, Words):
        words = wording.clean(form.text)
        if set(words.split()) & wording.NEGATIONS:
            return None
        if re.search(r"\bodd\b", words):
            return 2, frozenset({1})
        if re.search(r"\beven\b", words):
            return 2, frozenset({0})
        multiple = re.search(r"(?:multiples? of|divisible by) (\d{1,6})$", words)
        return (int(multiple.group(1)), frozenset({0})) if multiple else None
    if isinstance(form, Named) and isinstance(form.value, Value):
        return residues_of(form.value)
    if isinstance(form, Value):
        linear = re.fullmatch(r"\s*(\d{1,6})\s*[a-z]\s*(?:([-+])\s*(\d{1,6}))?\s*", form.tex)
        if linear:
            modulus = int(linear.group(1))
            shift = int(linear.group(3) or 0) * (-1 if linear.group(2) == "-" else 1)
            return (modulus, frozenset({shift % modulus})) if modulus else None
    return None
