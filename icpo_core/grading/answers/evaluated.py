r"""Whether an answer is worked out as far as the gold answer is.

`12 \cdot 13` is worth 156 and answers nothing: it is the problem. So the form of an answer is
compared with the form of the gold: `left_to_do` names the kinds of operations that a text leaves to
be done, and an answer may leave none that the gold does not leave, too.

An operation is left to do if all it takes are numbers: a sum of numbers, a product, a power, a
factorial, a function's value. A number is what is written as one: an integer, a decimal, a fraction
that is no integer, a mixed number, a decimal times a power of ten, a percentage. What no operation
makes shorter (`2\sqrt{3}`, `3\pi`, `1 + \sqrt{5}`, `x + 1`) is left as it is. So is a relation,
unless it is an equation or inequality in one letter that nobody has solved (`2x = 82`). What a
rational number needs no root, no pi and no i for has them only to cancel.

Of an equation every side counts, but a name: `28 + 10 = 38` restates the problem, and where that
pays, it is the first step to `28 + 10`. The answer is the value, alone or with its name.
"""

import re

from icpo_core.grading.answers.forms import RELATION, split
from icpo_core.grading.answers.names import is_name, names_in, unworded
from icpo_core.grading.answers.notation import tidy
from icpo_core.grading.answers.operations import BIG, CONSTANTS, left_in
from icpo_core.grading.answers.phrases import without_remarks

_PIECES = re.compile(r"[,;]|\\text\{[^{}]*\}|\\c[au]p(?![a-z])|\\forall(?![a-z])")
_MEASURED = re.compile(r"\s*-?[\d.,]+\s*[a-zA-Z]{1,2}\s*")
_ROUNDED = re.compile(r"\d\.\d\d|\.\d{3}")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d+\.?\d*|\.\d+)[eE]([-+]?\d+)(?![\d.]*[A-Za-z^_])")
_SPACED = re.compile(r"(?<!\d)(\d{1,3}) (?=\d{3}(?: \d{3})*(?!\d))")
_MIXED = re.compile(r"(?<![\d.}])(\d+)\s+(\d+)\s*/\s*(\d+)")
_DEGREES = re.compile(r"\^\s*\{?\s*\\(?:circ|prime)\s*\}?")
_ABSOLUTE = re.compile(r"\|([^|]*\d[^|]*)\|")
_DIVISION = re.compile(r"÷|\\div(?![a-z])")
_IRRATIONAL = re.compile(r"\\sqrt|\\pi(?![a-z])|(?<![A-Za-z\\(])[ei](?![A-Za-z)])")
_RATIO = re.compile(r"\s*(\d{1,18})\s*(?::|\\text\{\s*to\s*\})\s*(\d{1,18})\s*")
_CALLED = re.compile(r"\s*\\[a-z]+\s*\(")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}(?:\{[lcr| ]*\})?")
_LETTERED = re.compile(r"[A-Za-z^]")
_SIMPLE = frozenset(["sum", "product", "quotient", "letters", "equation", "irrational", "nothing"])


def unevaluated(gold: str, answer: str) -> list[str]:
    """The kinds of operations that `answer` leaves to be done and `gold` does not; both as they
    were written. [] if the answer is worked out as far as the gold is.

    That they are worth the same is taken for granted.
    """
    plain = _plain(gold)
    formula = not _MEASURED.fullmatch(gold) and any(
        _letters_of(side) and not is_name(unworded(side))
        for piece in split(plain, _PIECES)[0]
        for side in split(piece, RELATION)[0]
    )
    theirs = left_to_do(answer, formula)
    written_out = unworded(plain).replace(r"\frac", "")
    if (
        r"\circ" in tidy(gold)
        or _LETTERED.search(written_out)
        or _ROUNDED.search(plain)
        or not re.search(r"\d", written_out)
    ):
        theirs.discard("irrational")
    if not theirs:
        return []
    ours = left_to_do(gold)
    if ours - _SIMPLE:  # too large to be written out, and there are many ways to write it
        ours |= {"product", "quotient", "power"}
    if _ROUNDED.search(gold):
        ours.add("function")  # what a decimal stands for may be said exactly
    sides = split(plain, RELATION)[0]
    if r"\equiv" in plain or all(map(_letters_of, sides)) or not re.search(r"\d", unworded(plain)):
        ours.add("letters")  # a formula, residues, words
    return sorted(theirs - ours)


def left_to_do(text: str, formulas: bool = False) -> set[str]:
    """Return the kinds of operations that an answer as it was written leaves to be done.

    `sum`, `product`, `quotient`, `power`, `root`, `factorial`, `function`, `operation` (binomials,
    greatest common divisors and the like), a big operator's command, `letters` that would cancel,
    and `equation` for one in a single letter that is not solved for it.

    `nothing`: a nought is added, a factor or power of nought or one is written.
    `irrational`: there is a root, pi, e or i, which cancels where the worth is a rational number.

    `formulas`: letters are expected, so of a formula in letters only big operators count.
    """
    plain = _plain(text)
    found: set[str] = set()
    if any(not _letters_of(inside) for inside in _ABSOLUTE.findall(plain)):
        found.add("operation")
    ratio = _RATIO.fullmatch(plain)
    if _DIVISION.search(text) or (ratio and int(ratio[1]) % (int(ratio[2]) or 1) == 0):
        found.add("quotient")
    for piece in split(plain, _PIECES)[0]:
        sides, signs = split(piece, RELATION)
        if signs and not formulas and _is_unsolved(sides):
            found.add("equation")
            continue
        valued = [
            side
            for side in sides
            if side.strip() and (not signs or not is_name(side) or _CALLED.match(side))
        ]
        if len(valued) == len(sides) > 1 and any(map(_letters_of, sides)) and set(signs) != {"="}:
            continue  # a relation between formulas
        kinds = [left_in(side) for side in valued]
        for side, left in zip(valued, kinds, strict=True):
            if _IRRATIONAL.search(unworded(side)) and r"\hat" not in side:
                left.add("irrational")
        if formulas:
            kinds = [
                left & BIG if _letters_of(side) else left
                for side, left in zip(valued, kinds, strict=True)
            ]
        if any(map(_letters_of, valued)) and set(signs) == {"="}:
            kinds = [min(kinds, key=len)]  # of an equation, one side may be as the gold's
        found.update(*kinds)
    return found - {"letters"} if r"\hat{" in plain else found


def _plain(text: str) -> str:
    plain = without_remarks(tidy(text)).replace(r"\not", " ")
    plain = _SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", _DEGREES.sub("", plain))
    return _MIXED.sub(r"\1\\frac{\2}{\3}", _SPACED.sub(r"\1", plain))


def _is_unsolved(sides: list[str]) -> bool:
    letters = {letter for side in sides for letter in _letters_of(side)}
    return len(letters) == 1 and not any(is_name(side) for side in sides)


def _letters_of(text: str) -> set[str]:
    """The letters of a text that stand for something unknown."""
    return names_in(unworded(_ENVIRONMENT.sub(" ", text))) - CONSTANTS
