"""What each stage reads: its inputs, its slice of the configuration, and the stages before it.

    prompts -> rollout -> verify -> select -> update -> evaluate -> checkpoint

A stage's fingerprint is made of these, so that changing a key makes again just the stages that read
it and what depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from icpo_core.config import STAGES, Config, slice_of
from icpo_core.files import sha256_file
from icpo_core.models import tokenizer_digest
from icpo_core.run import Run
from icpo_core.store import Standing, Status, Work

CODE_VERSIONS = dict.fromkeys(STAGES, 1) | {"evaluate": 2}
"""Bumped by hand when a stage's code makes other results of the same inputs."""


class NotReadyError(ValueError):
    """A stage cannot be named yet, because one that it reads is not finished."""


def config_slice(config: Config, stage: str) -> dict[str, Any]:
    """The part of the configuration that can change the stage's result, by dotted key."""
    rollout, engine = config.rollout, {"rollout.engine": slice_of(config.rollout.engine)}
    if stage == "prompts":
        # Only whether the pool or the traces are used matters here, not how often.
        source = rollout.expert_source if rollout.expert else "none"
        return {"prompts": slice_of(config.prompts), "expert": source}
    if stage == "rollout":
        return {"rollout": slice_of(rollout)}
    if stage == "verify":
        return {"verify": slice_of(config.verify)}
    if stage == "select":
        return {"select": slice_of(config.select)}
    if stage == "update":
        return {
            "loss": slice_of(config.loss),
            "update": slice_of(config.update),
            "rollout.temperature": rollout.temperature,
        }
    if stage == "evaluate":
        judging = {
            "verify.seconds": config.verify.seconds,
            "verify.memory_mb": config.verify.memory_mb,
        }
        prompts = {"prompts": template_settings(config)}
        return {"evaluate": slice_of(config.evaluate)} | engine | judging | prompts
    assert stage == "checkpoint", stage
    return {}


def template_settings(config: Config) -> dict[str, Any]:
    """The settings of `prompts` that shape a bare prompt."""
    names = {"format", "thinking", "instruction", "question_template", "example_template"}
    return config.prompts.model_dump(include=names)


def work(run: Run, stage: str, iteration: int) -> Work:
    """Name the work of a stage. Raises NotReadyError if a stage that it reads is not finished."""
    inputs: dict[str, str | None] = {}
    parents: list[str] = []

    def read(name: str, parent: str) -> None:
        found = run.store.manifest(parent, iteration)
        if found is None:
            raise NotReadyError(f"waits for {parent} of iteration {iteration}")
        inputs[name] = found.content()
        parents.append(found.fingerprint)

    def policy_after(number: int) -> str:
        if number == 0:
            return run.base_version
        found = run.store.manifest("update", number)
        if found is None:
            raise NotReadyError(f"waits for update of iteration {number}")
        parents.append(found.fingerprint)
        assert found.policy_version is not None
        return found.policy_version

    config = run.config
    if stage == "prompts":
        inputs |= _sources(run)
    elif stage == "rollout":
        read("prompts", "prompts")
        inputs["policy"] = policy_after(iteration - 1)
    elif stage == "verify":
        read("prompts", "prompts")
        read("rollouts", "rollout")
    elif stage == "select":
        for name, parent in (
            ("prompts", "prompts"),
            ("rollouts", "rollout"),
            ("verdicts", "verify"),
        ):
            read(name, parent)
    elif stage == "update":
        read("batch", "select")
        inputs["base"] = run.base_version
        inputs["state"] = state_id(run, iteration - 1)
    elif stage == "evaluate":
        inputs["policy"] = policy_after(iteration)
        inputs["tokenizer"] = tokenizer_digest(run.base_model)
        for benchmark in config.evaluate.benchmarks:
            inputs[f"benchmark {benchmark.name}"] = _file(benchmark.problems)
    else:
        read("update", "update")
    return Work(
        stage=stage,
        iteration=iteration,
        version=CODE_VERSIONS[stage],
        inputs=inputs,
        config=config_slice(config, stage),
        seed=run.seed,
        parents=parents,
    )


