"""Single expressions: whether two are worth the same.

Units, percent, degrees and rounding are taken into account.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

import sympy
from mpmath import mp, mpf

from icpo_core.grading.answers import numerics, units, wording
from icpo_core.grading.answers.counted import is_counted, same_things
from icpo_core.grading.answers.expressions import DEGREES, SCIENTIFIC, TRIG, constant, expression_of
from icpo_core.grading.answers.forms import Form, Named, Value
from icpo_core.grading.answers.names import rename, squeezed
from icpo_core.grading.answers.numerics import UndecidedError

_DECIMAL = re.compile(
    r"([-+]?)\s*(\d*)(?:\.(\d*))?(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{?\s*([-+]?\d{1,6})\s*\}?)?"
)
_BASE = re.compile(
    r"\(?\s*(?:\\text\{)?([0-9A-Fa-f]+)\}?\s*\)?"
    r"\s*_\s*\{?\s*\(?(?:\\text\{\s*)?(\d{1,2}|[a-z]+)\s*\}?\)?\s*\}?"
)
_UNKNOWN_SIGN = re.compile(r"\d\s*_|%\s*[\d(\\]|\\mod(?![a-z])|\\pmod")
"""What the parser passes over: a number's subscript, a percent sign or a modulus within."""
_PRIMED = re.compile(r"\d\s*'+$")
_PERCENT = re.compile(r"(?:percent|percentage|pct|percentage points?)\b")
_BASE_NAMED = re.compile(r"(?:in )?base (\w+)")
_BASES = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "twelve": "12", "sixteen": "16",
}  # fmt: skip
_DEGREE_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")
_RADIANS = r"\\frac{\1 \\cdot \\pi}{180}"
_UNITS_OF_ONE_LETTER = re.compile(r"(.*\d)\s+([mgsNJWVhL])")


MAX_DIGITS = 10_000
SHORT_PLACES = 4
"""A gold answer that a decimal of so many places expresses exactly must be met exactly."""


@dataclass(frozen=True)
class Decimal:
    """A number written out: its worth, its significant digits, and one unit in its last place."""

    worth: Fraction
    digits: int
    unit: Fraction
    pointed: bool
    scientific: bool


def same_value(gold: Value, answer: Value, digits: int) -> bool:
    """Whether `answer` is worth what `gold` is.

    `digits`: significant digits from which a decimal counts as an approximation. Raises
    UndecidedError if it cannot be said.
    """
    if not _same_units(gold, answer) or (_PRIMED.search(answer.tex) and "'" not in gold.tex):
        return False
    lettered = len(gold.unit or answer.unit) == 1 and not (gold.unit and answer.unit)
    if lettered and _same_inlined(gold, answer, digits):
        return True
    if not gold.unit and _is_symbol(answer) and units.measure(answer.unit) is None:
        return False  # a factor that the gold lacks
    if squeezed(gold.tex) == squeezed(answer.tex) and not (gold.unit and answer.unit):
        return True
    written = _BASE.fullmatch(answer.tex.strip())
    base = _BASES.get(written.group(2), written.group(2)) if written else ""
    if written and base.isdigit() and re.fullmatch(r"\d+", gold.tex.strip()):
        return base == "10" and written.group(1) == gold.tex.strip()
    if _UNKNOWN_SIGN.search(answer.tex) and not _UNKNOWN_SIGN.search(gold.tex):
        return False
    based = _same_based(gold, answer)
    if based is not None:
        return based
    ours, our_mark = _marked(gold)
    theirs, their_mark = _marked(answer)
    if gold.unit and answer.unit and our_mark == their_mark == "":
        scale = _unit_scale(gold.unit, answer.unit)
        if scale != "1":
            return _same_expression(ours, f"({theirs}) \\cdot {scale}", digits)
    spaced = _UNITS_OF_ONE_LETTER.fullmatch(theirs)
    if spaced and _decimal(ours) and not answer.unit:
        if gold.unit:  # 5 m is no 5 cm, however the m is set
            return same_value(gold, Value(spaced.group(1), spaced.group(2)), digits)
        theirs = spaced.group(1)
    if our_mark == their_mark:
        return _same_expression(ours, theirs, digits)
    marks = {our_mark, their_mark} - {""}
    if ("percent" in marks and len(marks) > 1) or _is_other(gold) or _is_other(answer):
        return False
    if marks == {"radian"}:
        return _same_expression(ours, theirs, digits)
    if marks == {"percent"}:
        if (answer if our_mark else gold).unit:
            return False
        percent, plain = (ours, theirs) if our_mark else (theirs, ours)
        # Both ways, since only what is left as it was written is seen to be rounded.
        pairs = [
            (f"({percent}) \\cdot \\frac{{1}}{{100}}", plain),
            (percent, f"({plain}) \\cdot 100"),
        ]
        if not our_mark:
            pairs = [pair[::-1] for pair in pairs]
        worth = constant(plain)
        if worth is not None and abs(worth) >= 1 and not plain.lstrip(" -").startswith(r"\frac"):
            pairs.append((ours, theirs))  # the problem asked for percents
        return any(_same_expression(a, b, digits) for a, b in pairs)
    in_degrees = our_mark == "degree"
    plain = theirs if in_degrees else ours
    marked = ours if in_degrees else theirs
    if len(marks) == 1 and r"\pi" not in marked and _same_expression(ours, theirs, digits):
        return True
    if len(marks) == 1 and r"\pi" not in plain:
        return False
    # 90° - A/2 against π/2 - A/2: the letters are angles in whatever unit.
    marked_tex = gold.tex if in_degrees else answer.tex
    turns = [f"({marked}) \\cdot \\frac{{\\pi}}{{180}}", _DEGREE_NUMBER.sub(_RADIANS, marked_tex)]
    for turned in turns if turns[1] != marked_tex else turns[:1]:
        pair = (turned, plain) if in_degrees else (plain, turned)
        if _same_expression(*pair, digits):
            return True
    return False


