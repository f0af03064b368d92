"""A terminal that shows text of others as text: no markup, no emoji codes, no highlighter (whose
patterns take seconds on a long word), no control sequences.

Style comes from `rich.text.Text`, never from brackets in a string.
"""

from __future__ import annotations

import copy
import sys
import traceback
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, cast

import rich.console
import rich.table
from rich.console import ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from icpo_core.common.text import plain


class Console(rich.console.Console):  # noqa: TID251  the one place
    """Rich's console, past which no control sequence comes that is not Rich's own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """A string as text. Here, and not only in `render`, so that columns are as wide as it."""
        return super().render_str(plain(text, None), **settings)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Everything that is printed, cursor movements aside."""
        if isinstance(renderable, Text):
            renderable = self._plain(renderable)  # before its lines are broken
        for segment in super().render(renderable, options):
            text, style, control = segment
            same = control or _seen(text) or text == "\n"
            yield segment if same else Segment(plain(text, None), style)

    def _plain(self, text: Text) -> Text:
        if plain(text.plain, None) == text.plain:
            return text
        seen = text.blank_copy()
        for words, style, _ in text.render(self):
            seen.append(plain(words, None), style)
        return seen


MANY = 100
"""Rows of a table from which on they are laid out here: Rich takes 0.1 ms a cell."""
LONG = 24
"""Characters of a word in a table beyond which it may fold before others do."""


class Table(rich.table.Table):  # noqa: TID251  the one place
    """Rich's table, of which nothing is cut, however narrow the terminal.

    A table that does not fit loses its frame, then cells break between words. Words of over `LONG`
    characters fold, and where that is not enough, the longest ones do. Rich's own table cuts words
    and drops columns.
    """

    def __rich_console__(
        self,
        console: rich.console.Console,  # noqa: TID251
        options: ConsoleOptions,
    ) -> RenderResult:
        sizes = [
            [_measured(console, options, one) for one in (column.header, *column.cells)]
            for column in self.columns
        ]
        whole = [max(one.maximum for one in cells) for cells in sizes]
        words = [max(min(one.minimum, LONG) for one in cells) for cells in sizes]
        frame = 3 * len(whole) + 1 if self.box else 2 * len(whole)
        shown, widths = copy.copy(self), whole
        shown.columns = [copy.copy(column) for column in self.columns]
        for column in shown.columns:
            column.no_wrap, column.overflow = False, "fold"
        if whole and sum(whole) + frame > options.max_width:
            shown.box, shown.padding, shown.pad_edge = None, (0, 1, 0, 0), False
            room = options.max_width - len(whole) + 1
            if sum(words) > room:
                widths = _shared([1] * len(words), words, room)
            else:
                widths = _shared(words, whole, room)
            for column, width in zip(shown.columns, widths, strict=True):
                column.width = width
        quick = all(column.justify in ("left", "right") for column in self.columns)
        if len(self.rows) >= MANY and quick:
            wide = [[one.maximum for one in column[1:]] for column in sizes]
            yield from shown._many(console, options, widths, [*zip(*wide, strict=True)])
        else:
            yield from super(Table, shown).__rich_console__(console, options)

    def _many(
        self,
        console: rich.console.Console,  # noqa: TID251
        options: ConsoleOptions,
        widths: Sequence[int],
        wide: Sequence[Sequence[int]],
    ) -> RenderResult:
        """As Rich shows it. Head and foot are its own, and so is every row that folds, ends a
        section or has a style. wide: of the cells of each row."""

        def part(first: int, last: int) -> list[list[Segment]]:
            table = copy.copy(self)
            table.rows, table.columns = self.rows[first:last], [*map(copy.copy, self.columns)]
            if first < last:
                table.title, table.show_header = None, False
            for column, width in zip(table.columns, widths, strict=True):
                column.width, column._cells = width, column._cells[first:last]
            shown = super(Table, table).__rich_console__(console, options)
            return [*Segment.split_lines(cast(Iterable[Segment], shown))]

        head = part(0, 0)
        left = between = right = ""
        foot: list[list[Segment]] = []
        if self.box:
            box = self.box.substitute(options, safe=console.safe_box)
            left, between, right, foot = box.mid_left, box.mid_vertical, box.mid_right, [head.pop()]
        frame = console.get_style(self.style or "") + console.get_style(self.border_style or "")
        styles = [console.get_style(column.style or "") for column in self.columns]
        spaces = [Segment(" ", style) for style in styles]
        rights = [column.justify == "right" for column in self.columns]
        for line in head:
            yield from line
            yield Segment.line()
        rows = zip(*(column.cells for column in self.columns), strict=True)
        for index, (row, cells) in enumerate(zip(self.rows, rows, strict=True)):
            fits = all(one <= width for one, width in zip(wide[index], widths, strict=True))
            if not fits or row.style or row.end_section or not all(map(_quick, cells)):
                lines = part(index, index + 1)
                for line in lines[1:-1] if self.box else lines:
                    yield from line
                    yield Segment.line()
                if self.box and row.end_section and index < len(self.rows) - 1:
                    inner = [width + 2 for width in widths]
                    yield Segment(box.get_row(inner, "row"), frame)
                    yield Segment.line()
                continue
            laid = [
                _laid(console, *facts) for facts in zip(cells, rights, widths, styles, strict=True)
            ]
            for number in range(max(map(len, laid))):
                yield Segment(left, frame)
                for column, lines in enumerate(laid):
                    if column:
                        yield Segment(between, frame)
                    after = bool(self.box) or column < len(widths) - 1
                    if number >= len(lines):
                        room = bool(self.box) + widths[column] + after
                        yield Segment(" " * room, styles[column])
                        continue
                    if self.box:
                        yield spaces[column]
                    yield from lines[number]
                    if after:
                        yield spaces[column]
                yield Segment(right, frame)
                yield Segment.line()
        for line in foot:
            yield from line
            yield Segment.line()


