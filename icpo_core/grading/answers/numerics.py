"""Expressions as math-verify's parser reads them, compared by their values.

Two rational numbers are compared exactly. Other expressions are equal if they are the same tree, or
if no point tells them apart: their values are taken at points of both signs from hundredths to
10^12, to hundreds of digits at two of them. One point where they differ refutes. Unlike
simplification this takes milliseconds on any expression (Schwartz 1980, Zippel 1979), right or
wrong, and nothing is expanded: a tower of powers is seen to be too large from its exponent.
"""

import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache

import mpmath
import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from mpmath import mp
from mpmath.libmp import NoConvergence
from sympy.core.function import AppliedUndef

from icpo_core.grading.answers.rationals import MAX_TERMS, SERIES, exact

DIGITS = 40
"""Decimal digits of a first evaluation; more where the value is large."""
SURE_DIGITS = 600
"""Decimal digits to which values that look equal are compared again."""
FAR_DIGITS = 700
"""The same for an expression with letters."""
MAX_DIGITS = 20_000
"""A value of more digits than this is not compared to the last digit."""
TINY = mpmath.mpf(10) ** -20
"""What is smaller beside a value, or beside one, is looked at with more digits."""
MAX_EXPONENT = 1e12
"""A power whose result has more bits than this is not evaluated."""
SCALES = (1, 1, 1, -1, 0, 30, -30, 1000, -1000, 10**6, -(10**6), 10**12, -(10**12), 0.01, -0.01)
"""How far from zero the samples of real letters lie, and on which side; 0: letters on both."""
RATIOS = 9
"""Samples at which the sides of two equations are set in proportion."""
LENIENT = 3
"""The first samples are positive: there no identity between roots or logarithms may fail."""
SURE = 2
"""Samples at which values are compared to SURE_DIGITS."""
FAR_INTEGERS = (
    26,
    50,
    101,
    37,
    50,
    64,
    99,
    100,
    101,
    128,
    243,
    500,
    997,
    1000,
    1234,
    5040,
    10_007,
    10**6 + 1,
)
INTEGER_SAMPLES = 24
_INTEGER_NAMES = frozenset("aijklmnpqrsdNMKb")

_CONVERSION = ConversionConfig(lowercase_symbols=False)


class UndecidedError(Exception):
    """The value cannot be had, or not cheaply: another way of comparing must decide."""


@lru_cache(maxsize=4096)
def parse(latex: str) -> sympy.Basic | None:
    """Return the expression that math-verify's parser reads in `latex`; None if it reads none.

    Raises MemoryError and RecursionError: those say nothing about the answer.
    """
    try:
        found = latex2sympy(
            latex, is_real=True, normalization_config=None, conversion_config=_CONVERSION
        )
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001
        # The parser raises bare `Exception` on what it cannot read, and stumbles on odd input in
        # many other ways; all mean that this text is no expression.
        return None
    return sympy.ImmutableMatrix(found) if isinstance(found, sympy.MatrixBase) else found


def equal_values(gold: sympy.Basic, answer: sympy.Basic) -> bool | None:
    """Whether two expressions have the same value wherever both are defined.

    Symbols are real; those called like integers are integers where a floor, factorial, binomial or
    power of -1 asks for them.
    None: the values cannot be had.
    """
    if isinstance(gold, sympy.MatrixBase) or isinstance(answer, sympy.MatrixBase):
        return _equal_matrices(gold, answer)
    if gold.has(sympy.zoo, sympy.nan) or answer.has(sympy.zoo, sympy.nan):
        return bool(gold == answer)  # 1/0 is worth nothing
    if _is_huge(gold) != _is_huge(answer):
        other = answer if _is_huge(gold) else gold
        return None if constant(other) is None else False
    if gold == answer:
        return True
    symbols = sorted({str(symbol) for symbol in gold.free_symbols | answer.free_symbols})
    if not symbols:
        ours, theirs = exact(gold), exact(answer)
        if ours is not None and theirs is not None:
            return ours == theirs
    integral = _wants_integers(gold) or _wants_integers(answer)
    samples = 1
    if symbols:
        samples = len(SCALES)
    if symbols and integral:
        # A series is as long as its letter is large.
        far = 3 if gold.has(*SERIES) or answer.has(*SERIES) else len(FAR_INTEGERS)
        samples = INTEGER_SAMPLES + far
    careful = integral or bool(answer.free_symbols - gold.free_symbols)
    compared = 0
    for sample in range(samples):
        point = {name: _coordinate(name, sample, integral, len(symbols)) for name in symbols}
        if integral:
            ours, theirs = exact(gold, point), exact(answer, point)
            if ours is not None and theirs is not None:
                if ours != theirs:
                    return False
                compared += 1
                continue
        try:
            strict = careful or sample < LENIENT or SCALES[sample] == 0.01
            same = _equal_at(gold, answer, point, strict, sure=sample < SURE)
        except UndecidedError:
            continue
        if same is False:
            return False
        compared += bool(same)
    return True if compared >= min(2, samples) else None


