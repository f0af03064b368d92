"""Stage `teach`: what the teacher of self-distillation says of the bare rollouts (`loss.distill`).

It hangs on the teacher's prompts and weights, and not on the weight of the term: the update alone
is rerun where that changes.
"""

from __future__ import annotations

import time
from typing import Any

from icpo_core.config import Config, slice_of
from icpo_core.run import checkpoints
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.run.sources import pool_of, problems_of
from icpo_core.run.stages.base import Inputs, Made, Reader, Stage, folder_of
from icpo_core.run.timeline import WAITS, Recorder
from icpo_core.store import tables
from icpo_core.store.tables import Written
from icpo_core.store.work import Work
from icpo_core.workers.jobs import Restore, Teach

LESSONS = "lessons.parquet"
WEIGHT = ("coefficient", "schedule", "horizon")
"""Keys of `loss.distill` that say how much the term weighs, which is the update's."""
FORWARD = (
    "dtype",
    "head_dtype",
    "token_budget",
    "packing",
    "lora",
    "deepspeed",
    "ranks",
    "deterministic",
)
"""Keys of `update` that say how logprobs are computed."""


def reads(reader: Reader) -> Inputs:
    config, before = reader.run.config, reader.iteration - 1
    inputs = {
        "prompts": reader.content("prompts"),
        "rollouts": reader.content("rollout"),
        "base": reader.run.base_version,
        **reader.run.model_settings,
    }
    if config.loss.distill.teacher != "start" and before:
        inputs["state"] = reader.fingerprint("update", before)
    shows = config.loss.distill.context == "demonstrations"
    return inputs | (pool_of(config) if shows else problems_of(config))


def settings(config: Config) -> dict[str, Any]:
    distill, update = slice_of(config.loss.distill), slice_of(config.update)
    for key in WEIGHT:
        distill.pop(key, None)
    return {
        "loss.distill": distill,
        "prompts": slice_of(config.prompts),
        "rollout.temperature": config.rollout.temperature,
        "update": {key: update[key] for key in FORWARD if key in update},
    }


def make(session: Session, work: Work) -> Made:
    """One part for each part of the rollouts; a part that is whole stays."""
    run, tools = session.run, session.tools(work.iteration)
    folder, distill = folder_of(session, work), tools.config.loss.distill
    kept = {path.name for path in run.store.parts(work)}
    prompts = run.store.table("prompts", work.iteration, "prompts")
    lessons = tools.lesson_maker.lessons(prompts, work.iteration, distill.context)
    known = {LESSONS: tables.write("lessons", lessons, folder / LESSONS, work.fingerprint)}
    rollouts = run.store.manifest("rollout", work.iteration)
    assert rollouts is not None
    names = {record.name for record in rollouts.table("rollout")}
    for name in kept - names - {LESSONS}:  # a copy that somebody else put there
        (folder / name).unlink()
    noted = Recorder()
    replayed: list[int] = []
    for name in sorted(names - kept):
        started = time.time()
        reply = tools.workers.train(
            Teach(
                rollouts=run.store.file("rollout", work.iteration, name),
                lessons=folder / LESSONS,
                top_k=distill.top_k,
                parent=_state(run, work.iteration),
                restore=_restore(session, work.iteration),
                out=folder / name,
                fingerprint=work.fingerprint,
            )
        )
        waits = {f"{WAITS}{one}": seconds for one, seconds in reply.waits.items()}
        noted.row("trainer", started, waits | {"teach": time.time() - started})
        replayed += reply.replayed
        known[name] = Written(reply.sha256, reply.rows, reply.content)
    rows = sum(tables.read("teacher", folder / name).num_rows for name in names)
    lost = prompts.num_rows - lessons.num_rows
    facts = {"rows": rows, "without_lesson": lost, "replayed": replayed}
    return Made(facts | {"spans": noted.facts()}, known=known)


def _state(run: Run, iteration: int) -> str | None:
    """Whose weights teach; None: the base model's."""
    if run.config_at(iteration).loss.distill.teacher == "start":
        return None
    return checkpoints.state_id(run, iteration - 1)


def _restore(session: Session, iteration: int) -> Restore:
    if _state(session.run, iteration) is None:
        return Restore(folder=None, replay=[])
    return checkpoints.restore(session, iteration - 1, iteration)


def _needs(run: Run, iteration: int) -> int | None:
    teaches = run.config_at(iteration).loss.distill.teacher
    return iteration - 1 if teaches != "start" else None


STAGE = Stage(
    name="teach",
    version=1,
    reads=reads,
    settings=settings,
    make=make,
    draws=True,
    wanted=lambda config: config.loss.distills,
    due=lambda config, iteration: iteration > 0 and config.loss.at(iteration).distills,
    state=_needs,
    about="What the teacher of self-distillation says of the bare rollouts of an iteration "
    "(`loss.distill`). Starts a trainer for it and ends it; parts that are whole are kept.",
)
