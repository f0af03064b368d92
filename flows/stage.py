"""One stage of one iteration on stored Parquet: the flow `icpo-stage`, a deployment a stage."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from prefect import Flow, flow

from icpo_core import branch, checkpoints
from icpo_core.config import STAGES
from tasks.stages import TASKS, Reference


def _stage_flow(stage: str) -> Flow[..., Coroutine[Any, Any, Reference]]:
    @flow(name="icpo-stage", flow_run_name=stage + " it-{iteration:04d} {run}")
    async def run_stage(
        run: str,
        iteration: int,
        overrides: list[str] | None = None,
        force: bool = False,
        into: str | None = None,
    ) -> Reference:
        if iteration < (stage != "evaluate"):
            raise ValueError(f"iteration {iteration} has no stage {stage}: it begins with 1")
        with branch.run_for(Path(run), stage, iteration, overrides or [], into, force) as opened:
            reference = TASKS[stage](str(opened.paths.root), iteration, force)
            checkpoints.settle(opened)
            return reference

    run_stage.__doc__ = f"Run stage `{stage}` of one iteration on what is stored."
    return run_stage


# An entrypoint of a deployment is a name in this module.
prompts, rollout, verify, select, update, evaluate, checkpoint = map(_stage_flow, STAGES)
STAGE_FLOWS = dict(
    zip(STAGES, (prompts, rollout, verify, select, update, evaluate, checkpoint), strict=True)
)
