"""Worker logs on their way to the Prefect UI, as lines of the flow run.

Whole logs stay on disk. What arrives in the UI is bounded: past `BURST` lines in a window of
`WINDOW_SECONDS` a worker's lines are counted instead, and the count says which file has them.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from pathlib import Path
from typing import Self

from icpo_core.common.closing import Closing
from icpo_core.common.text import plain

POLL_SECONDS = 1.0
WINDOW_SECONDS = 30.0
BURST = 40
LONGEST = 500
"""Characters of a line that are sent."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_BAR = re.compile(r"\d+%.*\[\d+:\d\d")
"""A progress bar, drawn as lines."""


class Tail:
    """New whole lines of one log file, as many as may pass."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._passed: list[float] = []  # when lines of the last window passed
        self._held = 0

    def lines(self, now: float) -> list[str]:
        """What to say at `now` (monotonic seconds): new lines, or how many there are too many."""
        said: list[str] = []
        for line in self._new():
            self._passed = [at for at in self._passed if now - at < WINDOW_SECONDS]
            if len(self._passed) >= BURST:
                self._held += 1
                continue
            said += self._release()
            said.append(line)
            self._passed.append(now)
        if self._held and self._passed and now - self._passed[0] >= WINDOW_SECONDS:
            said += self._release()
        return said

    def rest(self) -> list[str]:
        """The count of what was held back, at the end."""
        return self._release()

    def _release(self) -> list[str]:
        held, self._held = self._held, 0
        return [f"{held} more lines stand in {self.path}"] if held else []

    def _new(self) -> list[str]:
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read(1 << 20)
        except FileNotFoundError:
            return []
        # A progress bar draws over its line with carriage returns: only its last state counts.
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        texts = whole.decode("utf-8", "replace").splitlines()
        drawn = (_COLOURS.sub("", text).rpartition("\r")[2].strip() for text in texts)
        return [plain(text, LONGEST) for text in drawn if text and not _BAR.search(text)]


class Forwarder(Closing):
    """Follows every log in a folder while it is open (a context manager), in a thread."""

    def __init__(
        self, folder: Path, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
    ) -> None:
        """`logger`: of the flow run that the lines belong to."""
        self._folder, self._logger = folder, logger
        self._tails: dict[Path, Tail] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="worker-logs", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._forward()
        for path, tail in self._tails.items():
            self._say(path, tail.rest())

    def _follow(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self._forward()

    def _forward(self) -> None:
        for path in sorted(self._folder.glob("*.log")):
            tail = self._tails.setdefault(path, Tail(path))
            self._say(path, tail.lines(time.monotonic()))

    def _say(self, path: Path, lines: list[str]) -> None:
        for line in lines:
            self._logger.info("%s: %s", path.stem, line)
