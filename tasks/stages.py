"""One thin Prefect task a stage, and one a part where a stage has several.

What is done already is for the manifest to say, so nothing is cached by Prefect; a task returns a
reference to what is stored, never a table.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger

from icpo_core.run.perform import perform
from icpo_core.run.session import current
from icpo_core.run.stages import STAGES
from icpo_core.workers.errors import EndedError, WorkerError
from icpo_core.workers.jobs import Rollout, Sampled

Reference = dict[str, Any]

RETRIES = 2
RETRY_SECONDS = [2.0, 20.0]
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO}
"""Errors of a shared file system that may be over in a moment."""


def may_pass(error: object) -> bool:
    """Whether another try, on a fresh worker, may go well. A mistake in the configuration or the
    data stays one, and so does a full disk."""
    if isinstance(error, EndedError):
        return False
    return isinstance(error, WorkerError) or (isinstance(error, OSError) and error.errno in PASSING)


def _retry(_task: Task[..., Any], _run: Any, state: Any) -> bool:
    # Not state.result(): inside an asynchronous flow that is a coroutine.
    return may_pass(state.data)


def ids() -> dict[str, str]:
    """The runs that a stage is made in, for its manifest."""
    context = TaskRunContext.get()
    assert context is not None
    flow_run = str(context.task_run.flow_run_id)
    return {"task_run": str(context.task_run.id), "flow_run": flow_run}


def _stage_task(stage: str) -> Task[..., Reference]:
    # No tags: for a tag, Prefect asks the server for a concurrency slot before every run.
    @task(
        name=stage,
        task_run_name=stage + " it-{iteration:04d} of {run.name}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=RETRIES,
        retry_delay_seconds=RETRY_SECONDS,
        retry_jitter_factor=0.5,
        retry_condition_fn=_retry,
    )
    def stage_task(run: Path, iteration: int, force: bool = False) -> Reference:
        # `run` is for people to read: it is the run that this context has open.
        session = current()
        outcome = perform(session, stage, iteration, force)
        done = outcome.manifest
        verb = "made" if outcome.made else "kept"
        get_run_logger().info(
            f"{verb} {stage} of iteration {iteration} ({outcome.reason}): "
            f"{done.rows} rows, {done.seconds:.2f} s"
        )
        return {
            "stage": stage,
            "iteration": iteration,
            "path": str(session.run.paths.stage(stage, iteration)),
            "fingerprint": done.fingerprint,
            "rows": done.rows,
            "made": outcome.made,
            "reason": outcome.reason,
        }

    stage_task.fn.__doc__ = f"Stage `{stage}` of one iteration; a reference to what is stored."
    return stage_task


def part(job: Rollout, do: Callable[[], Sampled]) -> Sampled:
    """Do the job of one part of the rollouts, in a task run of its own where there are several."""
    if job.shards == 1:
        return do()
    name = f"rollout it-{job.iteration:04d} part {job.shard:02d}"
    name += f" round {job.round}" if job.round else ""
    name += f" of {current().run.paths.root.name}"
    settings: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
    sampled: Sampled = task(name="rollout part", task_run_name=name, **settings)(do)()
    return sampled


TASKS = {stage: _stage_task(stage) for stage in STAGES}
