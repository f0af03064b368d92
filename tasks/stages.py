"""One thin Prefect task a stage.

A task is given the path of a run that this process has open, the iteration and whether to force;
it performs the stage and returns a reference to what is stored, never a table. What is done already
is for the manifest to say, so nothing is cached by Prefect.
"""

from __future__ import annotations

from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger

from icpo_core import stages
from icpo_core.run import opened
from icpo_core.worker import WorkerError

Reference = dict[str, Any]


def _worker_failed(_task: Task, _run: Any, state: Any) -> bool:
    """Retry what may go well in a fresh worker. A mistake in the configuration stays one."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, WorkerError)


def _stage_task(stage: str, retries: int = 0) -> Task[..., Reference]:
    @task(
        name=stage,
        task_run_name=stage + " it-{iteration:04d}",
        cache_policy=NO_CACHE,
        retries=retries,
        retry_delay_seconds=2,
        retry_jitter_factor=1.0,
        retry_condition_fn=_worker_failed if retries else None,
    )
    def perform(run: str, iteration: int, force: bool = False) -> Reference:
        context = TaskRunContext.get()
        ids = {}
        if context is not None:
            ids = {
                "task_run": str(context.task_run.id),
                "flow_run": str(context.task_run.flow_run_id),
            }
        outcome = stages.perform(opened(run), stage, iteration, force, ids)
        done = outcome.manifest
        verb = "made" if outcome.made else "kept"
        get_run_logger().info(
            f"{verb} {stage} of iteration {iteration} ({outcome.reason}): "
            f"{done.rows} rows, {done.seconds:.2f} s"
        )
        return {
            "stage": stage,
            "iteration": iteration,
            "path": str(opened(run).paths.stage(stage, iteration)),
            "fingerprint": done.fingerprint,
            "rows": done.rows,
            "made": outcome.made,
            "reason": outcome.reason,
        }

    return perform


prompts = _stage_task("prompts")
rollout = _stage_task("rollout", retries=1)
verify = _stage_task("verify")
select = _stage_task("select")
update = _stage_task("update", retries=1)
evaluate = _stage_task("evaluate", retries=1)
checkpoint = _stage_task("checkpoint", retries=1)

TASKS = {
    "prompts": prompts,
    "rollout": rollout,
    "verify": verify,
    "select": select,
    "update": update,
    "evaluate": evaluate,
    "checkpoint": checkpoint,
}