def proportional(gold: sympy.Basic, answer: sympy.Basic) -> mpmath.mpf | None:
    """Return the constant c with answer = c·gold at every point, or None if there is none.

    Equations f = 0 and c·f = 0 are the same for c other than 0; inequalities for c > 0.
    """
    factor = _ratio(gold, answer)
    if factor is None and max(sympy.count_ops(gold), sympy.count_ops(answer)) < 40:
        # a/b = c/d is ad = bc
        tops = [sympy.fraction(sympy.together(side))[0] for side in (gold, answer)]
        if tops != [gold, answer]:
            factor = _ratio(*tops)
            factor = None if factor is None else abs(factor)
    return factor


def _ratio(gold: sympy.Basic, answer: sympy.Basic) -> mpmath.mpf | None:
    symbols = sorted({str(symbol) for symbol in gold.free_symbols | answer.free_symbols})
    ratios = []
    for sample in range(RATIOS):
        point = {name: _coordinate(name, sample, False, len(symbols)) for name in symbols}
        try:
            with mp.workdps(DIGITS):
                ratios.append(value(answer, point) / value(gold, point))
        except (UndecidedError, ZeroDivisionError):
            continue
    with mp.workdps(DIGITS):
        if len(ratios) < 2 or not all(mp.isfinite(ratio) for ratio in ratios):
            return None
        if any(not close(ratio, ratios[0]) for ratio in ratios):
            return None
        first = ratios[0]
        if mp.im(first) != 0 or first == 0:
            return None
        return mp.re(first)


def constant(expression: sympy.Basic) -> mpmath.mpf | None:
    """Return the real value of an expression without symbols to forty digits; None if none."""
    if expression.free_symbols or not isinstance(expression, sympy.Expr):
        return None
    try:
        with mp.workdps(DIGITS):
            found = value(expression, {})
            if abs(mp.im(found)) > mpmath.mpf(10) ** -30 * (1 + abs(found)):
                return None
            return mp.re(found)
    except UndecidedError:
        return None


def value(node: sympy.Basic, point: Mapping[str, mpmath.mpf]) -> mpmath.mpf:
    """Return the value of `node` with its symbols at `point`, at mpmath's working precision.

    Raises UndecidedError for what has no value here or is too large.
    """
    try:
        return _value(node, point)
    except (ZeroDivisionError, ValueError, OverflowError, TypeError, NoConvergence) as error:
        raise UndecidedError(str(error)) from error


def _value(node: sympy.Basic, point: Mapping[str, mpmath.mpf]) -> mpmath.mpf:
    if isinstance(node, sympy.Symbol):
        if node.name == "i":
            return mp.j
        return point[node.name]
    if isinstance(node, sympy.Rational):
        return mp.mpf(node.p) / node.q
    if isinstance(node, sympy.Float):
        return mp.mpf(str(node))  # the decimal that was written, not the nearest double
    if isinstance(node, sympy.Add):
        return mp.fsum(_value(term, point) for term in node.args)
    if isinstance(node, sympy.Mul):
        return mp.fprod(_value(factor, point) for factor in node.args)
    if isinstance(node, sympy.Pow):
        return _power(node, point)
    if isinstance(node, sympy.exp):
        return _checked_power(mp.e, _value(node.args[0], point))
    if isinstance(node, sympy.UnevaluatedExpr):
        return _value(node.args[0], point)
    if isinstance(node, sympy.Sum | sympy.Product):
        return _series(node, point)
    if isinstance(node, AppliedUndef):
        return _opaque(node.func.__name__, [_value(argument, point) for argument in node.args])
    if isinstance(node, sympy.Derivative):
        return _opaque(str(node), [])
    if node in _CONSTANTS:
        return _CONSTANTS[node]()
    function = _FUNCTIONS.get(type(node))
    if function is None:
        raise UndecidedError(type(node).__name__)
    return function(*[_value(argument, point) for argument in node.args])


def _power(node: sympy.Pow, point: Mapping[str, mpmath.mpf]) -> mpmath.mpf:
    base, exponent = (_value(argument, point) for argument in node.args)
    root = node.args[1]
    if isinstance(root, sympy.Rational) and root.q % 2 and mp.im(base) == 0 and mp.re(base) < 0:
        # An odd root of a negative number is the real one in every problem that asks for it.
        sign = -1 if root.p % 2 else 1
        return sign * _checked_power(-mp.re(base), exponent)
    return _checked_power(base, exponent)


