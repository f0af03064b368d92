"""The operations that an expression, as it was written, leaves to be done.

The text is read here and not by the expression parser, which does some operations by itself. What
is read is tidy text without relations; `icpo_core.grading.answers.evaluated` says what it means.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from fractions import Fraction

from icpo_core.grading.answers.forms import RELATION

MAX_DEPTH = 40
"""Brackets nested deeper than this are not looked into."""
MAX_BITS = 4000
"""A number of more bits is a number, but not calculated with."""

_TOKEN = re.compile(
    r"\\text\{[^{}]*\}|\\mathbb\{[^{}]*\}|\\begin\{\w+\}|\\end\{\w+\}|\\[a-zA-Z]+|\\."
    r"|\d+(?:\.\d+)?|\.\d+|[a-zA-Z]+'*|\s+|.",
    re.DOTALL,
)
_FRACTION = re.compile(r"\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_SIGNS = frozenset(["+", "-", r"\pm", r"\mp"])
_TIMES = frozenset([r"\cdot", r"\times", "*", r"\ast"])
_OVER = frozenset(["/", r"\div"])
_OPENING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\lfloor": r"\rfloor",
            r"\lceil": r"\rceil", r"\langle": r"\rangle"}  # fmt: skip
_CLOSING = frozenset(_OPENING.values())
_SEPARATING = frozenset([",", ";", ":", "|", "&", r"\\", r"\cup", r"\cap", r"\setminus", r"\mid",
                         r"\land", r"\lor", r"\pmod"])  # fmt: skip
BIG = frozenset([r"\sum", r"\prod", r"\int", r"\iint", r"\lim", r"\oint"])
_TRIG = frozenset(
    rf"\{arc}{name}{h}"
    for name in ("sin", "cos", "tan", "cot", "sec", "csc")
    for arc, h in (("", ""), ("arc", ""), ("", "h"))
)
_FUNCTIONS = _TRIG | {r"\log", r"\ln", r"\lg"}
_OF_NUMBERS = frozenset([r"\gcd", r"\lcm", r"\max", r"\min", r"\mod", r"\bmod", r"\operatorname",
                         r"\binom", r"\det", r"\choose"])  # fmt: skip
CONSTANTS = frozenset("ei")


@dataclass(frozen=True)
class _Part:
    """A part of an expression: a number (`worth` where it is handy), or something else."""

    number: bool = False
    worth: Fraction | None = None
    literal: bool = False  # written with digits only
    ten: bool = False  # a power of ten
    rest: str = ""  # what no number stands for: like terms have the same
    letters: tuple[str, ...] = ()
    times: Fraction | None = None  # the number that multiplies such a rest


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
            start = self.at
            while self.peek() in _SIGNS:
                signs += self.take() == "-"
            several = sum(token in _SIGNS for token in self.tokens[start : self.at]) > 1
            token = self.peek()
            if not token or token in _CLOSING or _separates(token):
                break
            term = self.product()
            if several or (signs and term.worth is not None and term.worth < 0):
                self.kinds.add("sum")
            if signs and term.rest == "()":
                self.kinds.add("product")
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
        if "i" not in " ".join(rests) and any(term.number and term.worth == 0 for term in terms):
            self.kinds.add("nothing")
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
        if rest and rest != ["i"] and any(part.worth == 0 for part in above):
            self.kinds.add("nothing")
        if above and "()" in rest:
            self.kinds.add("product")
        if sum(_is_constant_sum(part) for part in upper) > 1:
            self.kinds.add("product")
        if any(part.rest == r"\infty" for part in upper + lower):
            self.kinds.add("operation")
        scientific = len(above) == 2 and not below and any(
            power.ten and digits.literal and (digits.worth or 0) % 10
            for power, digits in (above, above[::-1])
        )  # fmt: skip
        times = [part.times for part in upper if part.times is not None]
        if not above and len(times) == len(below) == 1 and below[0].worth and (
            (times[0] / below[0].worth).denominator == 1
        ):  # fmt: skip
            self.kinds.add("quotient")
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
        return _Part(rest=" ".join(rest), letters=letters, times=worth if above else None)

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
        signs = (
            top.worth is not None and bottom.worth is not None and max(top.worth, bottom.worth) < 0
        )
        if not plain or signs or (worth is not None and worth.denominator == 1):
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
                if not base.number:  # else it is written in some base
                    base = _Part(rest=f"{base.rest}_{self.at}", letters=base.letters)
            elif token in (r"\%", "%"):
                self.take()
                if self.peek()[:1].isdigit():  # the rest of a division
                    self.kinds.add("operation")
            else:
                return base

    def _raised(self, base: _Part, exponent: _Part) -> _Part:
        if base.number and exponent.number:
            power = exponent.worth
            if base.worth == 10 and base.literal and exponent.literal and power != 0:
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
        whole = exponent.worth is not None and exponent.worth.denominator == 1
        shorter = base.rest == "i" or _is_constant_sum(base) or base.rest[:1] == "√"
        if (exponent.number and exponent.worth == 0) or base.worth in (0, 1):
            self.kinds.add("nothing")
        elif whole and shorter and not base.letters:
            self.kinds.add("power")
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
        if token in BIG:
            self.kinds.add(token)
            return _Part(rest=token)
        if token in _OF_NUMBERS:
            return self._function(token, "operation")
        if token in _FUNCTIONS:
            return self._function(token, "function")
        if token[0].isalpha():
            name = token if token in CONSTANTS else ""
            return _Part(rest=token, letters=() if name else (token,))
        if not token.isascii() and unicodedata.category(token[0]) in ("Sm", "So"):
            self.kinds.add("operation")  # a sign that nobody knows
        return _Part(rest=token)

    def _bracketed(self, opening: str) -> _Part:
        if self.depth >= MAX_DEPTH:
            self.at = len(self.tokens)
            return _Part(rest="…")
        self.depth += 1
        start = self.at
        inside = self.items()
        self.depth -= 1
        if self.peek() in _CLOSING:
            self.take()
        if len(inside) != 1:
            several = "," in self.tokens[start : self.at]
            return _Part(rest="()" if several else "(…)", letters=_letters(inside))
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
        if self.depth >= MAX_DEPTH:
            self.at = len(self.tokens)
            return _Part(rest="…")
        self.depth += 1
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
        self.depth -= 1
        letters = _letters(parts)
        self.kinds.add("letters" if letters else kind)
        return _Part(rest=f"{name}{self.at}", letters=letters)

    def _quietly(self) -> None:
        """Read a group without a look at what it leaves to do: a subscript."""
        before = set(self.kinds)
        self.group()
        self.kinds = before


def left_in(expression: str) -> set[str]:
    """The kinds of operations that one expression leaves to be done, as `evaluated` names them."""
    reader = _Reader(_TOKEN.findall(expression))
    while reader.peek():
        reader.items()
        reader.take()  # a bracket that closes none
    return reader.kinds


def _letters(parts: list[_Part]) -> tuple[str, ...]:
    return tuple(letter for part in parts for letter in part.letters)


def _is_constant_sum(part: _Part) -> bool:
    """Whether a part is a sum of constants, such as 1 + √5: two of them can be multiplied."""
    return "+" in part.rest and not part.letters


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
