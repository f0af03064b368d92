"""Estimates against a real run's memory, disk and seconds."""

from pathlib import Path

import pytest
from places import DEMO

from icpo_core.capacity import machine
from icpo_core.capacity import memory as estimate
from icpo_core.capacity.forecast import forecast, measured
from icpo_core.config import load
from icpo_core.run import plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.workers.pool import WorkerPool


def highest(pid: int) -> int:
    """Most bytes that were ever resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def stored(root: Path) -> int:
    facts = {(one.st_dev, one.st_ino): one.st_size for one in map(Path.stat, root.rglob("*"))}
    return sum(facts.values())


def test_a_short_run(tmp_path: Path) -> None:
    """Memory of engine and trainer, disk, and seconds from the run's own rates, within 20%."""
    changes = ["run.iterations=6", "checkpoint.state_every=2", "update.token_budget=2048"]
    config = load(DEMO, [*changes, "evaluate.every=6", f"run.directory={tmp_path}"])
    with Session(Run.of(config)) as session:
        session.keep_config()
        run, workers = session.run, session.tools(1).workers
        assert isinstance(workers, WorkerPool)
        workers.start_engine(run.base_model)
        workers.start_trainer()
        manifests = [
            perform(session, stage, iteration).manifest
            for iteration in range(1, 7)
            for stage in plan.stages_of(config, iteration)
        ]
        trainer = workers._trainer
        assert trainer is not None
        memory = {
            "engine": highest(workers.engines._engines[0].process.pid),
            "trainer": highest(trainer.process.pid),
        }
        disk = stored(run.paths.root)
        rates = measured(run.paths.root, 1)
    assert rates is not None
    there = machine.here(tmp_path).model_copy(update={"rates": rates})
    found = forecast(config, there)
    (whole,) = found.loads
    for kind, most in memory.items():
        guess = sum(value for name, value in whole.parts.items() if name.startswith(kind))
        assert guess == pytest.approx(most, rel=0.2), kind
    # The weights that retention would have taken are still there: nobody settled the run.
    weights = estimate.model_bytes(found.shape, config)
    states = estimate.state_bytes(found.shape, config)
    guess = 6 * weights + 3 * states + found.disk["rollouts"] + found.disk["evaluations"]
    assert guess == pytest.approx(disk, rel=0.2)
    assert found.seconds is not None
    recent = [one for one in manifests if one.iteration > 1]
    sampling = [one.facts["sampling_seconds"] for one in recent if one.stage == "rollout"]
    steps = [one.facts["timing"]["step"] for one in recent if one.stage == "update"]
    assert found.seconds["rollout"] == pytest.approx(sum(sampling) / 5, rel=0.2)
    assert found.seconds["update"] == pytest.approx(sum(steps) / 5, rel=0.4)
