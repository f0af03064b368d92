"""Workers that another thread ends: whoever waits for them hears so, and nothing starts again."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import stub_worker
import stubs

from icpo_core.workers.pool import Workers
from icpo_core.workers.process import EndedError, Worker

PATIENCE = 60.0


@pytest.mark.parametrize("waited", [0.0, 0.1, 0.3])
def test_one_that_is_ended_while_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited: float
) -> None:
    """Also between the closing of its socket and its end, which take a second here."""
    worker = Worker("engine", ["sleep", "600"], tmp_path / "log", PATIENCE)
    wait = worker.process.wait

    def slowly(timeout: float | None = None) -> int:
        time.sleep(0.5)
        return wait(timeout)

    monkeypatch.setattr(worker.process, "wait", slowly)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(worker.wait_ready)
        time.sleep(waited)
        ending = threading.Thread(target=worker.stop)
        ending.start()
        with pytest.raises(EndedError, match="engine: was ended by its own run"):
            waits.result(PATIENCE)
        ending.join(PATIENCE)
    assert not worker.alive


@pytest.mark.parametrize("waited", [0.0, 1.0, 8.0])
def test_all_that_are_ended_stay_ended(tmp_path: Path, waited: float) -> None:
    """While they are spawned, while they start, and at work."""
    config = stubs.configuration(tmp_path, "run", *stub_worker.changes(tmp_path, seconds=600.0))
    model = stubs.SMALL / "base"
    me, before = psutil.Process(), set(psutil.Process().children())
    workers = Workers(config, model, tmp_path / "logs")
    workers.start_engine(model)
    workers.start_trainer()
    assert len(set(me.children()) - before) == 2
    with ThreadPoolExecutor() as pool:
        job = {"job": "update"}
        trains = pool.submit(workers.train, job)
        samples = pool.submit(workers.sample, {"job": "rollout"}, lambda done, all_: None)
        time.sleep(waited)
        workers.stop()
        for waiting in (trains, samples):
            with pytest.raises(EndedError):
                waiting.result(PATIENCE)
    assert not set(me.children()) - before
    for late in (
        lambda: workers.train(job),
        lambda: workers.load(model, "any", None),
        lambda: workers.sample({"job": "rollout"}, lambda done, all_: None),
    ):
        with pytest.raises(EndedError, match=" own run"):
            late()
    assert not set(me.children()) - before
    workers.stop()
