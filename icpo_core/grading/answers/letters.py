r"""Which letters are words and which are variables: fonts, ``\text{…}``, English among formulas.

Words come out in ``\text{…}``, names of functions as commands, and everything else bare.
"""

import re

from icpo_core.grading.answers.spelling import (
    FUNCTIONS,
    LOOSE_WORDS,
    SHORT_UNITS,
    SHORT_WORDS,
    SYMBOLS,
)

_TEXT = (
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|math(?:rm|bf|it|sf|tt)|operatorname\*?|bm"
    r"|boldsymbol|pmb)"
)
_TEXT_GROUP = re.compile(_TEXT + r"\s*\{([^{}]*)\}")
_TEXT_IN_SCRIPT = re.compile(
    r"([_^])\s*(?:\{\s*" + _TEXT + r"\s*\{([^{}]*)\}\s*\}|" + _TEXT + r"\s*\{([^{}]*)\})"
)
_FONT = re.compile(r"\{\s*\\(?:rm|bf|it|sf|tt)\s+([^{}]*)\}")
_MATH_FONT = re.compile(r"\\math(?:cal|frak|scr)\s*\{([^{}]*)\}")
# Fonts and arrows of single letters say nothing; i, j and k in them are the unit vectors.
_LETTER_FONT = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|pmb|vec|overrightarrow|hat)\s*\{\s*\\?([A-Za-z0]|imath|jmath)\s*\}"
)
_VECTOR_FONT = re.compile(r"\\(?:mathbf|boldsymbol|bm|pmb|vec)\s*\{\s*(\\hat\{[ijk]\})\s*\}")
_BASIS = {letter: f"\\hat{{{letter[0]}}}" for letter in ("i", "j", "k", "imath", "jmath")}
# A unit with its powers inside one group: \mathrm{m\,s^{-2}}.
_BESIDE_UNIT = re.compile(r"\\(?:mathrm|text)\s*\{((?:[^{}]|\{[^{}]*\})*\^\s*\{[^{}]*\}[^{}]*)\}")


def without_fonts(text: str) -> str:
    """Plain letters for letters in bold or under arrows; the unit vectors as ``\\hat{i}``."""
    text = _LETTER_FONT.sub(lambda m: _BASIS.get(m.group(1), f"{m.group(1)} "), text)
    return _BESIDE_UNIT.sub(_flat_unit, _VECTOR_FONT.sub(r"\1", text))


def with_text_groups(text: str) -> str:
    r"""``\text{…}`` for every command that sets text, and nothing else in it than words."""
    text = _FONT.sub(r"\\text{\1}", _scripts(text))
    return _TEXT_GROUP.sub(_text_group, _MATH_FONT.sub(r"\1", text))


def _flat_unit(match: re.Match[str]) -> str:
    inner = re.sub(r"\\[,;:! ]|~", " ", match.group(1))
    parted = re.sub(r"\^\s*\{([^{}]*)\}", r"}^{\1}\\text{", inner)
    return f"\\text{{{parted}}}".replace(r"\text{}", "")


def _scripts(text: str) -> str:
    r"""``k_{\mathrm{B}}`` and ``k_\text{B}`` are ``k_{B}``."""
    return _TEXT_IN_SCRIPT.sub(
        lambda m: f"{m.group(1)}{{{re.sub(r'[^A-Za-z0-9]', '', m.group(2) or m.group(3) or '')}}}",
        text,
    )


def _text_group(match: re.Match[str]) -> str:
    content = match.group(1).strip()
    unclosed = content.count("(") - content.count(")")
    bare = content.lstrip(",;.: (" if unclosed > 0 else ",;.: ")
    lead = content[: len(content) - len(bare)].strip(". ")
    kept = bare.rstrip(",;: )" if unclosed < 0 else ",;: ")
    return lead + _text_content(match, kept) + bare[len(kept) :].strip()


