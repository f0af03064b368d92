"""However a run ends, it leaves no process, socket, folder or lock, and can be gone on with."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from forking import Forking
from idle_worker import script
from places import DEMO
from stub_worker import changes

from icpo_core.common.lock import holder
from icpo_core.store import run_record
from icpo_core.store.paths import RunPaths

SECONDS = 30.0
MARK = "ICPO_ENDING"
"""Variable that all that a run starts inherits."""


@pytest.fixture(scope="module")
def forking() -> Iterator[Forking]:
    with Forking() as started:
        yield started


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

    def __init__(self, folder: Path, forking: Forking, *overrides: str, said: str = "") -> None:
        self.folder, self._forking = folder, forking
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.paths = RunPaths(folder / "runs" / "run")
        more = ["run.iterations=1", "evaluate.every=0", *overrides]
        words = [word for one in more for word in ("-o", one)]
        self.pid = forking.start(
            ["train", str(DEMO), "--plain", "--run", "run", *words], folder,
            said or str(folder / "said"),
            {MARK: str(folder), "TMPDIR": str(self.temporary)},
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


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal(name: str, tmp_path: Path, forking: Forking) -> None:
    run, number = at_work(tmp_path, forking), getattr(signal, name)
    os.kill(run.pid, number)
    said = run.ended(128 + number)
    assert said.splitlines()[-1] == f"icpo train: ended by {name}"
    assert "To go on: icpo train" in said
    assert "Traceback" not in said
    assert run_record.read(run.paths)


def test_ctrl_c_twice(tmp_path: Path, forking: Forking) -> None:
    run = at_work(tmp_path, forking)
    os.kill(run.pid, signal.SIGINT)
    os.kill(run.pid, signal.SIGINT)
    run.ended(128 + signal.SIGINT)


def test_a_signal_to_all_of_its_processes(tmp_path: Path, forking: Forking) -> None:
    """As Slurm sends it."""
    run = at_work(tmp_path, forking)
    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
        process.terminate()
    run.ended(128 + signal.SIGTERM)


def test_a_terminal_that_is_closed(tmp_path: Path, forking: Forking) -> None:
    master, slave = os.openpty()
    run = at_work(tmp_path, forking, os.ttyname(slave))
    os.close(slave)
    os.close(master)
    run.ended(128 + signal.SIGHUP)


@pytest.mark.parametrize("state", ["starting", "working"])
def test_a_kill(state: str, tmp_path: Path, forking: Forking) -> None:
    python = script(tmp_path, state)
    run = Ending(tmp_path, forking, f"rollout.python={python}", f"update.python={python}")
    run.wait_for("here")
    os.kill(run.pid, signal.SIGKILL)
    run.ended(-signal.SIGKILL)


def test_a_worker_that_dies(tmp_path: Path, forking: Forking) -> None:
    run = at_work(tmp_path, forking)
    [engine] = [
        one for one in psutil.Process(run.pid).children() if "engine" in " ".join(one.cmdline())
    ]
    engine.kill()
    assert "rollout engine: the process ended (signal 9)" in run.ended(1)


def test_a_mistake_and_its_own_end(tmp_path: Path, forking: Forking) -> None:
    for name, overrides, status in (
        ("mistake", ["prompts.problems=./no.parquet"], 2),
        ("end", [*changes(tmp_path), "prompts.batch_size=4"], 0),
    ):
        (tmp_path / name).mkdir()
        Ending(tmp_path / name, forking, *overrides).ended(status)
