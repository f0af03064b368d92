"""Which work there is, how it stands, and what depends on what: derived from the list of stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from icpo_core.common.lock import RefusedError
from icpo_core.config import Config, plugin_sources
from icpo_core.run.run import Run
from icpo_core.run.stages import STAGES
from icpo_core.run.stages.base import NotReadyError, Reader, Tracer
from icpo_core.store import manifest
from icpo_core.store.work import Standing, Status, Work


def config_slice(config: Config, stage: str) -> dict[str, Any]:
    """The part of the configuration that can change the stage's result, by dotted key."""
    return STAGES[stage].settings(config)


def work(run: Run, stage: str, iteration: int) -> Work:
    """Name the work of a stage. Raises NotReadyError if a stage that it reads is not finished."""
    spec, run = STAGES[stage], run.at(iteration)
    reader, sources = Reader(run, iteration), plugin_sources(run.config, stage)
    part, seed = spec.settings(run.config), run.seed if spec.draws else None
    return Work(
        stage=stage,
        iteration=iteration,
        version=spec.version,
        inputs={**spec.reads(reader), **sources},
        config=part,
        seed=seed,
        parents=reader.parents,
        parts={
            name: manifest.fingerprint(
                stage, iteration, spec.version, {**inputs, **sources}, part, seed
            )
            for name, inputs in spec.parts(reader).items()
        },
    )


def reads(run: Run, stage: str, iteration: int) -> list[tuple[str, int]]:
    """The stages that a stage reads, finished or not, each with its iteration."""
    tracer = Tracer(run.at(iteration), iteration)
    STAGES[stage].reads(tracer)
    return tracer.asked


def before(run: Run, stage: str, iteration: int) -> tuple[str, ...]:
    """The stages of its own iteration that a stage depends on, through others or not, in order."""
    found: set[str] = set()
    ask = [stage]
    while ask:
        for name, number in reads(run, ask.pop(), iteration):
            if number == iteration and name not in found:
                found.add(name)
                ask.append(name)
    return tuple(name for name in STAGES if name in found)


def leaves(run: Run, iteration: int) -> tuple[str, ...]:
    """Stages of an iteration that no stage of it reads."""
    there = [name for name, stage in STAGES.items() if stage.wanted(run.at(iteration).config)]
    read = {name for stage in there for name, _ in reads(run, stage, iteration)}
    return tuple(stage for stage in there if stage not in read)


def stages_of(config: Config, iteration: int) -> tuple[str, ...]:
    """The stages that an iteration has, in order; iteration 0 is the untrained model's."""
    return tuple(
        name
        for name, stage in STAGES.items()
        if stage.wanted(config) and stage.due(config, iteration)
    )


@dataclass(frozen=True)
class Step:
    """A stage of an iteration and how it stands."""

    stage: str
    iteration: int
    status: Status
    after: str | None = None
    """Place of the first stage before it, on which it depends, that is to be made: if that comes
    out another, this one is made too, though it is done now."""


Look = Callable[[Run, str, int], Status]


def status(run: Run, stage: str, iteration: int) -> Status:
    """How a stage stands; one that waits for another is `missing`."""
    run = run.at(iteration)
    try:
        return run.store.status(work(run, stage, iteration))
    except NotReadyError as reason:
        # What it waits for may be new with its own settings: `teach` is, with self-distillation.
        found, part = run.store.finished(stage, iteration), STAGES[stage].settings(run.config)
        if found is None or found.config == part:
            return Status(Standing.MISSING, str(reason))
        same = found.code_version, found.inputs, part, found.seed
        return Status(Standing.STALE, manifest.why_different(found, *same), found)


def plan(run: Run, last: int | None = None, look: Look = status) -> list[Step]:
    """Every stage of the run up to iteration `last` (default: all), in order, as it stands.

    `look`: says how a stage stands.

    What depends on a stage that must be made is judged by what is there now (`Step.after`): it may
    yet turn out to be the same work, and is then kept.
    """
    end = run.config.run.iterations if last is None else last
    steps: list[Step] = []
    first: dict[tuple[str, int], int] = {}  # of each stage: the first step to be made that it needs
    for iteration in range(end + 1):
        for stage in stages_of(run.config_at(iteration), iteration):
            found = look(run, stage, iteration)
            read = reads(run, stage, iteration) if first else []
            waits = [first[one] for one in read if one in first]
            after = steps[min(waits)] if waits else None
            place = run.paths.place(after.stage, after.iteration) if after else None
            waits += [] if found.done else [len(steps)]
            if waits:
                first[stage, iteration] = min(waits)
            steps.append(Step(stage, iteration, found, place))
    return steps


def first_open(steps: list[Step]) -> int | None:
    """The first iteration with a stage that is not done; None if the run is finished."""
    return next((step.iteration for step in steps if not step.status.done), None)


def require_same(run: Run, steps: list[Step]) -> None:
    """Refuse to replace what a run has stored without being told to.

    Raises RefusedError, with the first reason, if stages were made from something else than what
    the run would be made from now.
    """
    stale = [step for step in steps if step.status.standing is Standing.STALE]
    if stale:
        first = stale[0]
        more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
        raise RefusedError(
            f"{run.paths.root}: {first.stage} of iteration {first.iteration}{more} would be made "
            f"again ({first.status.reason}): put it back, choose another --run NAME, or replace "
            "what is stored with --rerun"
        )