def _same_inlined(gold: Value, answer: Value, digits: int) -> bool:
    r"""Whether a unit of one letter is a factor of the other side: ``0.64 \text{N}`` is 0.64N."""
    inlined = [f"{v.tex} {v.unit.upper()}" if v.unit else v.tex for v in (gold, answer)]
    if squeezed(inlined[0]).upper() == squeezed(inlined[1]).upper():
        return True
    try:
        return _same_expression(inlined[0], inlined[1], digits)
    except UndecidedError:
        return False


def _marked(value: Value) -> tuple[str, str]:
    """Return the expression without its percent or degree sign, and which one it had."""
    tex, unit = value.tex.strip(), value.unit
    if tex.endswith((r"\%", "%")):
        return re.sub(r"\s*\\?%$", "", tex), "percent"
    if _PERCENT.match(unit):
        return tex, "percent"
    if not TRIG.search(tex) and (DEGREES.search(tex) or re.match(r"(degree|deg)", unit)):
        return DEGREES.sub("", tex), "degree"
    return tex, "radian" if re.match(r"(radian|rad)s?$", unit) else ""


def _is_other(value: Value) -> bool:
    """Whether a value has a unit that is neither an angle's nor a percentage."""
    if not value.unit or _marked(value)[1]:
        return False
    measure = units.measure(value.unit)
    return measure is not None and set(measure[0]) != {"angle"}


def _same_units(gold: Value, answer: Value) -> bool:
    """Whether what stands after the two numbers may be the unit of one quantity. What follows the
    answer's number must be known, or be what follows the gold's."""
    if gold.unit and answer.unit and wording.are_opposed(gold.unit, answer.unit):
        return False
    if not answer.unit or gold.unit == answer.unit or _PERCENT.fullmatch(answer.unit):
        return True
    if re.fullmatch(r"(?:in )?(?:degrees?|deg|radians?|rads?)", answer.unit):
        return True
    if _BASE_NAMED.fullmatch(answer.unit) or answer.unit in ("am", "pm"):
        return bool(_BASE.fullmatch(gold.tex.strip())) or answer.unit == "am"
    if not gold.unit:
        if _marked(gold)[1] == "percent" and answer.unit in ("increase", "decrease"):
            return True
        return is_counted(answer.unit, _is_few(gold.tex)) or _is_symbol(answer)
    ours, theirs = units.measure(gold.unit), units.measure(answer.unit)
    if ours is not None and theirs is not None:
        return ours[0] == theirs[0]
    return is_counted(answer.unit, True) and same_things(gold.unit, answer.unit)


