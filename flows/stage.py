"""One stage on stored Parquet, of one iteration or more: flow `icpo-stage`, one a stage."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from prefect import Flow, flow, runtime

from icpo.flows.parameters import BranchName, Evaluated, Iteration, Override, RunFolder
from icpo.flows.session import opened
from icpo.tasks.stages import TASKS, Reference
from icpo_core.run import branch, checkpoints
from icpo_core.run.stages import STAGES

ABOUT = """Run stage `{stage}` on what is stored, of one iteration or of several.

Args:
    run: Folder of the run, for example runs/demo.
    iteration: Which iteration's stage.
    overrides: Changes to the run's configuration, each as section.key=value. Those that change
        results need a branch.
    force: Make it again although it is done.
    into: Name of a branch of the run, beside it, to make the stage in. Empty: in the run itself.
    last: The last of several iterations. 0: only the one.

Raises ValueError for a user's mistake.
"""


def _stage_flow(stage: str) -> Flow[..., Coroutine[Any, Any, list[Reference]]]:
    def name() -> str:
        given = runtime.flow_run.parameters
        until = f" to {given['last']:04d}" if given.get("last") else ""
        return f"{stage} it-{given['iteration']:04d}{until} of {Path(given['run']).name}"

    async def run_stage(
        run: RunFolder,
        iteration: Iteration,
        overrides: list[Override] = [],  # noqa: B006  the form shows an empty list
        force: bool = False,
        into: BranchName = "",
        last: Evaluated = 0,
    ) -> list[Reference]:
        chosen = branch.run_for(
            Path(run), stage, iteration, overrides, into or None, force, last or None
        )
        async with opened(chosen) as (session, observer):
            made = []
            for number in range(iteration, (last or iteration) + 1):
                if STAGES[stage].due(session.run.config_at(number), number):
                    made.append(TASKS[stage](session.run.paths.root, number, force))
                    observer.publisher.publish(number)
            checkpoints.settle(session)
            return made

    # What the form shows is read off the function when it becomes a flow.
    run_stage.__doc__ = ABOUT.format(stage=stage)
    if STAGES[stage].of_start:
        run_stage.__annotations__["iteration"] = Evaluated
    return flow(name="icpo-stage", flow_run_name=name, persist_result=False)(run_stage)


STAGE_FLOWS = {stage: _stage_flow(stage) for stage in STAGES}
# An entrypoint of a deployment is a name in this module.
globals().update(STAGE_FLOWS)