def _quick(cell: RenderableType) -> bool:
    return isinstance(cell, str | Text) and "\t" not in str(cell)


def _laid(
    console: rich.console.Console,  # noqa: TID251
    cell: RenderableType,
    right: bool,
    width: int,
    style: Style,
) -> list[list[Segment]]:
    """A cell in its place, line by line."""
    assert isinstance(cell, str | Text)
    if isinstance(cell, str) and _seen(cell):
        return [[Segment(cell.rstrip().rjust(width) if right else cell.ljust(width), style)]]
    text = console.render_str(cell) if isinstance(cell, str) else cell
    lines = []
    for line in text.split("\n", allow_blank=True):
        if right:
            line.rstrip()
            line.pad_left(width - line.cell_len)
        else:
            line.pad_right(width - line.cell_len)
        spans = Text("").join([line])  # its own style, too, as one
        lines.append([*Segment.apply_style(spans.render(console), style)])
    return lines


def _measured(
    console: rich.console.Console,  # noqa: TID251
    options: ConsoleOptions,
    one: RenderableType,
) -> Measurement:
    """As Rich's, which makes a `Text` of every string."""
    words = one.plain if isinstance(one, Text) else one
    if isinstance(words, str) and _seen(words):
        return Measurement(max(map(len, words.split()), default=0), len(words))
    return Measurement.get(console, options, one)


def _seen(text: str) -> bool:
    """Whether every character is one that takes one place and needs no look."""
    return text.isascii() and text.isprintable()


def _shared(least: Sequence[int], most: Sequence[int], room: int) -> list[int]:
    """Widths between these, by one limit for all: the widest ones give way first."""
    for limit in range(max(most), 0, -1):
        widths = [max(a, min(b, limit)) for a, b in zip(least, most, strict=True)]
        if sum(widths) <= room:
            return widths
    return list(least)


def print_traceback(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    """A `sys.excepthook`: an error may quote what a model said."""
    print(plain("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
