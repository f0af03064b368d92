r"""Whether an answer is worked out as far as the gold answer is.

`12 \cdot 13` is worth 156 and answers nothing: it is the problem. So the form of an answer is
compared with the form of the gold: `left_to_do` names the kinds of operations that a text leaves to
be done, and an answer may leave none that the gold does not leave, too.

An operation is left to do if all it takes are numbers: a sum of numbers, a product, a power, a
factorial, a function's value. A number is what is written as one: an integer, a decimal, a fraction
that is no integer, a mixed number, a decimal times a power of ten, a percentage. What no operation
makes shorter (`2\sqrt{3}`, `3\pi`, `1 + \sqrt{5}`, `x + 1`) is left as it is. So is a relation,
unless it is an equation or inequality in one letter that nobody has solved (`2x = 82`).

The text is read here and not by the expression parser, which does some operations by itself.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction

from icpo_core.grading.answers.forms import RELATION, split
from icpo_core.grading.answers.names import is_name, names_in, unworded
from icpo_core.grading.answers.notation import tidy
from icpo_core.grading.answers.phrases import without_remarks

MAX_DEPTH = 40
"""Brackets nested deeper than this are not looked into."""
MAX_BITS = 4000
"""A number of more bits is a number, but not calculated with."""

_TOKEN = re.compile(
    r"\\text\{[^{}]*\}|\\mathbb\{[^{}]*\}|\\begin\{\w+\}|\\end\{\w+\}|\\[a-zA-Z]+|\\."
    r"|\d+(?:\.\d+)?|\.\d+|[a-zA-Z]+'*|\s+|.",
    re.DOTALL,
)
_PIECES = re.compile(r"[,;]|\\text\{[^{}]*\}|\\c[au]p(?![a-z])|\\forall(?![a-z])")
_FRACTION = re.compile(r"\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_MEASURED = re.compile(r"\s*-?[\d.,]+\s*[a-zA-Z]{1,2}\s*")
_ROUNDED = re.compile(r"\d\.\d\d|\.\d{3}")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d+\.?\d*|\.\d+)[eE]([-+]?\d+)(?![\d.]*[A-Za-z^_])")
_SPACED = re.compile(r"(?<!\d)(\d{1,3}) (?=\d{3}(?: \d{3})*(?!\d))")
_MIXED = re.compile(r"(?<![\d.}])(\d+)\s+(\d+)\s*/\s*(\d+)")
_DEGREES = re.compile(r"\^\s*\{?\s*\\(?:circ|prime)\s*\}?")
_ABSOLUTE = re.compile(r"\|[^|a-zA-Z\\]*\d[^|a-zA-Z\\]*\|")
_SIGNS = frozenset(["+", "-", r"\pm", r"\mp"])
_TIMES = frozenset([r"\cdot", r"\times", "*", r"\ast"])
_OVER = frozenset(["/", r"\div"])
_OPENING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\lfloor": r"\rfloor",
            r"\lceil": r"\rceil", r"\langle": r"\rangle"}  # fmt: skip
_CLOSING = frozenset(_OPENING.values())
_SEPARATING = frozenset([",", ";", ":", "|", "&", r"\\", r"\cup", r"\cap", r"\setminus", r"\mid",
                         r"\land", r"\lor", r"\pmod"])  # fmt: skip
_BIG = frozenset([r"\sum", r"\prod", r"\int", r"\iint", r"\lim", r"\oint"])
_TRIG = frozenset(
    rf"\{arc}{name}{h}"
    for name in ("sin", "cos", "tan", "cot", "sec", "csc")
    for arc, h in (("", ""), ("arc", ""), ("", "h"))
)
_FUNCTIONS = _TRIG | {r"\log", r"\ln", r"\lg"}
_OF_NUMBERS = frozenset([r"\gcd", r"\lcm", r"\max", r"\min", r"\mod", r"\bmod", r"\operatorname",
                         r"\binom", r"\det", r"\choose"])  # fmt: skip
_SIMPLE = frozenset(["sum", "product", "quotient", "letters", "equation"])
_CONSTANTS = frozenset("ei")


@dataclass(frozen=True)
class _Part:
    """A part of an expression: a number (`worth` where it is handy), or something else."""

    number: bool = False
    worth: Fraction | None = None
    literal: bool = False  # written with digits only
    ten: bool = False  # a power of ten
    rest: str = ""  # what no number stands for: like terms have the same
    letters: tuple[str, ...] = ()


@dataclass
class _Reader:
    """Reads tokens from left to right and notes the kinds of operations that are left to do."""

    tokens: list[str]
    at: int = 0
    depth: int = 0
    kinds: set[str] = field(default_factory=set)

    def peek(self) -> str:
        """The next token that is no space; empty at the end."""
        while self.at < len(self.tokens) and self.tokens[self.at].isspace():
            self.at += 1
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def items(self) -> list[_Part]:
        """What separators part, up to a closing bracket or the end."""
        found: list[_Part] = []
        while True:
            token = self.peek()
            if not token or token in _CLOSING:
                return found
            if _separates(token):
                self.take()
                continue
            before = self.at
            found.append(self.sum())
            if self.at == before:  # nothing that a sum begins with
                self.take()

    def sum(self) -> _Part:
        terms: list[_Part] = []
        signs = 0
        while True:
            while self.peek() in _SIGNS:
                signs += self.take() == "-"
            token = self.peek()
            if not token or token in _CLOSING or _separates(token):
                break
            term = self.product()
            negative, signs = signs % 2 == 1, 0
            if negative and term.worth is not None:
                term = _Part(True, -term.worth, term.literal, False)
            terms.append(term)
            if self.peek() not in _SIGNS:
                break
        if len(terms) == 1:
            return terms[0]
        rests = [term.rest for term in terms]
        if len(set(rests)) < len(rests):
            self.kinds.add("sum")
        letters = _letters(terms)
        if letters:
            self.kinds.add("letters")
        if terms and all(term.number for term in terms):
            worths = [term.worth for term in terms if term.worth is not None]
            return _Part(True, sum(worths, Fraction(0)) if len(worths) == len(terms) else None)
        return _Part(rest="+".join(sorted(rests)), letters=letters)

    def product(self) -> _Part:
        upper = [self.power()]
        lower: list[_Part] = []
        while True:
            token = self.peek()
            if token in _TIMES:
                self.take()
                upper.append(self.signed())
            elif token in _OVER:
                self.take()
                lower.append(self.signed())
            elif not token or token in _CLOSING or token in _SIGNS or _separates(token):
                break
            elif token[0].isdigit():
                break  # 2 h 30 min, (1) 5: no factor stands there
            elif token in (r"\bmod", r"\mod", r"\choose"):
                self.take()
                self.kinds.add("operation")
                upper.append(self.power())
            else:
                if _is_mixed(self, upper):
                    fraction = self.power()
                    whole = upper.pop()
                    assert whole.worth is not None
                    assert fraction.worth is not None
                    upper.append(_Part(True, whole.worth + fraction.worth))
                    continue
                before = self.at
                upper.append(self.power())
                if self.at == before:
                    break
        return self._multiplied(upper, lower)

    def signed(self) -> _Part:
        """A factor that may have a sign of its own."""
        negative = False
        while self.peek() in _SIGNS:
            negative ^= self.take() == "-"
        part = self.power()
        if negative and part.worth is not None:
            return _Part(True, -part.worth, part.literal)
        return part

    def _multiplied(self, upper: list[_Part], lower: list[_Part]) -> _Part:
        if len(upper) == 1 and not lower:
            return upper[0]
        above = [part for part in upper if part.number]
        below = [part for part in lower if part.number]
        rest = sorted(part.rest for part in upper if not part.number)
        rest += sorted(f"/{part.rest}" for part in lower if not part.number)
        letters = _letters(upper + lower)
        if len(set(letters)) < len(letters):
            self.kinds.add("letters")
        scientific = len(above) == 2 and not below and (
            (above[1].ten and above[0].literal) or (above[0].ten and above[1].literal)
        )  # fmt: skip
        if not scientific and len(above) + len(below) > 1:
            if len(above) == len(below) == 1:
                return self._divided(above[0], below[0], " ".join(rest), letters)
            self.kinds.add("product")
        worth: Fraction | None = Fraction(1)
        for part in above:
            worth = _times(worth, part.worth)
        for part in below:
            worth = _times(worth, 1 / part.worth if part.worth else None)
        if not rest:
            return _Part(True, worth)
        return _Part(rest=" ".join(rest), letters=letters)

    def _divided(
        self, top: _Part, bottom: _Part, rest: str = "", letters: tuple[str, ...] = ()
    ) -> _Part:
        """A quotient of two numbers: a number itself if both are integers and it is none."""
        worth = None
        if top.worth is not None and bottom.worth:
            worth = top.worth / bottom.worth
        whole = top.worth is not None and bottom.worth is not None and (
            top.worth.denominator == bottom.worth.denominator == 1
        )  # fmt: skip
        plain = whole and top.literal and bottom.literal
        if not plain or (worth is not None and worth.denominator == 1):
            self.kinds.add("quotient")
        if rest:
            return _Part(rest=rest, letters=letters)
        return _Part(True, worth)

    def power(self) -> _Part:
        base = self.atom()
        while True:
            token = self.peek()
            if token == "^":
                self.take()
                base = self._raised(base, self.group())
            elif token == "!":
                self.take()
                if base.number:
                    self.kinds.add("factorial")
                    base = _Part(True)
                else:
                    base = _Part(rest=f"({base.rest})!", letters=base.letters)
            elif token == "_":
                self.take()
                self._quietly()
                base = _Part(rest=f"{base.rest}_{self.at}", letters=base.letters)
            elif token in (r"\%", "%"):
                self.take()
            else:
                return base

    def _raised(self, base: _Part, exponent: _Part) -> _Part:
        if base.number and exponent.number:
            power = exponent.worth
            if base.worth == 10 and base.literal and exponent.literal:
                small = power is not None and abs(power) < 1000 and power.denominator == 1
                worth = Fraction(10) ** int(power) if small and power is not None else None
                return _Part(True, worth, ten=True)
            if power is None or power.denominator == 1:
                self.kinds.add("power")
                return _Part(True)
            if _root(base.worth, power.denominator) is not None:
                self.kinds.add("root")
                return _Part(True)
        if len(set(exponent.letters)) < len(exponent.letters):
            self.kinds.add("letters")
        return _Part(
            rest=f"({base.rest or base.worth})^({exponent.rest or exponent.worth})",
            letters=base.letters + exponent.letters,
        )

    def group(self) -> _Part:
        """What a command or an exponent applies to: a group in braces or one token."""
        if self.peek() in _OPENING:
            return self.atom()
        if self.peek() == "-":
            self.take()
            inner = self.atom()
            return _Part(True, -inner.worth, inner.literal) if inner.worth is not None else inner
        return self.atom()

    def atom(self) -> _Part:
        token = self.peek()
        if not token or token in _CLOSING or _separates(token):
            return _Part()
        self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return _Part(True, Fraction(token) if len(token) < 1000 else None, True)
        if token in _OPENING:
            return self._bracketed(token)
        if token in (r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"):
            top, bottom = self.group(), self.group()
            if top.number and bottom.number:
                return self._divided(top, bottom)
            return self._multiplied([top], [bottom])
        if token == r"\sqrt":
            return self._root()
        if token in _BIG:
            self.kinds.add(token)
            return _Part(rest=token)
        if token in _OF_NUMBERS:
            return self._function(token, "operation")
        if token in _FUNCTIONS:
            return self._function(token, "function")
        if token[0].isalpha():
            name = token if token in _CONSTANTS else ""
            return _Part(rest=token, letters=() if name else (token,))
        return _Part(rest=token)

    def _bracketed(self, opening: str) -> _Part:
        if self.depth >= MAX_DEPTH:
            self.at = len(self.tokens)
            return _Part(rest="…")
        self.depth += 1
        inside = self.items()
        self.depth -= 1
        if self.peek() in _CLOSING:
            self.take()
        if len(inside) != 1:
            return _Part(rest="()", letters=_letters(inside))
        part = inside[0]
        if opening in (r"\lfloor", r"\lceil"):
            if part.number:
                self.kinds.add("operation")
                return _Part(True)
            return _Part(rest=f"{opening}{part.rest}", letters=part.letters)
        return part

    def _root(self) -> _Part:
        degree = 2
        if self.peek() == "[":
            index = self.group()
            degree = int(index.worth) if index.worth and index.worth < 100 else 0
        part = self.group()
        if part.number and degree > 0 and _root(part.worth, degree) is not None:
            self.kinds.add("root")
            return _Part(True)
        return _Part(rest=f"√{degree}({part.rest or part.worth})", letters=part.letters)

    def _function(self, name: str, kind: str) -> _Part:
        """A function and its argument, which is what follows, with or without brackets."""
        parts = []
        while self.peek() in ("_", "^"):
            self.take()
            parts.append(self.group())
        if name == r"\binom":
            parts += [self.group(), self.group()]
        elif self.peek() in ("(", "{", "["):
            parts.append(self.atom())
        else:
            parts.append(self.product())
        letters = _letters(parts)
        self.kinds.add("letters" if letters else kind)
        return _Part(rest=f"{name}{self.at}", letters=letters)

    def _quietly(self) -> None:
        """Read a group without a look at what it leaves to do: a subscript."""
        before = set(self.kinds)
        self.group()
        self.kinds = before


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

    `formulas`: letters are expected, so of a formula in letters only big operators count.
    """
    plain = _plain(text)
    found: set[str] = set()
    if _ABSOLUTE.search(plain):
        found.add("operation")
    for piece in split(plain, _PIECES)[0]:
        sides, signs = split(piece, RELATION)
        if signs and not formulas and _is_unsolved(sides):
            found.add("equation")
            continue
        valued = [side for side in sides if side.strip() and not (signs and is_name(side))]
        if len(valued) == len(sides) > 1 and any(map(_letters_of, sides)) and set(signs) != {"="}:
            continue  # a relation between formulas
        kinds = [_kinds(side) for side in valued]
        if formulas:
            kinds = [
                left & _BIG if _letters_of(side) else left
                for side, left in zip(valued, kinds, strict=True)
            ]
        if set(signs) == {"="} and kinds:
            kinds = [min(kinds, key=len)]  # 11 + 30 = 41 says what it is worth
        found.update(*kinds)
    return found - {"letters"} if r"\hat{" in plain else found


