"""What an answer is made of: values, names, lists, brackets, relations, words.

The forms that `reading` reads and `equivalence` compares.
Expressions stay text in LaTeX: math-verify's parser reads them when they are compared.
"""

import re
from dataclasses import dataclass

RELATION = re.compile(
    r"\\(?:le|ge|ne|approx|in|notin|equiv|implies|iff|to|mapsto|subset|subseteq|perp|parallel|cong"
    r"|sim)(?![a-zA-Z])|[=<>]"
)
SYMMETRIC = frozenset([r"\perp", r"\parallel", r"\cong", r"\sim", r"\approx"])
"""Relations between things that are no numbers, and that hold either way round."""
ROUNDED = r"\approx"
"""Opens the group of an exact value and the decimal that it is said to be near."""
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


def is_bare(form: Form) -> bool:
    return (isinstance(form, Group) and form.opening == "") or (
        isinstance(form, Named) and isinstance(form.value, Group) and form.value.opening == ""
    )  # fmt: skip


def goes_on(form: Group) -> bool:
    """Whether the items end in dots: 2, 3, 4, …"""
    last = form.items[-1] if form.items else None
    last = last.value if isinstance(last, Named) else last
    return isinstance(last, Value) and last.tex.strip() == r"\ldots" and form.opening in ("", r"\{")


def items_of(form: Form) -> list[Form]:
    """The items of a list or set; the form itself otherwise."""
    if isinstance(form, Named):
        inner = items_of(form.value)
        return [Named(form.name, item) for item in inner] if len(inner) > 1 else [form]
    if isinstance(form, Group) and (form.opening in ("", r"\{")):
        return [
            part for item in form.items for part in (items_of(item) if is_bare(item) else [item])
        ]
    return [form]
