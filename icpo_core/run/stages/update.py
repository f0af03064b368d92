"""Stage `update`: the optimizer steps on the stored batch, and new weights, as one unit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from icpo_core.common.files import write_json
from icpo_core.config import Config, slice_of
from icpo_core.run import checkpoints
from icpo_core.run.session import Session
from icpo_core.run.stages.base import Inputs, Made, Reader, Stage, folder_of
from icpo_core.run.stages.select import TUNING
from icpo_core.run.timeline import WAITS, Recorder
from icpo_core.store.tables import Written
from icpo_core.store.work import Work
from icpo_core.workers.jobs import Update

LEAST_KEPT = 0.5
"""Share of an adapter that merging must leave for nobody to be told."""
SOURCE = "loss.policy"
"""The input that is the source of one's own policy loss."""


def reads(reader: Reader) -> Inputs:
    before = reader.iteration - 1
    taught = reader.run.config.loss.at(reader.iteration).distills
    tuned = reader.run.config.select.tuning_buffer > 0
    return {
        **({"tuning": reader.table("select", "tuning")} if tuned else {}),
        **({"teacher": reader.content("teach")} if taught else {}),
        "batch": reader.table("select", "batch"),
        "base": reader.run.base_version,
        "model settings": reader.run.model_settings["model settings"],
        "state": reader.fingerprint("update", before) if before else reader.run.base_version,
    }


def settings(config: Config) -> dict[str, Any]:
    update = slice_of(config.update)
    if not config.update.weight_decay:
        update.pop("decay_norms", None)  # of no decay no part can be left out
    return {
        "loss": slice_of(config.loss),
        "update": update,
        "rollout.temperature": config.rollout.temperature,
    }


def make(session: Session, work: Work) -> Made:
    """Optimizer steps on the stored batch, from the parent's state, and new weights."""
    folder = folder_of(session, work)
    noted, started = Recorder(), time.time()
    asked = job(session, work.iteration, work.fingerprint, work.inputs)
    reply = session.tools(work.iteration).workers.train(
        asked.model_copy(update={"expert_tokens": True})
    )
    waits = {f"{WAITS}{name}": seconds for name, seconds in reply.waits.items()}
    noted.row("trainer", started, waits)
    noted.row("trainer", time.time() - sum(reply.timing.values()), reply.timing)
    # What has no value in this iteration has no figure, in JSON too.
    figures = {name: value for name, value in reply.metrics.items() if math.isfinite(value)}
    write_json(folder / "metrics.json", figures, durable=False)
    facts: dict[str, Any] = {"replayed": reply.replayed, "timing": reply.timing}
    facts |= {"work": reply.work, "spans": noted.facts(), "layout": reply.layout}
    if reply.layout_note:
        facts["layout_note"] = reply.layout_note
        before = session.run.store.manifest("update", work.iteration - 1)
        if before is None or before.facts.get("layout_note") != reply.layout_note:
            session.observer.decision(f"update {work.iteration}: {reply.layout_note}")
    kept = reply.metrics.get("lora/kept", 1.0)
    merged = session.run.config.rollout.lora == "merged"
    if merged and work.iteration == 1 and kept < LEAST_KEPT:
        session.observer.decision(
            f"update 1: merging the adapter into {session.run.config.update.dtype} keeps "
            f"{kept:.0%} of it, so the engine samples from another policy than is trained "
            "(figure lora/kept): rollout.lora = adapter serves it beside the base model"
        )
    known = {f"model/{name}": Written(digest) for name, digest in reply.weights.items()}
    return Made(facts, reply.policy_version, known)


def job(session: Session, iteration: int, state_id: str, inputs: Mapping[str, Any]) -> Update:
    """The trainer's job that makes the update of an iteration, and so the state of this name.

    `inputs`: of the update's work.
    """
    run = session.run
    return Update(
        iteration=iteration,
        batch=run.store.table_files("select", iteration, "batch"),
        tuning=run.store.file("select", iteration, TUNING) if "tuning" in inputs else None,
        teacher=checkpoints.teacher_of(run, iteration, inputs.get("teacher")),
        parent=checkpoints.state_id(run, iteration - 1),
        restore=checkpoints.restore(session, iteration - 1, iteration),
        state_id=state_id,
        policy_source=inputs.get(SOURCE),
        out=run.paths.stage("update", iteration),
    )


STAGE = Stage(
    name="update",
    version=1,
    reads=reads,
    settings=settings,
    make=make,
    state=lambda run, iteration: iteration - 1,
    about="The optimizer step of an iteration on its stored batch, from the state before it. "
    "Starts a trainer for it and ends it.",
)
