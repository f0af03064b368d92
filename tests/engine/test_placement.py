"""Two engines on devices of their own, that sleep while the trainer works."""

import os
import signal
from pathlib import Path

import pytest
from places import DEMO

from icpo_core.config import Config, load
from icpo_core.run import plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.workers import devices
from icpo_core.workers.pool import WorkerPool


def config(*changes: str) -> Config:
    return load(DEMO, list(changes))


def test_two_engines_sample_sleep_and_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two made-up devices: the CPU builds of vLLM and torch take no notice of them."""
    monkeypatch.setenv(devices.VARIABLE, "0,1")
    changes = ["rollout.engines=0", "rollout.shards=3", "prompts.batch_size=6", "run.iterations=2"]
    changes += ["evaluate.every=0", "update.learning_rate=1e-3", f"run.directory={tmp_path}"]
    settings = config(*changes)
    with Session(Run.of(settings)) as session:
        workers = session.tools(1).workers
        assert isinstance(workers, WorkerPool)
        workers.start_engine(session.run.base_model)
        engines = workers.engines._engines
        theirs = [
            Path(f"/proc/{engine.process.pid}/environ").read_bytes() for engine in engines.values()
        ]
        assert [f"{devices.VARIABLE}={n}".encode() in words.split(b"\0")
                for n, words in enumerate(theirs)] == [True, True]  # fmt: skip
        for stage in plan.stages_of(settings, 1):
            perform(session, stage, 1)
        assert workers.engines._asleep == {0, 1}  # since the update
        perform(session, "prompts", 2)
        found = perform(session, "rollout", 2).manifest
        assert workers.engines._asleep == set()
        assert found.facts["probe_gap"] < 1e-4
        assert (found.rows, len(found.files)) == (48, 3)
        # Both had something to do.
        logs = [(session.logs / f"engine-{number}.log").read_text() for number in (0, 1)]
        assert all("sleep mode is not supported" in log for log in logs)

        content = found.content()
        os.kill(engines[1].process.pid, signal.SIGKILL)
        engines[1].process.wait()
        again = perform(session, "rollout", 2, force=True).manifest
        assert again.rows == 48
        assert {record.name for record in again.files} == {record.name for record in found.files}
        assert content