def _plain(text: str) -> str:
    plain = without_remarks(tidy(text)).replace(r"\not", " ")
    plain = _SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", _DEGREES.sub("", plain))
    return _MIXED.sub(r"\1\\frac{\2}{\3}", _SPACED.sub(r"\1", plain))


def _kinds(side: str) -> set[str]:
    reader = _Reader(_TOKEN.findall(side))
    while reader.peek():
        reader.items()
        reader.take()  # a bracket that closes none
    return reader.kinds


def _is_unsolved(sides: list[str]) -> bool:
    letters = {letter for side in sides for letter in _letters_of(side)}
    return len(letters) == 1 and not any(is_name(side) for side in sides)


def _letters_of(text: str) -> set[str]:
    """The letters of a text that stand for something unknown."""
    return names_in(unworded(text)) - _CONSTANTS


def _letters(parts: list[_Part]) -> tuple[str, ...]:
    return tuple(letter for part in parts for letter in part.letters)


def _separates(token: str) -> bool:
    if token in _SEPARATING or token.startswith((r"\text{", r"\begin", r"\end")):
        return True
    return RELATION.fullmatch(token) is not None


def _is_mixed(reader: _Reader, upper: list[_Part]) -> bool:
    """Whether a whole number and the fraction that comes next are one number."""
    part = upper[-1]
    if len(upper) > 1 or not part.literal or part.worth is None or part.worth.denominator > 1:
        return False
    fraction = _FRACTION.match("".join(reader.tokens[reader.at : reader.at + 20]))
    return fraction is not None and int(fraction[1]) < int(fraction[2])


def _times(a: Fraction | None, b: Fraction | None) -> Fraction | None:
    if a is None or b is None:
        return None
    bits = a.numerator.bit_length() + b.numerator.bit_length()
    bits += a.denominator.bit_length() + b.denominator.bit_length()
    return a * b if bits < MAX_BITS else None


def _root(worth: Fraction | None, degree: int) -> Fraction | None:
    """The root of a number if it is a fraction, too."""
    if worth is None or degree > 100:
        return None
    found = []
    for number in (abs(worth.numerator), worth.denominator):
        if number.bit_length() > MAX_BITS:
            return None
        low, high = 0, 1 << (number.bit_length() // degree + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
        if low**degree != number:
            return None
        found.append(low)
    return Fraction(*found)
