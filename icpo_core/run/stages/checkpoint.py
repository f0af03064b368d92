"""Stage `checkpoint`: publish the weights and, every so often, save the trainer's state."""

from __future__ import annotations

from typing import Any

from icpo_core.config import Config
from icpo_core.run import checkpoints
from icpo_core.run.session import Session
from icpo_core.run.stages.base import Inputs, Made, Reader, Stage, folder_of
from icpo_core.store.work import Work
from icpo_core.workers.jobs import Save


def reads(reader: Reader) -> Inputs:
    return {
        "update": reader.content("update"),
        "state": reader.fingerprint("update", reader.iteration),
    }


def settings(config: Config) -> dict[str, Any]:
    return {}


def make(session: Session, work: Work) -> Made:
    run, folder = session.run, folder_of(session, work)
    known = checkpoints.publish(run, work.iteration, folder / "model")
    saved = checkpoints.state_due(run, work.iteration)
    if saved:
        session.tools(work.iteration).workers.train(
            Save(
                out=folder / "state",
                state_id=checkpoints.state_id(run, work.iteration),
                restore=checkpoints.restore(session, work.iteration, work.iteration),
            )
        )
    found = run.store.manifest("update", work.iteration)
    assert found is not None
    return Made({"state": saved}, found.policy_version, known)


STAGE = Stage(
    name="checkpoint",
    version=1,
    reads=reads,
    settings=settings,
    make=make,
    weights=lambda run, iteration: iteration,
    state=lambda run, iteration: iteration if checkpoints.state_due(run, iteration) else None,
    withdraw=checkpoints.withdraw,
    about="Publish the weights of an iteration and, where due, the optimizer's state.",
)