def state_id(run: Run, iteration: int) -> str:
    """Name of the trainer's state after an iteration: the fingerprint of the update that made it,
    or the base model's digest at the start. Raises NotReadyError if that update is not finished."""
    if iteration == 0:
        return run.base_version
    found = run.store.manifest("update", iteration)
    if found is None:
        raise NotReadyError(f"waits for update of iteration {iteration}")
    return found.fingerprint


def stages_of(config: Config, iteration: int) -> tuple[str, ...]:
    """The stages that an iteration has, in order; iteration 0 is the untrained model's."""
    every, last = config.evaluate.every, config.run.iterations
    due = every and config.evaluate.benchmarks and (iteration % every == 0 or iteration == last)
    if iteration == 0:
        return ("evaluate",) if due and config.evaluate.at_start else ()
    return tuple(stage for stage in STAGES if stage != "evaluate" or due)


@dataclass(frozen=True)
class Step:
    """A stage of an iteration and how it stands."""

    stage: str
    iteration: int
    status: Status


def status(run: Run, stage: str, iteration: int) -> Status:
    """How a stage stands; one that waits for another is `missing`."""
    try:
        return run.store.status(work(run, stage, iteration))
    except NotReadyError as reason:
        return Status(Standing.MISSING, str(reason))


def plan(run: Run, last: int | None = None) -> list[Step]:
    """Every stage of the run up to iteration `last` (default: all), in order, as it stands.

    What depends on a stage that must be made is judged by what is there now: it may yet turn out
    to be the same work, and is then kept.
    """
    end = run.config.run.iterations if last is None else last
    return [
        Step(stage, iteration, status(run, stage, iteration))
        for iteration in range(end + 1)
        for stage in stages_of(run.config, iteration)
    ]


def require_same(run: Run, rerun: bool) -> None:
    """Refuse to replace what a run has stored without being told to.

    Raises ValueError, with the first reason, if stages were made from something else than what the
    run would be made from now, unless `rerun`.
    """
    if rerun:
        return
    stale = [step for step in plan(run) if step.status.standing is Standing.STALE]
    if stale:
        first = stale[0]
        more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
        raise ValueError(
            f"{run.paths.root}: {first.stage} of iteration {first.iteration}{more} would be made "
            f"again ({first.status.reason}): put it back, choose another --run NAME, or replace "
            "what is stored with --rerun"
        )


def first_open(run: Run) -> int | None:
    """The first iteration with a stage that is not done; None if the run is finished."""
    for iteration in range(run.config.run.iterations + 1):
        for stage in stages_of(run.config, iteration):
            if not status(run, stage, iteration).done:
                return iteration
    return None


def _sources(run: Run) -> dict[str, str | None]:
    prompts = run.config.prompts
    uses_pool = run.config.rollout.expert and run.config.rollout.expert_source == "in_context"
    pool = prompts.demonstrations if uses_pool else None
    sources: dict[str, str | None] = {
        "problems": _file(prompts.problems),
        "demonstrations": _file(pool) if pool else None,
        "tokenizer": tokenizer_digest(run.base_model),
    }
    if pool:
        for number, path in enumerate(prompts.exclude):
            sources[f"exclude {number}"] = _file(path)
    return sources


_DIGESTS: dict[tuple[str, int, int], str] = {}


def _file(path: str) -> str:
    """Digest of a problem set's file, computed once while it does not change."""
    from pathlib import Path

    try:
        facts = Path(path).stat()
        key = (path, facts.st_size, facts.st_mtime_ns)
        if key not in _DIGESTS:
            _DIGESTS[key] = sha256_file(Path(path))
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror or error}; check the path, or make the file with "
            "`icpo data prepare`"
        ) from None
    return _DIGESTS[key]
