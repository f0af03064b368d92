"""A run of `icpo train --plain` whose workers come to no end, and what there is of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from forking import Forking
from idle_worker import script
from places import DEMO

from icpo_core.common.lock import holder
from icpo_core.store.paths import RunPaths

SECONDS = 30.0
MARK = "ICPO_ENDING"
"""Variable that all that a run starts inherits."""


def below(folder: Path) -> list[str]:
    """Command lines of what a run in this folder has started and still lives."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get(MARK) == str(folder)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def wait(true: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


class Ending:
    """A run in an empty folder, with a folder for temporary files of its own."""

    def __init__(
        self,
        folder: Path,
        forking: Forking,
        *overrides: str,
        said: str = "",
        environment: Mapping[str, str | None] | None = None,
        before: str = "",
    ) -> None:
        self.folder, self._forking = folder, forking
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.paths = RunPaths(folder / "runs" / "run")
        more = ["run.iterations=1", "evaluate.every=0", *overrides]
        words = [word for one in more for word in ("-o", one)]
        self.pid = forking.start(
            ["train", str(DEMO), "--plain", "--run", "run", *words], folder,
            said or str(folder / "said"),
            {MARK: str(folder), "TMPDIR": str(self.temporary), **(environment or {})},
            before,
        )  # fmt: skip

    def wait_for(self, word: str) -> None:
        """Until engine or trainer has said a word."""
        logs = self.paths.attempt(1)
        wait(lambda: any(word in one.read_text() for one in logs.glob("*.log")), word)

    def ended(self, status: int) -> str:
        """What it said, once all is gone."""
        assert self._forking.status(self.pid) == status
        wait(lambda: not below(self.folder), "all processes to end")
        assert list(self.temporary.glob("*")) == []
        assert holder(self.paths.lock) is None
        said = self.folder / "said"
        return said.read_text() if said.is_file() else ""


def at_work(folder: Path, forking: Forking, said: str = "") -> Ending:
    """A run whose engine is at a job that takes an hour."""
    python = script(folder, "working")
    made = Ending(folder, forking, f"rollout.python={python}", f"update.python={python}", said=said)
    made.wait_for("at work")
    assert len(below(folder)) == 2
    assert len(list(made.temporary.glob("icpo-*"))) == 2
    assert holder(made.paths.lock) is not None
    return made
