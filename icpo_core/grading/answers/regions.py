"""Sets of real numbers: intervals, inequalities and their unions, in one form.

``x > 1``, ``(1, \\infty)``, ``x \\in (1, \\infty)`` and ``\\mathbb{R} \\setminus (-\\infty, 1]``
are one region. Ends are expressions; what they are worth is asked of a function that the caller
gives.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from mpmath import mp, mpf

from icpo_core.grading.answers import wording
from icpo_core.grading.answers.forms import (
    Combination,
    Form,
    Group,
    Named,
    Relation,
    Value,
    Words,
    goes_on,
)
from icpo_core.grading.answers.names import is_name
from icpo_core.grading.answers.pieces import Piece, Worth, complement, intersection, merged


@dataclass(frozen=True)
class Region:
    """A union of pieces, for a variable if one was named, of integers or reals if that was said."""

    pieces: tuple[Piece, ...]
    variable: str = ""
    integers: bool = False
    reals: bool = False


_EVERYTHING = Piece(r"-\infty", r"\infty", False, False)
_KIND = re.compile(
    r"(?:all |any |the |every )*"
    r"(?:(positive|negative|non-?negative|non-?positive|natural|non-?zero) )?"
    r"(real numbers?|reals?|integers?|natural numbers?|numbers?)"
)
_SYMBOL = re.compile(r"\\mathbb([RZN])((?:[\^_](?:\+|-|>0|\\ge0|\\geq0|\*|>=0))?)")
_EXCEPT = re.compile(
    r"(.+?)\s*(?:except(?: for)?|other than|excluding|but not|apart from|not equal to)\s+(.+)",
    re.IGNORECASE,
)
_AND = re.compile(r",|\band\b|\bor\b|\\text\{(?:and|or)\}")
_COUNTING = frozenset("ijklmnN")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


def is_plainly_region(form: Form) -> bool:
    """Whether the form can be nothing but a region: ``(1,2)`` alone may be a point."""
    if isinstance(form, Named):
        return is_plainly_region(form.value)
    if isinstance(form, Group) and (form.opening == "" or goes_on(form)):
        return any(is_plainly_region(item) for item in form.items) or goes_on(form)
    if isinstance(form, Group):
        return (form.opening, form.closing) in (("(", "]"), ("[", ")")) or any(
            isinstance(item, Value) and r"\infty" in item.tex for item in form.items
        )
    if isinstance(form, Relation):
        return not set(form.signs) & {"=", r"\in"}
    if isinstance(form, Value):
        return _of_symbol(form.tex) is not None
    if isinstance(form, Words):
        return _of_words(form.text) is not None
    return isinstance(form, Combination)


def region(form: Form, worth: Worth) -> Region | None:
    """Return the region that the form describes, pieces sorted and merged; None if none."""
    found = _region(form, worth)
    return None if found is None else replace(found, pieces=merged(found.pieces, worth))


def same_region(
    gold: Region, answer: Region, same_end: Callable[[str, str], bool], worth: Worth
) -> bool:
    """Whether two regions are one, by their ends."""
    if (gold.integers and answer.reals) or (gold.reals and answer.integers):
        return False
    letters = {gold.variable, answer.variable}
    if answer.integers and not gold.integers and not letters & _COUNTING:
        return False
    counts = "n" in letters or (
        letters & _COUNTING and (_are_integers(gold) or _are_integers(answer))
    )
    if gold.integers or answer.integers or (counts and not (gold.reals or answer.reals)):
        gold, answer = _of_integers(gold, worth), _of_integers(answer, worth)
    if len(gold.pieces) != len(answer.pieces):
        return False
    return all(
        a.low_closed == b.low_closed
        and a.high_closed == b.high_closed
        and same_end(a.low, b.low)
        and same_end(a.high, b.high)
        for a, b in zip(gold.pieces, answer.pieces, strict=True)
    )


def holds(where: Region, point: mpf, worth: Worth) -> bool:
    """Whether a number lies in a region whose ends are numbers."""
    for piece in where.pieces:
        low, high = worth(piece.low), worth(piece.high)
        if low is None or high is None:
            continue
        above = point > low or (piece.low_closed and point == low)
        if above and (point < high or (piece.high_closed and point == high)):
            return True
    return False


def _are_integers(where: Region) -> bool:
    """Whether the pieces are three and more integers in a row, written one by one."""
    ends = [piece.low for piece in where.pieces if piece.low == piece.high]
    if len(ends) < max(3, len(where.pieces)):
        return False
    if not all(re.fullmatch(r"-?\d{1,9}", end) for end in ends):
        return False
    first = int(ends[0])
    return [int(end) for end in ends] == list(range(first, first + len(ends)))


def _region(form: Form, worth: Worth) -> Region | None:
    if isinstance(form, Named):
        inner = _region(form.value, worth)
        return None if inner is None else replace(inner, variable=form.name)
    if isinstance(form, Words):
        return _without_points(form.text, worth) or _of_words(form.text)
    if isinstance(form, Value):
        return _of_symbol(form.tex)
    if isinstance(form, Relation):
        return _of_relation(form, worth)
    if isinstance(form, Combination):
        return _of_combination(form, worth)
    if isinstance(form, Group) and goes_on(form):
        return _of_enumeration(form)
    if isinstance(form, Group) and form.opening == r"\{":
        points = [item.tex for item in form.items if isinstance(item, Value)]
        if len(points) < len(form.items) or not points:
            return None
        return Region(tuple(Piece(point, point, True, True) for point in points))
    if isinstance(form, Group) and form.opening:
        if len(form.items) != 2 or not all(isinstance(item, Value) for item in form.items):
            return None
        low, high = (item.tex for item in form.items if isinstance(item, Value))
        piece = Piece(low, high, form.opening == "[", form.closing == "]")
        return Region((piece,), reals=True)
    if isinstance(form, Group):
        return _of_list(form, worth)
    return None


def _of_symbol(tex: str) -> Region | None:
    r"""``\mathbb{R}``, ``\mathbb{Z}^+``, ``\mathbb{R}_{\ge 0}``."""
    match = _SYMBOL.fullmatch(re.sub(r"[\s{}]", "", tex))
    if match is None:
        return None
    pieces = {
        "": _EVERYTHING,
        "+": Piece("0", r"\infty", False, False),
        "-": Piece(r"-\infty", "0", False, False),
        "0": Piece("0", r"\infty", True, False),
    }
    sign = "+" if match.group(1) == "N" else "0" if "0" in match.group(2) else match.group(2)[-1:]
    if re.search(">0|>", match.group(2)):
        sign = "+"
    real = match.group(1) == "R"
    return Region((pieces[sign],), integers=not real, reals=real)


def _without_points(words: str, worth: Worth) -> Region | None:
    """``all real numbers except -8``."""
    match = _EXCEPT.fullmatch(words.strip())
    whole = _of_words(match.group(1)) if match else None
    if match is None or whole is None:
        return None
    points = [re.sub(r"^\s*\w\s*=", "", text).strip() for text in _AND.split(match.group(2))]
    others = complement(tuple(Piece(point, point, True, True) for point in points), worth)
    return replace(whole, pieces=intersection(whole.pieces, others, worth)) if others else None


def _of_words(text: str) -> Region | None:
    """``positive real numbers``, ``all non-negative integers``."""
    if wording.meaning(text) == wording.ALL_REALS:
        return Region((_EVERYTHING,), reals=True)
    match = _KIND.fullmatch(wording.clean(text))
    if match and (match.group(1) or "").endswith("zero"):
        halves = Piece(r"-\infty", "0", False, False), Piece("0", r"\infty", False, False)
        return Region(halves, integers=match.group(2)[:4] not in ("real", "numb"))
    if match is None:
        return None
    sign, kind = (match.group(1) or "").replace("-", ""), match.group(2)
    piece = {
        "positive": Piece("0", r"\infty", False, False),
        "negative": Piece(r"-\infty", "0", False, False),
        "nonnegative": Piece("0", r"\infty", True, False),
        "nonpositive": Piece(r"-\infty", "0", False, True),
        "natural": Piece("0", r"\infty", False, False),
        "": _EVERYTHING,
    }[sign]
    real = kind.startswith("real")
    return Region((piece,), integers=not real and kind[:6] != "number", reals=real)


def _of_enumeration(form: Group) -> Region | None:
    """``2, 3, 4, …`` as the integers from 2."""
    name = next((item.name for item in form.items if isinstance(item, Named)), "")
    items = [item.value if isinstance(item, Named) else item for item in form.items[:-1]]
    numbers = [item.tex.strip() for item in items if isinstance(item, Value)]
    if len(numbers) < 2 or not all(re.fullmatch(r"-?\d{1,9}", number) for number in numbers):
        return None
    first = int(numbers[0])
    if [int(number) for number in numbers] != list(range(first, first + len(numbers))):
        return None
    return Region((Piece(numbers[0], r"\infty", True, False),), name, True)


def _of_list(form: Group, worth: Worth) -> Region | None:
    """``x < 1 or x > 2`` is a union; ``x > 1, x < 2`` an intersection, unless that is empty."""
    parts = []
    for item in form.items:
        if isinstance(item, Named) and isinstance(item.value, Value):
            part: Region | None = Region(
                (Piece(item.value.tex, item.value.tex, True, True),), item.name
            )
        else:
            part = _region(item, worth)
        if part is None:
            return None
        parts.append(part)
    variables = {part.variable for part in parts if part.variable}
    if len(variables) > 1:
        return None
    variable = variables.pop() if variables else ""
    integers = any(part.integers for part in parts)
    intervals = any(isinstance(item, Group) for item in form.items)
    if form.joined != "or" and not intervals:
        common = parts[0].pieces
        for part in parts[1:]:
            common = intersection(common, part.pieces, worth)
        if common or form.joined == "and":
            return Region(common, variable, integers)
    return Region(tuple(piece for part in parts for piece in part.pieces), variable, integers)


def _of_relation(form: Relation, worth: Worth) -> Region | None:
    sides, signs = [side.strip() for side in form.sides], list(form.signs)
    if any(sign not in _FLIPPED for sign in signs) or len(sides) not in (2, 3):
        return None
    if len(sides) == 3:
        if not is_name(sides[1]) or r"\ne" in signs:
            return None
        if signs[0] in (">", r"\ge"):
            sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
        if any(sign not in ("<", r"\le") for sign in signs):
            return None
        piece = Piece(sides[0], sides[2], signs[0] == r"\le", signs[1] == r"\le")
        return Region((piece,), sides[1], form.integers)
    name, sign, end = sides[0], signs[0], sides[1]
    if name and not is_name(name):
        if not is_name(end):
            return None
        name, sign, end = end, _FLIPPED[sign], name
    absolute = re.fullmatch(r"\|\s*(\w+)\s*\|", name)
    if absolute and sign in ("<", r"\le"):
        closed = sign == r"\le"
        return Region((Piece(f"-({end})", end, closed, closed),), absolute.group(1), form.integers)
    pieces: tuple[Piece, ...]
    if absolute and sign in (">", r"\ge"):
        closed = sign == r"\ge"
        pieces = (
            Piece(r"-\infty", f"-({end})", False, closed),
            Piece(end, r"\infty", closed, False),
        )
        return Region(pieces, absolute.group(1), form.integers)
    if sign == r"\ne":
        pieces = (Piece(r"-\infty", end, False, False), Piece(end, r"\infty", False, False))
    elif sign in ("<", r"\le"):
        pieces = (Piece(r"-\infty", end, False, sign == r"\le"),)
    else:
        pieces = (Piece(end, r"\infty", sign == r"\ge", False),)
    return Region(pieces, name, form.integers)


def _of_combination(form: Combination, worth: Worth) -> Region | None:
    parts = [_region(item, worth) for item in form.items]
    if any(part is None for part in parts):
        return None
    regions = [part for part in parts if part is not None]
    pieces = regions[0].pieces
    for other in regions[1:]:
        if form.sign == r"\cup":
            pieces += other.pieces
        elif form.sign == r"\cap":
            pieces = intersection(pieces, other.pieces, worth)
        else:
            rest = complement(other.pieces, worth)
            if rest is None:
                return None
            pieces = intersection(pieces, rest, worth)
    variable = next((part.variable for part in regions if part.variable), "")
    return Region(pieces, variable, form.sign == r"\cap" and any(p.integers for p in regions))


def _of_integers(found: Region, worth: Worth) -> Region:
    """The region with its ends moved to the outermost integers in it."""
    pieces = []
    for piece in found.pieces:
        low, high = worth(piece.low), worth(piece.high)
        ends = [piece.low, piece.high]
        closed = [piece.low_closed, piece.high_closed]
        if low is not None and mp.isfinite(low):
            inside = mp.ceil(low)
            ends[0] = str(int(inside + (1 if inside == low and not piece.low_closed else 0)))
            closed[0] = True
        if high is not None and mp.isfinite(high):
            inside = mp.floor(high)
            ends[1] = str(int(inside - (1 if inside == high and not piece.high_closed else 0)))
            closed[1] = True
        pieces.append(Piece(ends[0], ends[1], closed[0], closed[1]))
    joined: list[Piece] = []
    for piece in pieces:
        before = joined[-1].high if joined else ""
        if re.fullmatch(r"-?\d+", before) and piece.low == str(int(before) + 1):
            joined[-1] = replace(joined[-1], high=piece.high, high_closed=piece.high_closed)
        else:
            joined.append(piece)
    return replace(found, pieces=tuple(joined))
