"""One thin Prefect task a stage, and one a part where a stage has several.

A task is given the path of a run that this process has open, the iteration and whether to force;
it performs the stage and returns a reference to what is stored, never a table. What is done already
is for the manifest to say, so nothing is cached by Prefect.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger

from icpo_core.config import STAGES
from icpo_core.run import perform as stages
from icpo_core.run.run import opened
from icpo_core.workers.process import EndedError, WorkerError

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


def _retry(_task: Task, _run: Any, state: Any) -> bool:
    # Not state.result(): inside an asynchronous flow that is a coroutine.
    return may_pass(state.data)


def _stage_task(stage: str) -> Task[..., Reference]:
    # No tags: for a tag, Prefect asks the server for a concurrency slot before every run.
    @task(
        name=stage,
        task_run_name=stage + " it-{iteration:04d}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=RETRIES,
        retry_delay_seconds=RETRY_SECONDS,
        retry_jitter_factor=0.5,
        retry_condition_fn=_retry,
    )
    def perform(run: str, iteration: int, force: bool = False) -> Reference:
        context = TaskRunContext.get()
        assert context is not None
        ids = {
            "task_run": str(context.task_run.id),
            "flow_run": str(context.task_run.flow_run_id),
        }
        the_run = opened(run)
        if stage == "rollout":
            the_run.around_part = partial(_part, copy_context())
        outcome = stages.perform(the_run, stage, iteration, force, ids)
        done = outcome.manifest
        verb = "made" if outcome.made else "kept"
        get_run_logger().info(
            f"{verb} {stage} of iteration {iteration} ({outcome.reason}): "
            f"{done.rows} rows, {done.seconds:.2f} s"
        )
        return {
            "stage": stage,
            "iteration": iteration,
            "path": str(the_run.paths.stage(stage, iteration)),
            "fingerprint": done.fingerprint,
            "rows": done.rows,
            "made": outcome.made,
            "reason": outcome.reason,
        }

    perform.fn.__doc__ = f"Stage `{stage}` of one iteration; a reference to what is stored."
    return perform


def _part(context: Context, job: dict[str, Any], do: Callable[[], Any]) -> Any:
    """Do the job of one part of a stage, in a task run of its own where there are several.

    `context`: of the stage's task run; an engine's thread does not have it.
    """
    if job["shards"] > 1:
        stage, part = job["job"], job["shard"]
        name = f"{stage} it-{job['iteration']:04d} part {part:02d}"
        settings: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
        do = task(name=f"{stage} part", task_run_name=name, **settings)(do)
    return context.copy().run(do)


TASKS = {stage: _stage_task(stage) for stage in STAGES}
prompts, rollout, verify, select, update, evaluate, checkpoint = (TASKS[stage] for stage in STAGES)
