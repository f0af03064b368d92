"""What an answer is made of: values, names, lists, brackets, relations, words.

The forms that `icpo_core.answers.reading` reads and `icpo_core.answers.equivalence` compares.
Expressions stay text in LaTeX: math-verify's parser reads them when they are compared.
"""

import re
from dataclasses import dataclass

_NAME = re.compile(
    r"\\?[A-Za-z]+(?:'+)?(?:\s*_\s*(?:\{[^{}]*\}|\w|\\[a-z]+))?(?:'+|\^\{?\\prime\}?|\^\{\*\}|\^\*)?"
    r"(?:\s*\([^()=<>]*\))?"
)
_GEOMETRIC = re.compile(
    r"\\(?:angle|triangle|overline|vec|hat|dot|ddot|tilde|bar|overrightarrow|measuredangle|Delta)\s*"
    r"(?:\{[^{}]*\}|[A-Za-z]\w*(?:\s*_\s*\{?\w+\}?)?(?:\s*[A-Z](?:_\s*\{?\w+\}?)?)*)"
)
RELATION = re.compile(
    r"\\(?:le|ge|ne|approx|in|notin|equiv|implies|iff|to|mapsto|subset|subseteq)(?![a-zA-Z])|[=<>]"
)
TEXT = re.compile(r"\\text\{([^{}]*)\}")


def split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Split `text` at the matches of `separator` that stand outside all brackets.

    An interval may close with another bracket than it opened with, so kinds are not told apart.
    """
    pieces, found = [], []
    depth, start, at = 0, 0, 0
    while at < len(text):
        char = text[at]
        if depth == 0:
            match = separator.match(text, at)
            if match:
                pieces.append(text[start:at])
                found.append(match.group())
                start = at = match.end()
                continue
        if char == "\\":
            command = re.compile(r"\\(?:[a-zA-Z]+|.)?", re.DOTALL).match(text, at)
            assert command is not None
            if command.group() in (r"\{", r"\lfloor", r"\lceil", r"\begin"):
                depth += 1
            elif command.group() in (r"\}", r"\rfloor", r"\rceil", r"\end"):
                depth = max(depth - 1, 0)
            at = command.end()
            continue
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth = max(depth - 1, 0)
        at += 1
    pieces.append(text[start:])
    return pieces, found


def names_in(tex: str) -> set[str]:
    """Return the single letters that stand for themselves in an expression."""
    return {token for token in re.findall(r"\\[a-zA-Z]+|[A-Za-z]", tex) if token[0] != "\\"}


def rename(tex: str, old: str, new: str) -> str:
    """Return `tex` with the letter `old` replaced where it is a variable."""
    pattern = r"\\(?:text|begin|end|mathbb)\{[^{}]*\}|\\[a-zA-Z]+|[A-Za-z]"
    return re.sub(pattern, lambda match: new if match.group() == old else match.group(), tex)


def is_name(text: str) -> bool:
    r"""Whether the text names a quantity: ``x``, ``a_{n}``, ``f(x)``, ``\angle ABC``, ``(x,y)``."""
    text = text.strip()
    if text.startswith("(") and text.endswith(")") and "," in text:
        return all(is_name(part) for part in text[1:-1].split(","))
    if ":" in text:
        return all(is_name(part) for part in text.split(":"))
    if text.startswith("|") and text.endswith("|") and len(text) < 12:
        return is_name(text[1:-1])
    if TEXT.fullmatch(text) or _GEOMETRIC.fullmatch(text):
        return True
    if re.fullmatch(r"\\frac\s*\{\s*d\S*\s*\w*'*\}\s*\{\s*d\s*\w(?:\^\{\d\})?\}", text):
        return True
    return bool(_NAME.fullmatch(text)) and text not in ("e", r"\pi", "i", r"\infty", r"\emptyset")

@dataclass(frozen=True)
class Words:
    """An answer in words."""

    text: str


@dataclass(frozen=True)
class Value:
    """One expression in LaTeX, and the words after it that may be its unit."""

    tex: str
    unit: str = ""


@dataclass(frozen=True)
class Named:
    """``name = value`` or ``name \\in value``."""

    name: str
    value: "Form"


@dataclass(frozen=True)
class Group:
    """Items in brackets, or without any (`opening` and `closing` empty): a bare list.

    `joined` is the word between the items of a bare list: "or", "and" or "," (nothing said).
    """

    opening: str
    items: tuple["Form", ...]
    closing: str
    joined: str = ","


@dataclass(frozen=True)
class Relation:
    """Expressions with relation signs between them, as in ``0 < x \\le 1`` or ``x+y = 2``."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]
    integers: bool = False  # the words around it speak of integers


@dataclass(frozen=True)
class Combination:
    """A union (``\\cup``), intersection (``\\cap``) or difference (``\\setminus``) of sets."""

    sign: str
    items: tuple["Form", ...]


@dataclass(frozen=True)
class Matrix:
    """A matrix or determinant-like table, by rows."""

    rows: tuple[tuple["Form", ...], ...]


@dataclass(frozen=True)
class Ratio:
    """``a : b : c``; with `half` "am" or "pm" it is a time of day."""

    terms: tuple[str, ...]
    half: str = ""


@dataclass(frozen=True)
class Congruence:
    """``n \\equiv r_1, r_2 \\pmod m``, or words that say so."""

    residues: tuple[int, ...]
    modulus: int


@dataclass(frozen=True)
class Cases:
    """Values under conditions: ``n/2 if n is even, 2n otherwise``."""

    branches: tuple[tuple["Form", str], ...]


Form = Words | Value | Named | Group | Relation | Combination | Matrix | Ratio | Congruence | Cases


