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

from icpo_core.workers.errors import EndedError
from icpo_core.workers.jobs import Restore, Rollout, Update
from icpo_core.workers.pool import WorkerPool
from icpo_core.workers.process import Worker

PATIENCE = 60.0


def update(folder: Path) -> Update:
    """A job for the trainer."""
    return Update(
        iteration=1, batch=[folder / "batch.parquet"], parent="", state_id="",
        restore=Restore(folder=None, replay=[]), out=folder / "update",
    )  # fmt: skip


def rollout(folder: Path) -> Rollout:
    """A job for an engine."""
    return Rollout(
        prompts=folder / "prompts.parquet", shard=0, shards=1, on_policy=1, expert=0,
        expert_source="in_context", temperature=1.0, max_tokens=8, seed=0, iteration=1,
        policy_version="", out=folder / "rollout.parquet", fingerprint="",
    )  # fmt: skip


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
    workers = WorkerPool(config, model, tmp_path / "logs")
    workers.start_engine(model)
    workers.start_trainer()
    assert len(set(me.children()) - before) == 2
    with ThreadPoolExecutor() as pool:
        trains = pool.submit(workers.train, update(tmp_path))
        samples = pool.submit(workers.sample_all, [rollout(tmp_path)], lambda done, all_: None)
        time.sleep(waited)
        workers.close()
        for waiting in (trains, samples):
            with pytest.raises(EndedError):
                waiting.result(PATIENCE)
    assert not set(me.children()) - before
    for late in (
        lambda: workers.train(update(tmp_path)),
        lambda: workers.load(model, "any", None),
        lambda: workers.sample_all([rollout(tmp_path)], lambda done, all_: None),
    ):
        with pytest.raises(EndedError, match=" own run"):
            late()
    assert not set(me.children()) - before
    workers.close()


def test_what_was_ended_before_it_started_stays_ended(tmp_path: Path) -> None:
    """Also the engines of a set that never had any."""
    config = stubs.configuration(tmp_path, "run", *stub_worker.changes(tmp_path))
    me, before = psutil.Process(), set(psutil.Process().children())
    workers = WorkerPool(config, stubs.SMALL / "base", tmp_path / "logs")
    workers.close()
    with pytest.raises(EndedError, match=" own run"):
        workers.load(stubs.SMALL / "base", "any", None)
    assert not set(me.children()) - before