def _is_symbol(value: Value) -> bool:
    """Whether what looks like a unit is a letter: 0.64N, 12a."""
    return re.fullmatch("[a-zµ]", value.unit) is not None


def _is_few(tex: str) -> bool:
    """Whether a number is one, or less: then one thing is counted."""
    return re.fullmatch(r"\s*(?:1|0?\.\d+|\\frac.*|\d+\s*/\s*\d+)\s*", tex) is not None


def _unit_scale(ours: str, theirs: str) -> str:
    """Return what their unit is in ours."""
    our_measure, their_measure = units.measure(ours), units.measure(theirs)
    if our_measure is None or their_measure is None or our_measure[1] == their_measure[1]:
        return "1"
    if units.is_unnamed(ours) or units.is_unnamed(theirs):
        return "1"
    ratio = their_measure[1] / our_measure[1]
    return f"\\frac{{{ratio.numerator}}}{{{ratio.denominator}}}"


def _same_based(gold: Value, answer: Value) -> bool | None:
    """Whether numbers in a written base agree, digit for digit; None if the gold has no base."""
    ours = _BASE.fullmatch(gold.tex.strip())
    if ours is None or not re.fullmatch(r"\d{1,2}|[a-z]{3,}", ours.group(2)):
        return None
    if re.match(r"[a-zA-Z]+$", ours.group(1)):
        return None  # a_2 is a symbol
    theirs = _BASE.fullmatch(answer.tex.strip())
    if theirs is None:
        spoken = _BASE_NAMED.fullmatch(answer.unit)
        if answer.unit and not spoken:
            return None
        digits, base = answer.tex.strip(), spoken.group(1) if spoken else None
    else:
        digits, base = theirs.groups()
    if base is not None and _BASES.get(base, base) != _BASES.get(ours.group(2), ours.group(2)):
        return False
    return digits.lower() == ours.group(1).lower()


def _same_expression(gold: str, answer: str, digits: int) -> bool:
    """Whether two expressions are equal, exactly or as far as one of them is written out."""
    ours, theirs = expression_of(gold), expression_of(answer)
    if ours is None or theirs is None:
        if squeezed(gold) == squeezed(answer):
            return True
        raise UndecidedError
    same = numerics.equal_values(ours, theirs)
    if same is None and r"\log" in gold + answer:
        same = False
    if same:
        return True
    if r"\log" in gold + answer:
        # Without a base, log is ln to one writer and log_10 to another.
        natural = [re.sub(r"\\log(?!\s*_)", r"\\ln", tex) for tex in (gold, answer)]
        left, right = expression_of(natural[0]), expression_of(natural[1])
        if left is not None and right is not None and numerics.equal_values(left, right):
            return True
    if same is None:
        raise UndecidedError
    if _approximates(gold, answer, ours, theirs, digits):
        return True
    return _same_but_for_case(gold, answer, ours, theirs)


def _same_but_for_case(gold: str, answer: str, ours: sympy.Basic, theirs: sympy.Basic) -> bool:
    """N/2 against n/2, where neither uses both letters."""
    our_names, their_names = ({str(s) for s in side.free_symbols} for side in (ours, theirs))
    missing, extra = our_names - their_names, their_names - our_names
    if not extra or len(missing) != len(extra):
        return False
    if any(name.swapcase() not in missing or len(name) > 1 for name in extra):
        return False
    for name in extra:
        answer = rename(answer, name, name.swapcase())
    renamed = expression_of(answer)
    return renamed is not None and bool(numerics.equal_values(ours, renamed))


