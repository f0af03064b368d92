"""What each stage reads: its inputs, its slice of the configuration, and the stages before it.

    prompts -> rollout -> verify -> select -> update -> evaluate -> checkpoint

A stage's fingerprint is made of these, so that changing a key makes again just the stages that read
it and what depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icpo_core.common.files import canonical_digest, sha256_file
from icpo_core.common.lock import RefusedError
from icpo_core.config import STAGES, Config, slice_of
from icpo_core.run.run import Run
from icpo_core.store.manifest import Manifest
from icpo_core.store.work import Standing, Status, Work

CODE_VERSIONS = dict.fromkeys(STAGES, 1) | {"evaluate": 2}
"""Bumped by hand when a stage's code makes other results of the same inputs."""

SAMPLED = frozenset({"rollout", "verify", "select"})
"""Stages that the policy which samples decides, and no later one."""

DRAWING = frozenset({"prompts", "rollout", "select"})
"""Stages that draw by the run's seed. An evaluation's seeds are those of every other run."""


class NotReadyError(ValueError):
    """A stage cannot be named yet, because one that it reads is not finished."""


def config_slice(config: Config, stage: str) -> dict[str, Any]:
    """The part of the configuration that can change the stage's result, by dotted key."""
    rollout = config.rollout
    if stage == "prompts":
        # Only whether the pool or the traces are used matters here, not how often.
        source = rollout.expert_source if rollout.expert else "none"
        return {"prompts": slice_of(config.prompts), "rollout.expert_source": source}
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
        engine = {"rollout.engine": slice_of(rollout.engine)}
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
    run = run.at(iteration)
    config = run.config
    inputs: dict[str, str | None] = {}
    parents: dict[str, str] = {}

    def parent(name: str, number: int) -> Manifest:
        found = run.store.finished(name, number)
        if found is None:
            raise NotReadyError(f"waits for {name} of iteration {number}")
        parents[found.fingerprint] = run.paths.place(name, number)
        return found

    def policy_after(number: int) -> str | None:
        return parent("update", number).policy_version if number else run.base_version

    if stage == "prompts":
        inputs |= {key: value for key, value in sources(config).items() if "prompts." in key}
        inputs["tokenizer"] = run.model_settings["tokenizer"]
    elif stage == "rollout":
        inputs["prompts"] = parent("prompts", iteration).content()
        inputs["policy"] = policy_after(sampling_policy(run, iteration))
        inputs |= run.model_settings
    elif stage == "verify":
        inputs["prompts"] = parent("prompts", iteration).content()
        inputs["rollouts"] = parent("rollout", iteration).content()
    elif stage == "select":
        inputs["prompts"] = parent("prompts", iteration).content()
        inputs["rollouts"] = parent("rollout", iteration).content()
        inputs["verdicts"] = parent("verify", iteration).content()
    elif stage == "update":
        inputs["batch"] = parent("select", iteration).record("batch.parquet").digest
        inputs["base"] = run.base_version
        inputs["model settings"] = run.model_settings["model settings"]
        inputs["state"] = run.base_version
        if iteration > 1:
            inputs["state"] = parent("update", iteration - 1).fingerprint
    elif stage == "evaluate":
        inputs["policy"] = policy_after(iteration)
        inputs |= run.model_settings
        inputs |= {key: value for key, value in sources(config).items() if "benchmark " in key}
    else:
        update = parent("update", iteration)
        inputs["update"] = update.content()
        inputs["state"] = update.fingerprint
    return Work(
        stage=stage,
        iteration=iteration,
        version=CODE_VERSIONS[stage],
        inputs=inputs,
        config=config_slice(config, stage),
        seed=run.seed if stage in DRAWING else None,
        parents=parents,
    )


def sampling_policy(run: Run, iteration: int) -> int:
    """The iteration after whose update the policy is that an iteration's rollouts are sampled from;
    0: the base model."""
    return max(0, iteration - 1 - run.at(iteration).config.rollout.off_policy_steps)


def state_id(run: Run, iteration: int) -> str:
    """Name of the trainer's state after an iteration: the fingerprint of the update that made it,
    or the base model's digest at the start. Raises NotReadyError if that update is not finished."""
    if iteration == 0:
        return run.base_version
    found = run.store.finished("update", iteration)
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
    after: str | None = None
    """Place of the first stage before it, on which it depends, that is to be made: if that comes
    out another, this one is made too, though it is done now."""


def status(run: Run, stage: str, iteration: int) -> Status:
    """How a stage stands; one that waits for another is `missing`."""
    try:
        return run.store.status(work(run, stage, iteration))
    except NotReadyError as reason:
        return Status(Standing.MISSING, str(reason))


def plan(run: Run, last: int | None = None) -> list[Step]:
    """Every stage of the run up to iteration `last` (default: all), in order, as it stands.

    What depends on a stage that must be made is judged by what is there now (`Step.after`): it may
    yet turn out to be the same work, and is then kept.
    """
    end = run.config.run.iterations if last is None else last
    steps: list[Step] = []
    to_make: list[tuple[str, int]] = []
    for iteration in range(end + 1):
        for stage in stages_of(run.at(iteration).config, iteration):
            found = status(run, stage, iteration)
            # Nothing before its iteration is read by the prompts.
            earlier = to_make if stage != "prompts" else []
            before = (one for one in earlier if _reads(run, stage, iteration, one[1]))
            after = next((run.paths.place(*one) for one in before), None)
            steps.append(Step(stage, iteration, found, after))
            # Nothing reads a checkpoint or an evaluation.
            if not found.done and stage not in ("evaluate", "checkpoint"):
                to_make.append((stage, iteration))
    return steps


def _reads(run: Run, stage: str, iteration: int, number: int) -> bool:
    """Whether a stage other than `prompts` depends, through others or not, on an earlier one of
    iteration `number` that something reads."""
    if stage in SAMPLED and number != iteration:
        # Of the iterations before, only what led to the policy that samples.
        return number <= sampling_policy(run, iteration)
    return True


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


def sources(config: Config) -> dict[str, str | None]:
    """Content digests of the data and the model that a configuration names, by key.

    Raises ValueError if a problem set is not there.
    """
    prompts = config.prompts
    pool = _pool(config)
    found: dict[str, str | None] = {
        "model.path": config.model.path,
        "prompts.problems": _file(prompts.problems),
        "prompts.demonstrations": _file(pool) if pool else None,
        "prompts.exclude": canonical_digest(sorted(map(_file, prompts.exclude))) if pool else None,
    }
    for benchmark in config.evaluate.benchmarks:
        found[f"benchmark {benchmark.name}"] = _file(benchmark.problems)
    return found


def _pool(config: Config) -> str | None:
    """The demonstrations that are used, if any are."""
    rollout = config.rollout
    in_context = rollout.expert > 0 and rollout.expert_source == "in_context"
    return config.prompts.demonstrations if in_context else None


_DIGESTS: dict[tuple[str, int, int], str] = {}


def _file(path: str) -> str:
    """Digest of a problem set's file, computed once while it does not change."""
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
