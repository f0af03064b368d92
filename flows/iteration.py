"""One training iteration: a Prefect subflow of seven tasks. Off-policy it has two more, the next
iteration's prompts and rollouts."""

from __future__ import annotations

from pathlib import Path

from prefect import Task, flow, runtime
from prefect.context import FlowRunContext

from icpo.flows.observer import FlowObserver
from icpo.tasks.stages import TASKS
from icpo_core.run import loop
from icpo_core.run.session import Session, current


# Asynchronous, though nothing in it is: Prefect ends a synchronous flow by joining a thread that
# sleeps in whole seconds.
@flow(
    name="iteration",
    flow_run_name="it-{number:04d} of {run.name}",
    validate_parameters=False,
    persist_result=False,
)
async def iteration(run: Path, number: int) -> None:
    """Make what is missing of an iteration. `run`: path of the run that is open here."""
    # It returns nothing: of all that a subflow returns, each number, Prefect keeps track until the
    # flow ends.
    session = current()
    observer = session.observer
    assert isinstance(observer, FlowObserver)

    def as_task(session: Session, stage: str, number: int) -> None:
        if stage == "rollout":
            observer.publisher.send()  # of the iteration before, while the engine samples
        TASKS[stage](run, number)

    loop.iterate(session, number, as_task)
    observer.publisher.publish(number)


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
