"""Text of others stays text: on a terminal, in Markdown, in HTML."""

import html.parser
import io
import string
import subprocess
import sys
import unicodedata
from collections import Counter

import nasty
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.text import Text

from icpo_core.common import text as texts
from icpo_core.common.console import Console, Table

PIECES = st.sampled_from(
    [*nasty.TEXTS[:-1], "`", "``", "|", "\n", "\n\n", "\\", " ", "x", "*", "$"]
)
TEXTS = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=8).map("".join))


def test_no_character_that_is_not_seen_is_left() -> None:
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(one := chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert one in "\n\t" or texts.plain(one).isascii(), hex(code)


@given(TEXTS)
def test_plain_text_is_the_same_again(text: str) -> None:
    shown = texts.plain(text)
    assert texts.plain(shown) == shown
    assert shown.encode()[:1] or not text
    assert "\n" not in texts.line(text)


@given(st.text(string.printable.replace("\r", "").replace("\x0b", "").replace("\x0c", "")))
def test_plain_text_stays_what_it_is(text: str) -> None:
    assert texts.plain(text) == text


def test_what_is_said_is_written_out() -> None:
    said = texts.plain("a\x1b]52;c;eA==\x07\r\nb\u202ec\ud800\td é 漢字 ❤\ufe0f")
    assert said == "a\\x1b]52;c;eA==\\x07\nb\\u202ec\\ud800\td é 漢字 ❤\ufe0f"
    long = texts.plain("x\n" + "y" * 9000)
    assert max(map(len, long.splitlines())) < 4100
    assert "… 5,000 characters …" in long
    assert texts.plain("y" * 9000, None) == "y" * 9000


@given(TEXTS)
def test_no_text_leaves_its_code_span(text: str) -> None:
    tokens = nasty.markdown(f"a {texts.code(text)} b")
    kinds = [one.type for one in tokens]
    inner = ["text", "code_inline", "text"]
    assert kinds == ["paragraph_open", "inline", *inner, "paragraph_close"]
    span = next(one for one in tokens if one.type == "code_inline")
    assert span.content.strip() == texts.line(text, texts.LONGEST_CODE).strip()


@given(TEXTS)
def test_no_text_leaves_its_cell(text: str) -> None:
    row = f"| a | b |\n|---|---|\n| {texts.code(text, cell=True)} | c |"
    kinds = [one.type for one in nasty.markdown(row)]
    assert kinds.count("td_open") == 2
    assert kinds.count("code_inline") == 1
    assert kinds.count("tr_open") == 2


@given(TEXTS)
def test_no_text_ends_its_block(text: str) -> None:
    tokens = nasty.markdown(f"a\n\n{texts.block(text, 3000)}\n\nb")
    kinds = [one.type for one in tokens]
    around = ["paragraph_open", "inline", "text", "paragraph_close"]
    assert kinds == [*around, "fence", *around]
    fence = next(one for one in tokens if one.type == "fence")
    assert fence.content == texts.plain(text) + "\n"


class Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        assert not attrs or attrs == [("title", texts.plain(self.expected, None))]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(TEXTS)
def test_html_has_no_tag_of_a_text(text: str) -> None:
    reader = Reader()
    reader.expected = text
    reader.feed(f'<p title="{texts.html(text)}">{texts.html(text)}</p>')
    reader.close()
    assert reader.tags == ["p"]
    assert reader.text == texts.plain(text, None)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_console_prints_text(terminal: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200)
    for one in nasty.TEXTS:
        table = Table(one, title=one)
        table.add_row(one)
        table.add_row(Text(one, "red"))
        console.print(table)
        console.print(one)
        console.print(Panel(Text(one), title=Text(texts.line(one))))
    shown = file.getvalue()
    nasty.harmless(shown)
    assert "[link=http://evil.example]x[/link]" in shown
    assert ":bomb:" in shown
    assert ("\x1b[31m" in shown) == terminal


def test_a_traceback_prints_text() -> None:
    code = (
        "import sys; from icpo_core.common.console import print_traceback as hook\n"
        "sys.excepthook = hook\nraise RuntimeError('\\x1b]52;c;eA==\\x07')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    nasty.harmless(done.stderr)
    assert "RuntimeError: \\x1b]52" in done.stderr


@given(
    st.lists(
        st.lists(
            st.from_regex(r"[a-z0-9:-]{1,60}( [a-z0-9]{1,9}){0,3}", fullmatch=True),
            min_size=9,
            max_size=9,
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 9),
    st.sampled_from([80, 40, 20]),
)
def test_no_character_of_a_table_is_cut(rows: list[list[str]], columns: int, width: int) -> None:
    table = Table(*(f"column-{number}" for number in range(columns)))
    for row in rows:
        table.add_row(*row[:columns])
    stream = io.StringIO()
    Console(file=stream, width=width).print(table)
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    asked = "".join(one for row in rows for one in row[:columns])
    asked += "".join(f"column-{number}" for number in range(columns))
    assert Counter(shown) & Counter(asked) - Counter(" ") == Counter(asked) - Counter(" ")


def test_a_table_keeps_its_words_while_it_can() -> None:
    table = Table("iteration", "checkpoint", "on disk")
    table.add_row("3", "16 0.0s", "a-name-of-a-run-that-nobody-should-need-to-read-in-one-piece")
    stream = io.StringIO()
    Console(file=stream, width=60).print(table)
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["iteration", "checkpoint", "on", "disk"]
    assert lines[1].split()[:3] == ["3", "16", "0.0s"]
