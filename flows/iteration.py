"""One training iteration: a Prefect subflow of seven tasks. Off-policy it has two more, the next
iteration's prompts and rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import Task, flow, runtime
from prefect.context import FlowRunContext

from icpo_core.run import checkpoints, plan
from icpo_core.run.perform import samples_ahead
from icpo_core.run.run import opened
from tasks import artifacts, stages


# Asynchronous, though nothing in it is: Prefect ends a synchronous flow by joining a thread that
# sleeps in whole seconds.
@flow(
    name="iteration",
    flow_run_name="it-{number:04d}",
    validate_parameters=False,
    persist_result=False,
)
async def iteration(run: str, number: int) -> None:
    """Make what is missing of an iteration. `run`: path of a run that is open here."""
    # It returns nothing: of all that a subflow returns, each number, Prefect keeps track until the
    # flow ends.
    due = plan.stages_of(opened(run).at(number).config, number)
    if number:
        stages.prompts(run, number)
        artifacts.send(run)  # of the iteration before, while the engine samples
        stages.rollout(run, number)
        stages.verify(run, number)
        stages.select(run, number)
        with sampling_ahead(run, number):
            stages.update(run, number)
    if "evaluate" in due:
        stages.evaluate(run, number)
    if number:
        stages.checkpoint(run, number)
    checkpoints.settle(opened(run))
    artifacts.publish(run, number)


@contextmanager
def sampling_ahead(run: str, number: int) -> Iterator[None]:
    """One-step off-policy: the next iteration is sampled while the body is at work."""
    if not samples_ahead(opened(run), number):
        yield
        return
    stages.prompts(run, number + 1)
    rollouts = stages.rollout.submit(run, number + 1)
    try:
        yield
        rollouts.result()
    except BaseException:  # also a signal: neither waits for the other's hour of work
        opened(run).interrupt()
        raise


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
