"""One part of the rollouts, judged on a machine of a work pool: flow `icpo-part`."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from icpo_core.run import judging
from icpo_core.workers.jobs import Judge


# Asynchronous, though nothing in it is: Prefect ends a synchronous flow by joining a thread that
# sleeps in whole seconds.
@flow(name="icpo-part", persist_result=False)
async def judge(job: dict[str, Any]) -> None:
    """Judge a part of the rollouts. A training run with `verify.pool` starts this.

    Args:
        job: `icpo_core.workers.jobs.Judge`, by paths that this machine has, too.

    Raises ValueError, in one line, if this machine cannot serve.
    """
    asked = Judge.model_validate(job)
    done = judging.judge(asked)
    get_run_logger().info(f"{done.rows} verdicts on {asked.rollouts}")
