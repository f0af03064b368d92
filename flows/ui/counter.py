"""A bar over what is counted, on standard error."""

from __future__ import annotations

import sys
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from icpo_core.common.closing import Closing
from icpo_core.common.console import Console


class Counter(Closing):
    """A bar over things that are counted, on standard error; nothing off a terminal."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def close(self) -> None:
        self._bar.stop()

    def count(self, what: str, done: int, all_: int) -> None:
        """So many of all are done."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=all_)
        self._bar.update(self._tasks[what], completed=done)
