"""However a run ends, it leaves no process, socket, folder or lock, and can be gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ending_runs import Ending, at_work
from forking import Forking
from idle_worker import script
from stub_worker import changes

from icpo_core.store import run_record


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


def test_ctrl_c_while_it_is_all_but_over(tmp_path: Path) -> None:
    """When Python has given its signals back to the system."""
    code = (
        "import atexit, os, signal, sys\n"
        "from icpo.flows import ending\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Last:\n"
        "    def __del__(self, kill=os.kill, me=os.getpid()): kill(me, 2)\n"
        "sys.last = Last()\n"
        "try:\n"
        "    with ending.heeded(): os.kill(os.getpid(), signal.SIGINT)\n"
        "except ending.Signalled: sys.exit(130)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == 128 + signal.SIGINT


def test_a_signal_to_all_of_its_processes(tmp_path: Path, forking: Forking) -> None:
    """As Slurm sends it."""
    run = at_work(tmp_path, forking)
    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # the run has ended it
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
