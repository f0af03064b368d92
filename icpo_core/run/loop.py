"""The training loop: the only one. Prefect, `icpo train --plain`, notebooks and tests drive it.

    for number in iterations(session):
        iterate(session, number)

`train` is just that. A driver with a frame of its own around an iteration, as a Prefect subflow,
writes these two lines itself; `do` is how it has a stage made, as a Prefect task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from icpo_core.run import checkpoints, metrics, plan
from icpo_core.run.perform import perform, samples_ahead
from icpo_core.run.session import Session
from icpo_core.run.stages import prompts
from icpo_core.run.stages.base import NotReadyError

Do = Callable[[Session, str, int], object]
"""Makes a stage of an iteration, as `perform` does."""


def train(session: Session, rerun: bool = False, do: Do = perform) -> None:
    """Train a run to its last iteration; what is finished is kept.

    rerun: replace, in place, what a changed configuration or data set makes otherwise.
    Raises ValueError for a user's mistake, WorkerError where a worker failed.
    """
    for number in iterations(session, rerun):
        iterate(session, number, do)


def iterations(session: Session, rerun: bool = False) -> Iterator[int]:
    """The iterations that are to be made. Whoever takes one has it made (`iterate`) before it asks
    for the next; then its figures are recorded."""
    run = session.run
    steps = plan.plan(run)
    if not rerun:
        plan.require_same(run, steps)
    session.keep_config()
    checkpoints.settle(session)
    first, last = plan.first_open(steps), run.config.run.iterations
    if first is None:
        return
    session.prepare(first)
    session.observer.begins(first)
    for number in range(first, last + 1):
        yield number
        session.observer.recorded(number, metrics.record(session, number))


def iterate(session: Session, number: int, do: Do = perform) -> None:
    """Make what is missing of an iteration, stage by stage, and remove what need not be kept."""
    try:
        for stage in plan.stages_of(session.run.config_at(number), number):
            if stage == "update":
                with _ahead(session, number, do):
                    do(session, stage, number)
            else:
                do(session, stage, number)
    except BaseException:  # also a signal: neither waits for the other's hour of work
        if session.sampler.busy:
            session.interrupt()
            session.sampler.close()
        raise
    checkpoints.settle(session)


@contextmanager
def _ahead(session: Session, number: int, do: Do) -> Iterator[None]:
    """While the trainer is at work the next prompts are drawn and, off-policy, the next iterations
    are sampled. The next one is waited for: nothing goes on without it. Those after it go on."""
    sampler, last = session.sampler, number
    while sampler.holds(last + 1) or samples_ahead(session, number, last + 1 - number):
        last += 1
        if sampler.holds(last):
            continue
        if last == number + 1:
            do(session, "prompts", last)
            sampler.start(last, partial(do, session, "rollout", last))
        else:  # its cursor may wait for what is sampled before it (`prompts.fill`)
            sampler.start(last, partial(_sample, session, last, do))
    _draw_ahead(session, last + 1)
    yield
    if last > number:
        sampler.wait(number + 1)


def _sample(session: Session, number: int, do: Do) -> None:
    do(session, "prompts", number)
    do(session, "rollout", number)


def _draw_ahead(session: Session, number: int) -> None:
    if number > session.run.config.run.iterations:
        return
    with suppress(NotReadyError):  # the cursor waits for what is sampled meanwhile
        prompts.make_ahead(session, plan.work(session.run, "prompts", number))
