"""Services are ended: what came of them has its time, and they themselves have little after it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from icpo.flows.services import processes

LONG = 3600.0
DEAF = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None)"
RUN = 'trap "sleep 1; touch done; exit" TERM; touch ready; while :; do sleep 0.05; done'


def started(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> processes.Service:
    monkeypatch.setattr(processes, "ALONE_SECONDS", 0.3)
    monkeypatch.chdir(folder)
    words = [sys.executable, "-c", script]
    service = processes.start("one", words, folder / "log", dict(os.environ))
    while not (folder / "ready").is_file():
        assert service.alive
    return service


def test_one_that_never_ends_is_killed_when_it_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = started(f"{DEAF}; open('ready', 'w'); time.sleep({LONG})", tmp_path, monkeypatch)
    assert service.end(LONG)
    assert not service.members()
    assert not service.end(LONG)


def test_what_it_started_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = f"import subprocess; subprocess.run(['bash', '-c', {RUN!r}])"
    service = started(f"{DEAF}; {run}; time.sleep({LONG})", tmp_path, monkeypatch)
    assert service.end(LONG)
    assert (tmp_path / "done").is_file()
    assert not service.members()
