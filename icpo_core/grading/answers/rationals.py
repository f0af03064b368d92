"""Rational numbers exactly: what a calculation with them gives, to the last digit."""

import math
from collections.abc import Mapping
from fractions import Fraction

import mpmath
import sympy
from mpmath import mp

MAX_BITS = 400_000
"""A number of more bits is not calculated."""
MAX_TERMS = 2000
"""A finite sum or product of more terms than this is not evaluated."""
SERIES = (sympy.Sum, sympy.Product)


def exact(node: sympy.Basic, point: Mapping[str, mpmath.mpf] | None = None) -> Fraction | None:
    """Return the rational number that a calculation with rational numbers gives, letters being
    integers at `point`; None if there is more in it, or if it takes too long."""
    if isinstance(node, sympy.Rational):
        return Fraction(int(node.p), int(node.q))
    if isinstance(node, sympy.Float):
        return Fraction(str(node))
    if isinstance(node, sympy.Symbol):
        at = point.get(node.name) if point else None
        return None if at is None or not mp.isint(at) else Fraction(int(at))
    if isinstance(node, SERIES):
        return _exact_series(node, point)
    parts = []
    for argument in node.args:
        part = exact(argument, point)
        if part is None:
            return None
        parts.append(part)
    if not parts:
        return None
    first, last = parts[0], parts[-1]
    whole = all(part.denominator == 1 for part in parts)
    if isinstance(node, sympy.Add):
        return sum(parts, Fraction(0))
    if isinstance(node, sympy.Mul):
        return math.prod(parts, start=Fraction(1))
    if isinstance(node, sympy.UnevaluatedExpr):
        return first
    if isinstance(node, sympy.Pow) and last.denominator == 1 and (first or last >= 0):
        return first ** int(last) if _bits(first) * abs(last) < MAX_BITS else None
    if isinstance(node, sympy.factorial) and whole and 0 <= first * _bits(first) < MAX_BITS:
        return Fraction(math.factorial(int(first)))
    if isinstance(node, sympy.binomial) and whole and 0 <= first < MAX_BITS and last >= 0:
        return Fraction(math.comb(int(first), int(last)))
    if isinstance(node, sympy.floor):
        return Fraction(math.floor(first))
    if isinstance(node, sympy.ceiling):
        return Fraction(math.ceil(first))
    return None


def _exact_series(node: sympy.Basic, point: Mapping[str, mpmath.mpf] | None) -> Fraction | None:
    term, *limits = node.args
    ends = [exact(end, point) for end in limits[0].args[1:]] if len(limits) == 1 else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[1] - ends[0] > MAX_TERMS:
        return None
    terms = []
    for at in range(int(ends[0]), int(ends[1]) + 1):
        part = exact(term, {**(point or {}), limits[0].args[0].name: mp.mpf(at)})
        if part is None or ends[0].denominator * ends[1].denominator != 1:
            return None
        terms.append(part)
    if isinstance(node, sympy.Sum):
        return sum(terms, Fraction(0))
    return math.prod(terms, start=Fraction(1))


def _bits(number: Fraction) -> int:
    return number.numerator.bit_length() + number.denominator.bit_length()
