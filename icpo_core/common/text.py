"""Text of others, on its way out: what models, data sets and stored runs say stays text.

`plain` for terminals and logs, `line` for one line of them, `code` and `block` for Markdown,
`html` for HTML and SVG. What cannot be seen, or would move, colour or answer for a terminal, is
written out as Python writes it: `\\x1b`, `\\u202e`.
"""

from __future__ import annotations

import html as _html
import re
from typing import Any

LONGEST_LINE = 4000
"""Characters of one line that are shown; of a longer one, its beginning and its end."""
LONGEST_WORDS = 2000
"""Characters of what is said in one line, as an error is."""
LONGEST_CODE = 200
"""Characters of what stands inside a sentence."""
_UNSEEN = re.compile(
    "["
    # Controls but newline and tab; among them ESC, CR, and the C1 twins of ESC sequences.
    "\x00-\x08\x0b-\x1f\x7f-\x9f"
    # Format characters: bidirectional overrides and isolates, joiners, tags, marks of scripts.
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    # Line and paragraph separators, lone surrogates, no characters at all.
    "\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    # Letters and marks without a glyph. Emoji need U+FE0E and U+FE0F.
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0d\uffa0\ufff0-\ufff8"
    "]"
)
_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_STACKED = re.compile(f"([{_MARKS}]{{4}})[{_MARKS}]+")
"""More marks on a letter than any language has: they grow over the lines around."""


def plain(text: str, longest: int | None = LONGEST_LINE) -> str:
    """Text for a terminal or a log: lines and tabs stay, what is not seen is written out.

    longest: characters of a line; None: all of them.
    """
    seen = _UNSEEN.sub(_written, text.replace("\r\n", "\n"))
    seen = _STACKED.sub(r"\1…", seen)
    if longest is None or len(seen) <= longest:
        return seen
    return "\n".join(_shortened(one, longest) for one in seen.split("\n"))


def line(text: object, longest: int = LONGEST_WORDS) -> str:
    """Text in one line, its space collapsed."""
    return plain(" ".join(str(text).split()), longest)


def code(text: object, cell: bool = False) -> str:
    """A Markdown code span that the text cannot leave. cell: in a table."""
    words = line(text, LONGEST_CODE)
    fence = "`" * (1 + _longest_run(words))
    if not words or words[0] == "`" or words[-1] == "`":
        words = f" {words} "
    span = f"{fence}{words}{fence}"
    return span.replace("|", "\\|") if cell else span


def block(text: str, longest: int) -> str:
    """A fenced block of Markdown that the text cannot end. longest: characters of it."""
    cut = text if len(text) <= longest else f"{text[:longest]}\n... ({len(text)} characters)"
    shown = plain(cut)
    fence = "`" * max(3, 1 + _longest_run(shown))
    return f"{fence}text\n{shown}\n{fence}"


def html(text: str) -> str:
    """Text as the content of an HTML or SVG element, or of a quoted attribute."""
    return _html.escape(plain(text, None))


def all_plain(value: Any) -> Any:
    """JSON with every string in it, keys too, as `plain` text in full length."""
    if isinstance(value, str):
        return plain(value, None)
    if isinstance(value, dict):
        return {all_plain(key): all_plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [all_plain(one) for one in value]
    return value


def _written(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"


def _longest_run(text: str) -> int:
    """Backticks in the longest run of them."""
    return max(map(len, re.findall("`+", text)), default=0)