def _checked_power(base: mpmath.mpf, exponent: mpmath.mpf) -> mpmath.mpf:
    if abs(exponent) > 1 and base != 0:
        bits = abs(exponent) * (1 + abs(mp.log(abs(base), 2)))
        if bits > MAX_EXPONENT:
            raise UndecidedError("too large")
    return mp.power(base, exponent)


def _series(node: sympy.Sum | sympy.Product, point: Mapping[str, mpmath.mpf]) -> mpmath.mpf:
    term, *limits = node.args
    if len(limits) != 1:
        raise UndecidedError("several indices")
    index, first, last = limits[0]
    start, stop = (mp.re(_value(bound, point)) for bound in (first, last))
    if not (mp.isint(start) and mp.isint(stop)) or stop - start > MAX_TERMS:
        raise UndecidedError("too many terms")
    values = [
        _value(term, {**point, index.name: mp.mpf(at)}) for at in range(int(start), int(stop) + 1)
    ]
    return mp.fsum(values) if isinstance(node, sympy.Sum) else mp.fprod(values)


def _opaque(name: str, arguments: list[mpmath.mpf]) -> mpmath.mpf:
    """A smooth stand-in for a function that is only named, as in ``f(x)`` or ``dx/dt``."""
    phase = mp.mpf(zlib.crc32(name.encode()) % 10_007) / 1009
    return mp.fsum(
        [mp.cos(phase), 2, *(mp.sin(x * (phase + k)) for k, x in enumerate(arguments, 2))]
    )


