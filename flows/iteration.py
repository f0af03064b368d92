"""One training iteration: a Prefect subflow of seven tasks."""

from __future__ import annotations

from prefect import flow

from icpo_core import checkpoints, graph, metrics
from icpo_core.run import opened
from tasks import stages


# Asynchronous, though nothing in it is: Prefect ends a synchronous flow by joining a thread that
# sleeps in whole seconds.
@flow(name="iteration", flow_run_name="it-{number:04d}", validate_parameters=False)
async def iteration(run: str, number: int) -> dict[str, float]:
    """Make what is missing of an iteration; its figures. `run`: path of a run that is open here."""
    due = graph.stages_of(opened(run).at(number).config, number)
    if number:
        stages.prompts(run, number)
        stages.rollout(run, number)
        stages.verify(run, number)
        stages.select(run, number)
        stages.update(run, number)
    if "evaluate" in due:
        stages.evaluate(run, number)
    if number:
        stages.checkpoint(run, number)
    checkpoints.settle(opened(run))
    return metrics.record(opened(run), number)