def _approximates(
    gold: str, answer: str, ours: sympy.Basic, theirs: sympy.Basic, digits: int
) -> bool:
    """Whether one side is the other, correctly rounded to enough digits."""
    our_decimal, their_decimal = _decimal(gold), _decimal(answer)
    if our_decimal is None and their_decimal is None:
        return False
    our_worth, their_worth = numerics.constant(ours), numerics.constant(theirs)
    if our_worth is None or their_worth is None:
        return False
    if our_decimal is not None and their_decimal is not None and our_decimal.pointed and (
        their_decimal.digits in (16, 17) and our_decimal.digits < 15
    ):  # fmt: skip
        return bool(abs(our_worth - their_worth) <= mpf(10) ** -15 * abs(our_worth))
    if our_decimal is not None and _may_be_rounded(our_decimal):
        enough = 2 if our_decimal.scientific else 3
        finer = our_decimal.digits + 2
        if their_decimal is not None and their_decimal.digits < finer and not _of_one_fraction(
            our_decimal, their_decimal
        ):  # fmt: skip
            enough = MAX_DIGITS  # 12.34 is not 12.3
        if our_decimal.digits >= enough and _rounds_to(their_worth, our_decimal):
            return True
        if their_decimal is None and our_decimal.digits > digits and _truncates_to(
            their_worth, our_decimal
        ):  # fmt: skip
            return True
    if their_decimal is None or not (their_decimal.pointed or their_decimal.scientific):
        return False
    if their_decimal.digits < digits:
        return False
    truncated = their_decimal.digits > digits and _truncates_to(our_worth, their_decimal)
    if not truncated and not _rounds_to(our_worth, their_decimal):
        return False
    if our_decimal is not None:
        return our_decimal.pointed and our_decimal.digits > their_decimal.digits
    if mp.isint(our_worth):
        return False
    exact = sympy.nsimplify(ours) if isinstance(ours, sympy.Rational) else None
    return not (isinstance(exact, sympy.Rational) and 10**SHORT_PLACES % exact.q == 0)


def _may_be_rounded(written: Decimal) -> bool:
    """Whether a gold decimal may stand for another value: halves, quarters and eighths, and whole
    numbers written with zeros, are what they are."""
    if written.scientific:
        return True
    return written.pointed and written.worth.denominator not in (1, 2, 4, 8)


def _of_one_fraction(gold: Decimal, answer: Decimal) -> bool:
    """Whether two decimals are roundings of one simple fraction: 0.667 and 0.6667."""
    simple = answer.worth.limit_denominator(3)
    worth = mpf(simple.numerator) / simple.denominator
    periodic = 10**SHORT_PLACES % simple.denominator != 0
    return periodic and _rounds_to(worth, gold) and _rounds_to(worth, answer)


def are_near(exact: Form, rounded: Form) -> bool:
    """Whether a value may be rounded to another, as `exact \\approx rounded` says: within 2%."""
    values = [form.value if isinstance(form, Named) else form for form in (exact, rounded)]
    worths = [constant(form.tex) if isinstance(form, Value) else None for form in values]
    if worths[0] is None or worths[1] is None:
        return False
    return bool(abs(worths[0] - worths[1]) <= abs(worths[0]) / 50)


def _rounds_to(worth: mpf, written: Decimal) -> bool:
    with mp.workdps(40):
        target = mpf(written.worth.numerator) / written.worth.denominator
        half = mpf(written.unit.numerator) / written.unit.denominator / 2
        return bool(abs(worth - target) <= half * (1 + mpf(10) ** -9))


def _truncates_to(worth: mpf, written: Decimal) -> bool:
    """Whether a decimal is a value cut off after its last digit, as in 8.24621 for 8.246217…"""
    with mp.workdps(40):
        rest = abs(worth) - abs(mpf(written.worth.numerator) / written.worth.denominator)
        unit = mpf(written.unit.numerator) / written.unit.denominator
        return bool(0 <= rest < unit and mp.sign(worth) == mp.sign(mpf(written.worth.numerator)))


def _decimal(tex: str) -> Decimal | None:
    match = _DECIMAL.fullmatch(SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", tex.strip()))
    if match is None or not (match.group(2) or match.group(3)):
        return None
    sign, whole, after, exponent = match.groups()
    shown = (whole + (after or "")).lstrip("0")
    power = int(exponent or 0) - len(after or "")
    if abs(power) > 5000:
        return None
    unit = Fraction(10) ** power
    worth = int(whole + (after or "")) * unit * (-1 if sign == "-" else 1)
    return Decimal(
        worth, max(len(shown), 1), unit, after is not None and after != "", exponent is not None
    )
