"""One training iteration: a Prefect subflow of seven tasks."""

from __future__ import annotations

from prefect import Task, flow, runtime
from prefect.context import FlowRunContext

from icpo_core import checkpoints, graph, metrics
from icpo_core.run import opened
from tasks import artifacts, stages


# Asynchronous, though nothing in it is: Prefect ends a synchronous flow by joining a thread that
# sleeps in whole seconds.
@flow(
    name="iteration",
    flow_run_name="it-{number:04d}",
    validate_parameters=False,
    persist_result=False,
)
async def iteration(run: str, number: int) -> dict[str, float]:
    """Make what is missing of an iteration; its figures. `run`: path of a run that is open here."""
    due = graph.stages_of(opened(run).at(number).config, number)
    if number:
        stages.prompts(run, number)
        artifacts.send(run)  # of the iteration before, while the engine samples
        stages.rollout(run, number)
        stages.verify(run, number)
        stages.select(run, number)
        stages.update(run, number)
    if "evaluate" in due:
        stages.evaluate(run, number)
    if number:
        stages.checkpoint(run, number)
    checkpoints.settle(opened(run))
    figures = metrics.record(opened(run), number)
    artifacts.publish(run, number)
    return figures


def number_anew() -> None:
    """Give the iterations of a retried flow run subflow runs of their own.

    Prefect hands a retry the finished subflow runs of the first try, by their place in the loop;
    a retry begins its loop where the run stopped. What is done is for the manifests to say.
    """
    tries = runtime.flow_run.run_count
    if tries > 1:
        context = FlowRunContext.get()
        assert context is not None
        context.task_run_dynamic_keys[Task(fn=iteration.fn).task_key] = tries * 1_000_000
