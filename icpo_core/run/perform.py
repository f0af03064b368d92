"""One stage of one iteration: skipped if it is done, made if not, with what it needs first."""

from __future__ import annotations

import time
from contextlib import nullcontext

from icpo_core.run import checkpoints, plan
from icpo_core.run.session import Session
from icpo_core.run.stages import STAGES, update
from icpo_core.run.stages.base import NotReadyError
from icpo_core.store.work import Outcome


def perform(session: Session, stage: str, iteration: int, force: bool = False) -> Outcome:
    """Make a stage of an iteration unless it is done; skip it, and say so, if it is.

    force: make all of it, although it is done.
    Raises ValueError for a user's mistake, WorkerError where a worker failed.
    """
    run, spec, say = session.run, STAGES[stage], session.observer.decision
    if not spec.wanted(run.config_at(iteration)):
        raise ValueError(
            f"{run.paths.root}: its configuration asks for no stage {stage} "
            "(docs/method.md says what does)"
        )
    started, clock = time.time(), time.monotonic()
    session.ahead.settle(stage, iteration)
    try:
        work = plan.work(run, stage, iteration)
    except NotReadyError as wait:
        raise ValueError(
            f"{run.paths.root}: {stage} of iteration {iteration} {wait}; "
            f"`icpo plan {run.paths.root}` shows what comes first"
        ) from None
    status = run.store.status(work)
    if status.done and not force:
        assert status.manifest is not None
        say(f"{stage} {iteration}: skipped, {status.reason}")
        return Outcome(stage, iteration, status.manifest, False, status.reason)
    reason = "forced" if status.done else status.reason
    say(f"{stage} {iteration}: {reason}")
    spec.withdraw(run, iteration)
    run.store.begin(work, afresh=status.done)
    _provide(session, stage, iteration)
    # Off-policy, an evaluation waits for the rollouts under way, and others for it.
    with session.engines if spec.samples else nullcontext():
        made = spec.make(session, work)
    manifest = run.store.commit(
        work,
        started,
        time.monotonic() - clock,
        made.facts | {"attempt": session.attempt},
        made.policy_version,
        session.observer.ids(),
        made.known,
    )
    return Outcome(stage, iteration, manifest, True, reason)


def samples_ahead(session: Session, iteration: int, by: int = 1) -> bool:
    """Whether the iteration that comes `by` after this one is to be sampled while the update of
    this one is made: off-policy, unless one of both takes the workers of an earlier era first, to
    make weights or a state again. Devices and memory are for one set of workers."""
    run, following = session.run, iteration + by
    if following > run.config.run.iterations or not run.same_era(following, iteration):
        return False
    policy = run.sampling_policy(following)
    return (
        policy < iteration
        and (policy == 0 or run.has_weights(policy) or plan.status(run, "rollout", following).done)
        and checkpoints.bridge_needed(session, iteration - 1, iteration) is None
    )


def recover(session: Session, iteration: int) -> None:
    """Make the weights of an update again that retention removed, from the batches that are stored.

    Raises ValueError if they do not come out byte for byte as they were.
    """
    found = session.run.store.manifest("update", iteration)
    assert found is not None
    names = [one.name for one in found.files if one.name.startswith("model/")]
    session.observer.decision(f"weights of iteration {iteration}: made again, they were pruned")
    _bridge(session, iteration - 1, iteration)
    job = update.job(session, iteration, found.fingerprint, found.inputs)
    session.tools(iteration).workers.train(job)
    session.run.store.restore("update", iteration, names)


def _provide(session: Session, stage: str, iteration: int) -> None:
    """Make what a stage needs of earlier ones again, if it was pruned or was never saved."""
    run, spec = session.run, STAGES[stage]
    weights = spec.weights(run, iteration)
    if weights and run.store.finished("update", weights) and not run.has_weights(weights):
        recover(session, weights)
    state = spec.state(run, iteration)
    if state is not None:
        _bridge(session, state, iteration)


def _bridge(session: Session, iteration: int, of: int) -> None:
    """Save the state at the end of an earlier era, if the trainer `of` an iteration would have to
    replay batches of it: only a trainer with that era's settings comes to the same weights."""
    last = checkpoints.bridge_needed(session, iteration, of)
    if last is not None:
        session.observer.decision(
            f"checkpoint {last}: made again with the trainer's state, to branch from"
        )
        perform(session, "checkpoint", last, force=True)