def _text_content(match: re.Match[str], content: str) -> str:
    before = match.string[: match.start()].rstrip()
    if content in FUNCTIONS and not before.endswith(tuple("0123456789")):
        return f"\\{content} "
    if (
        len(content) == 1
        and content.isalpha()
        and not (before[-1:] in tuple("0123456789})") or re.search(r"\}\s*(?:/|\\cdot)$", before))
    ):
        return content
    if len(_NUMBER_IN_TEXT.findall(content)) > 1 or _TEXT_LIST.fullmatch(content):
        parts = [part.strip() for part in _TEXT_PARTS.split(content)]
        return " ".join(
            part if part == "," or _NUMBER_IN_TEXT.fullmatch(part) else f"\\text{{{part}}}"
            for part in parts
            if part
        )
    counted = re.fullmatch(r"([-+]?\d[\d.,/]*)\s+(\D.*)", content, re.DOTALL)
    if counted:
        return f"{counted.group(1)}\\text{{{counted.group(2)}}}"
    joined = re.fullmatch(r"(and|or)\s+(.+)|(.+?)\s*,?\s+(and|or)", content, re.DOTALL)
    if joined:
        first, second = joined.group(1) or joined.group(3), joined.group(2) or joined.group(4)
        return f"\\text{{{first}}}\\text{{{second}}}"
    if re.fullmatch(r"[\W\d_]*|[A-Z](?:\s*,\s*[A-Z])+", content):
        return f" {content} "  # numbers and punctuation set as text
    return f"\\text{{{content}}}"


_NUMBER_IN_TEXT = re.compile(r"(?<![\w.])\d+(?:[.,/]\d+)*(?!\w)")
_TEXT_PARTS = re.compile(rf"({_NUMBER_IN_TEXT.pattern}|\b(?:and|or)\b|,)")
_TEXT_LIST = re.compile(
    r"[A-Za-z]+(?: [A-Za-z]+)?(?:(?:,\s*|,?\s+and\s+)[A-Za-z]+(?: [A-Za-z]+)?)+"
)
_TOKEN = re.compile(
    r"(\\text\{[^{}]*\}|\\begin\{[^{}]*\}|\\end\{[^{}]*\}|\\mathbb\{[^{}]*\}|\\[a-zA-Z]+"
    r"|_\s*\{[^{}]*\}|_\s*[A-Za-z0-9]|[\u4e00-\u9fff]+|[A-Za-z]+(?:'(?:s|t)\b|-(?=[a-z]{3,}))?)"
)


def with_words(text: str) -> str:
    r"""Set English words in ``\text{…}``, and names of functions as commands."""
    pieces = _TOKEN.split(text)
    kinds = [_kind(pieces, at) if at % 2 else "" for at in range(len(pieces))]
    for at in range(1, len(pieces), 2):
        if kinds[at] == "loose":
            beside = [kinds[j] for j in (at - 2, at + 2) if 0 <= j < len(pieces)]
            gaps = pieces[at - 1].strip() == "" or pieces[at + 1].strip() == ""
            kinds[at] = "word" if gaps and "word" in beside else ""
        elif kinds[at] == "article":
            spaced = pieces[at - 1][-1:].isspace() and pieces[at + 1].isspace()
            word = spaced and at + 2 < len(pieces) and kinds[at + 2] == "word"
            kinds[at] = "word" if word else ""
    for at in range(1, len(pieces), 2):
        if kinds[at] == "word" and not pieces[at].startswith("\\"):
            pieces[at] = f"\\text{{{pieces[at]}}}"
        elif kinds[at] == "symbol":
            pieces[at] = SYMBOLS.get(pieces[at].lower(), "\\" + pieces[at].lower()) + " "
    return "".join(pieces)


def _kind(pieces: list[str], at: int) -> str:
    token = pieces[at]
    if token.startswith(r"\text"):
        return "word"
    if token[0] >= "\u4e00":
        return "word"
    if not token[0].isalpha() or len(token) < 2:
        return "article" if token.lower() == "a" else ""
    low = token.lower()
    before, after = pieces[at - 1], pieces[at + 1]
    following = after.lstrip()[:1]
    if low in SYMBOLS and low != "union":
        return "symbol"
    if low == "union":
        return "symbol" if before.rstrip()[-1:] in tuple(")]}") else "word"
    if (
        low in SHORT_UNITS
        and before.rstrip()[-1:] in tuple("0123456789}")
        and not (before.endswith("}") and before.rstrip("}")[-1:].isalpha())
    ):
        return "word"
    if low in SHORT_UNITS and low not in FUNCTIONS:
        return "loose"
    if low in FUNCTIONS and token == low:
        return "symbol"
    alone = not before[-1:].strip() or before[-1:] in "()[]{},;:.!?\"'"
    if low in SHORT_WORDS:
        return "word" if alone or before[-1:].isdigit() else ""
    if low in LOOSE_WORDS:
        return "loose" if alone and not following.startswith(("^", "_")) else ""
    if len(low) <= 3 or not re.search("[aeiouy]", low):
        return ""
    if token.isupper() and len(low) < 5 and low not in ("none", "true", "zero", "even", "dne"):
        return ""  # ABCD is a quadrilateral
    if low in "abcdefghijklmnopqrstuvwxyz" or len(set(low)) < 3:
        return ""
    return "word"
