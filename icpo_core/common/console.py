"""A terminal that shows text of others as text: no markup, no emoji codes, no highlighter (whose
patterns take seconds on a long word), no control sequences.

Style comes from `rich.text.Text`, never from brackets in a string.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
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


def print_traceback(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    """A `sys.excepthook`: an error may quote what a model said."""
    print(plain("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
