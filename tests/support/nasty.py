"""What a model, a data set or somebody else's run may say to hurt whoever looks at it."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from markdown_it import MarkdownIt

from icpo_core.common.text import plain

TEXTS = (
    # Terminals: clipboard, title, link, clear screen, C1 twins, overwriting, an answering terminal.
    "\x1b]52;c;aGVsbG8=\x07", "\x1b]0;title\x07", "\x1b]8;;http://evil.example\x1b\\go\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H", "\x9b2J", "\x9d52;c;eA==\x9c", "right\rwrong\b\b", "\x1b[6n\x05", "\0\x7f\x85",
    # Readers: turned around, unseen, tags, separators, marks that grow.
    "\u202egpj.exe\u202c", "\u2066a\u2069\u061c", "z\u200be\u200dr\u2060o\ufeff",
    "\U000e0041\U000e007f",    "\u2028\u2029", "e" + "\u0301" * 50, "\u3164\u115f", "漢字 🙂",
    # Markdown.
    "`\n\n![x](http://evil.example/a.png)\n\n[x](http://evil.example)", "```\n\n# Heading\n\n```",
    "~~~\n\n~~~", "a|b|c\n|-|-|\n|`|", "a`b``c```", "\\`", "\\", "www.evil.example http://evil.example",
    "[x](http://evil.example)", "<http://evil.example>", "> quote", "- item", "| x |\n|---|\n| y |",
    "</code></pre>", "&lt;&#x3c;",
    # HTML.
    "</script><script>window.hurt = 1</script>", "<img src=x onerror='window.hurt = 2'>",
    "<svg onload='window.hurt = 3'>", "<a href='javascript:window.hurt = 4'>x</a>", "<!--", "]]>",
    # Rich's markup and emoji codes.
    "[link=http://evil.example]x[/link]", "[bold]x[/]", "[/]", "[red", ":bomb:",
    # Spreadsheets, and lines that do not end.
    "=cmd|' /C calc'!A0", "@SUM(A1)", "\t=1+1", "-2+3", "y" * 20_000,
)  # fmt: skip
ALL = "\n".join(TEXTS)
_STYLES = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\r(\x1b\[1A)?\x1b\[2K")
"""Colours, and what a progress bar needs."""


def problems(folder: Path) -> Path:
    """A data set of them."""
    rows = [
        {
            "id": f"{at}{text[:40]}",
            "problem": f"What is {text}?",
            "answer": f"{text} 4",
            "solution": "s",
        }
        for at, text in enumerate(TEXTS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "nasty.parquet")
    return folder / "nasty.parquet"


def harmless(shown: str) -> None:
    """Of what stands on a terminal: nothing but text, colours and bars."""
    text = _STYLES.sub("", shown)
    assert text == plain(text, None)


def markdown(text: str) -> list[Any]:
    """Tokens of a Markdown page, the inner ones among them."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return [one for token in tokens for one in (token, *(token.children or ()))]
