"""What a command waits for: said soon, and again every few seconds while nothing else is."""

from __future__ import annotations

import sys
import threading
import time
from contextvars import ContextVar
from typing import Self

from icpo_core.common.closing import Closing
from icpo_core.common.console import Console

FIRST_SECONDS = 0.3
"""A mistake that is found before is all that a command says."""
PACE_SECONDS = 5.0
SLOWEST_SECONDS = 60.0
_CURRENT: ContextVar[Waiting | None] = ContextVar("waiting", default=None)


class Waiting(Closing):
    """Lines on standard error, at a slowing pace; on a terminal until a bar takes their place."""

    def __init__(self, what: str, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._woken, self._ended = threading.Event(), False
        self._what, self._since = what, time.monotonic()
        self._thread = threading.Thread(target=self._say, name="waiting", daemon=True)

    def __enter__(self) -> Self:
        self._token = _CURRENT.set(self)
        self._thread.start()
        return self

    def close(self) -> None:
        """Say no more."""
        self.end()
        _CURRENT.reset(self._token)

    def end(self) -> None:
        """Something else says now what goes on."""
        self._ended = True
        self._woken.set()
        self._thread.join()

    def now(self, what: str, heard: bool = False) -> None:
        """What is waited for from here on. heard: the person was just told something."""
        self._what = what
        if heard:
            self._since = time.monotonic()
            self._woken.set()

    def _say(self) -> None:
        pace = FIRST_SECONDS
        while not self._ended:
            if self._woken.wait(pace):
                self._woken.clear()
                pace = PACE_SECONDS
                continue
            seconds = time.monotonic() - self._since
            waited = f" ({seconds:.0f} s)" if seconds >= 1 else ""
            self._console.print(f"… {self._what}{waited}", highlight=False, markup=False)
            pace = PACE_SECONDS if pace < PACE_SECONDS else min(SLOWEST_SECONDS, 1.5 * pace)


def waiting_now() -> Waiting | None:
    """What the command that is at work says while it waits, if it says anything."""
    return _CURRENT.get()