def _rounded(x: mpmath.mpf) -> mpmath.mpf:
    """x, or the integer that it is but for rounding errors."""
    near = mp.nint(mp.re(x))
    return near if abs(x - near) < mp.mpf(10) ** -(mp.dps // 2) else mp.re(x)


def _factorial(n: mpmath.mpf) -> mpmath.mpf:
    if abs(n) > 1e9:
        raise UndecidedError("too large")
    return mp.factorial(n)


def _binomial(n: mpmath.mpf, k: mpmath.mpf) -> mpmath.mpf:
    if abs(n) > 1e9:
        raise UndecidedError("too large")
    return mp.binomial(n, k)


_CONSTANTS: dict[sympy.Basic, Callable[[], mpmath.mpf]] = {
    sympy.pi: lambda: +mp.pi,
    sympy.E: lambda: +mp.e,
    sympy.I: lambda: mp.j,
    sympy.oo: lambda: mp.inf,
    -sympy.oo: lambda: -mp.inf,
    sympy.GoldenRatio: lambda: +mp.phi,
    sympy.EulerGamma: lambda: +mp.euler,
}

_FUNCTIONS: dict[type, Callable[..., mpmath.mpf]] = {
    sympy.sin: mp.sin, sympy.cos: mp.cos, sympy.tan: mp.tan,
    sympy.cot: mp.cot, sympy.sec: mp.sec, sympy.csc: mp.csc,
    sympy.asin: mp.asin, sympy.acos: mp.acos, sympy.atan: mp.atan,
    sympy.acot: mp.acot, sympy.asec: mp.asec, sympy.acsc: mp.acsc,
    sympy.sinh: mp.sinh, sympy.cosh: mp.cosh, sympy.tanh: mp.tanh,
    sympy.asinh: mp.asinh, sympy.acosh: mp.acosh, sympy.atanh: mp.atanh,
    sympy.log: lambda x, base=None: mp.log(x) if base is None else mp.log(x) / mp.log(base),
    sympy.Abs: abs,
    sympy.floor: lambda x: mp.floor(_rounded(x)),
    sympy.ceiling: lambda x: mp.ceil(_rounded(x)),
    sympy.factorial: _factorial,
    sympy.binomial: _binomial,
    sympy.gamma: lambda x: _factorial(x - 1),
    sympy.Max: lambda *xs: max(map(mp.re, xs)),
    sympy.Min: lambda *xs: min(map(mp.re, xs)),
    sympy.Mod: lambda a, b: _rounded(a) - _rounded(b) * mp.floor(_rounded(a / b)),
}  # fmt: skip


def _is_huge(expression: sympy.Basic) -> bool:
    """Whether the expression is a power (a tower, as it may be) that is too large to be had."""
    if not isinstance(expression, sympy.Pow) or expression.free_symbols:
        return False
    base = constant(expression.base)
    if base is None or base < 2:
        return False
    if _is_huge(expression.exp):
        return True
    exponent = constant(expression.exp)
    return exponent is not None and exponent * mp.log(base, 2) > MAX_EXPONENT


def _wants_integers(expression: sympy.Basic) -> bool:
    """Whether the expression makes sense, or is meant, for integers only."""
    if expression.has(
        sympy.floor, sympy.ceiling, sympy.factorial, sympy.binomial, sympy.Mod, sympy.Sum,
        sympy.Product,
    ):  # fmt: skip
        return bool(expression.free_symbols)
    for power in expression.atoms(sympy.Pow):
        base, exponent = power.args
        if exponent.free_symbols and not base.free_symbols and base.could_extract_minus_sign():
            return True
    return any(
        function.args[0].free_symbols and function.args[0].has(sympy.pi)
        for function in expression.atoms(sympy.sin, sympy.cos, sympy.tan)
    )


def _coordinate(name: str, sample: int, integral: bool, symbols: int) -> mpmath.mpf:
    """A value for a symbol, the same in every process; an integer if `integral` and so called.

    Integers run from 2 up where there is one symbol, so that floors of roots are told apart, and
    then lie far out. Reals are positive at first, then of every sign and size (SCALES).
    """
    seed = zlib.crc32(f"{name}#{sample}".encode())
    if integral and name[0] in _INTEGER_NAMES:
        if symbols > 1:
            return mp.mpf(2 + seed % (13 if sample < INTEGER_SAMPLES else 1000))
        return mp.mpf(
            2 + sample if sample < INTEGER_SAMPLES else FAR_INTEGERS[sample - INTEGER_SAMPLES]
        )
    magnitude = mp.mpf(1) / 3 + mp.mpf(seed % 99_991) / 31_337
    scale = SCALES[sample % len(SCALES)]
    return magnitude * (scale or (-1 if seed // 99_991 % 2 else 1))


def _equal_at(
    gold: sympy.Basic,
    answer: sympy.Basic,
    point: Mapping[str, mpmath.mpf],
    strict: bool,
    sure: bool,
) -> bool | None:
    with mp.workdps(DIGITS):
        ours, theirs = value(gold, point), value(answer, point)
        if not (mp.isfinite(ours) and mp.isfinite(theirs)):
            if mp.isinf(ours) and mp.isinf(theirs):
                return bool(ours == theirs)
            if strict and mp.isinf(ours) != mp.isinf(theirs):
                return False
            return None
        size = max(abs(ours), abs(theirs))
        if 0 < size < TINY:
            return _equal_tiny(gold, answer, point)
        if abs(ours - theirs) > TINY * size:
            # Identities such as log(ab) = log a + log b need not hold for negative numbers. But a
            # gold that has |x| speaks of them.
            if strict or (gold.has(sympy.Abs) and _is_real(ours)):
                return False
            real = _is_real(ours) and _is_real(theirs)
            return False if real and not (_has_roots(gold) or _has_roots(answer)) else None
        large = size > 10**15
        if not large and not sure:
            return True
        digits = (int(mp.log10(size)) if large else 0) + (SURE_DIGITS if sure else DIGITS)
    if digits > (MAX_DIGITS if not point else FAR_DIGITS):
        return None
    with mp.workdps(digits):
        apart = abs(value(gold, point) - value(answer, point))
        return bool(apart <= mp.mpf(10) ** -((SURE_DIGITS if sure else DIGITS) // 4) * min(1, size))


def _equal_tiny(
    gold: sympy.Basic, answer: sympy.Basic, point: Mapping[str, mpmath.mpf]
) -> bool | None:
    """Whether two tiny values are equal. With more digits a rounding error gets smaller."""
    worths = []
    for expression in (gold, answer):
        with mp.workdps(DIGITS):
            rough = value(expression, point)
        with mp.workdps(SURE_DIGITS):
            fine = value(expression, point)
            worths.append(fine if abs(fine) > TINY * abs(rough) else mp.mpf(0))
    with mp.workdps(SURE_DIGITS):
        return bool(abs(worths[0] - worths[1]) <= TINY * max(map(abs, worths)))


def _is_real(worth: mpmath.mpf) -> bool:
    return bool(abs(mp.im(worth)) <= TINY * abs(worth))


def _has_roots(expression: sympy.Basic) -> bool:
    """Whether a letter stands under a root or in a logarithm."""
    roots = any(
        power.base.free_symbols and not power.exp.is_integer
        for power in expression.atoms(sympy.Pow)
    )
    return roots or any(log.free_symbols for log in expression.atoms(sympy.log))


def close(a: mpmath.mpf, b: mpmath.mpf) -> bool:
    """Whether two values are the same to twenty digits."""
    scale = max(abs(a), abs(b))
    return bool(abs(a - b) <= mp.mpf(10) ** -20 * scale + mp.mpf(10) ** -30)


def _equal_matrices(gold: sympy.Basic, answer: sympy.Basic) -> bool | None:
    if not (isinstance(gold, sympy.MatrixBase) and isinstance(answer, sympy.MatrixBase)):
        return None
    if gold.shape != answer.shape:
        return False
    found = [equal_values(a, b) for a, b in zip(gold.flat(), answer.flat(), strict=True)]
    if all(found):
        return True
    return False if False in found else None
