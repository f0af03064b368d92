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
from typing import Any

import rich.console
import rich.table
from rich.console import ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
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
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else plain(text, None), style, control)

    def _plain(self, text: Text) -> Text:
        if plain(text.plain, None) == text.plain:
            return text
        seen = text.blank_copy()
        for words, style, _ in text.render(self):
            seen.append(plain(words, None), style)
        return seen


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
            [Measurement.get(console, options, one) for one in (column.header, *column.cells)]
            for column in self.columns
        ]
        whole = [max(one.maximum for one in cells) for cells in sizes]
        words = [max(min(one.minimum, LONG) for one in cells) for cells in sizes]
        frame = 3 * len(whole) + 1 if self.box else 2 * len(whole)
        shown = copy.copy(self)
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
        yield from super(Table, shown).__rich_console__(console, options)


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
