"""What a run is made from beside its configuration: the data and the model that it names."""

from __future__ import annotations

import os
from pathlib import Path

from icpo_core.common.files import canonical_digest, read_json, sha256_file
from icpo_core.config import Config, check_plugins, combinations
from icpo_core.evaluation import benchmarks
from icpo_core.method import gym
from icpo_core.method.problems import read_problems
from icpo_core.mirror.object_store import ObjectStore
from icpo_core.models import tokens
from icpo_core.run.run import Run
from icpo_core.run.trackers import require_installed
from icpo_core.workers.environment import endpoint_key

POOL = ("prompts.demonstrations", "prompts.exclude")


def sources(config: Config) -> dict[str, str | None]:
    """Content digests of the data and the model that a configuration names, by key.

    Raises ValueError if a problem set is not there.
    """
    prompts = config.prompts
    rollout = config.rollout
    in_context = rollout.expert > 0 and rollout.expert_source == "in_context"
    pool = prompts.demonstrations if in_context else None
    found: dict[str, str | None] = {
        "model.path": config.model.path,
        **problems_of(config),
        **(pool_of(config) if pool else dict.fromkeys(POOL)),
    }
    for benchmark in config.evaluate.benchmarks:
        found[f"benchmark {benchmark.name}"] = _file(benchmark.problems)
    return found


def problems_of(config: Config) -> dict[str, str | None]:
    """Digest of the training problems."""
    return {"prompts.problems": _file(config.prompts.problems)}


def pool_of(config: Config) -> dict[str, str | None]:
    """Digests of the demonstrations, and of what is never shown."""
    prompts = config.prompts
    pool = _file(prompts.demonstrations) if prompts.demonstrations else None
    return dict(
        zip(POOL, (pool, canonical_digest(sorted(map(_file, prompts.exclude)))), strict=True)
    )


def require_room(config: Config, model: Path) -> None:
    """Raises ValueError for sequences longer than a model's positions, which vLLM would refuse once
    it has started. Positions that are scaled are left to it."""
    engine, said = config.rollout.engine, read_json(model / "config.json")
    text = said.get("text_config", said)
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    plain = rope.get("rope_type", rope.get("type", "default")) == "default"
    plain = plain and not any(isinstance(value, dict) for value in rope.values())
    most, known = text.get("max_position_embeddings"), engine.kind == "vllm" and plain
    allowed = config.rollout.endpoints or os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN")
    if known and isinstance(most, int) and engine.max_model_len > most and not allowed:
        raise ValueError(
            f"rollout.engine.max_model_len = {engine.max_model_len} is more than the {most} "
            f"positions of {model}: lower it"
        )


def require(run: Run) -> list[str]:
    """What should be known of the model before anything is started, a line each.

    Raises ValueError, in one line, if the model or a problem set is not available or cannot serve.
    Reads what is cheap to read."""
    config = run.config
    prompts = config.prompts
    check_plugins(config)
    combinations.require_use(config)
    assert run.base_version
    found = tokens.read(run.base_model)
    if faults := found.faults(prompts.templated):
        raise ValueError(faults[0])
    require_room(config, run.base_model)
    require_installed(config)
    problems = read_problems(prompts.problems)
    scored = config.verify.verifier not in ("math", "math-verify", "choice", "code")
    if prompts.problems.startswith(gym.PREFIX) and not (scored or config.verify.rewards):
        raise ValueError(
            f"{prompts.problems}: its answers are for its own scorers; set verify.verifier = "
            "'reasoning-gym'"
        )
    if prompts.batch_size > problems.num_rows:
        raise ValueError(
            f"prompts.batch_size = {prompts.batch_size} is more than the {problems.num_rows} "
            f"problems of {prompts.problems}: lower it, or give more problems"
        )
    if prompts.demonstrations and (config.rollout.expert or config.loss.distills):
        pool = read_problems(prompts.demonstrations)
        if pool["solution"].null_count == pool.num_rows:
            raise ValueError(
                f"{prompts.demonstrations}: none of its rows has a solution, so none can be "
                "shown; fill column solution, or give another prompts.demonstrations"
            )
        if config.rollout.expert and prompts.k > pool.num_rows:
            raise ValueError(
                f"prompts.k = {prompts.k} is more than the {pool.num_rows} demonstrations of "
                f"{prompts.demonstrations}: lower it, or give a larger pool"
            )
    solutions = config.loss.distills and config.loss.distill.context == "solution"
    if solutions and problems["solution"].null_count == problems.num_rows:
        raise ValueError(
            f"{prompts.problems}: none of its rows has a solution for loss.distill.context = "
            "solution; fill column solution, or show demonstrations"
        )
    for path in prompts.exclude:
        read_problems(path)
    for address in config.rollout.endpoints:
        endpoint_key(address)
    if config.run.mirror:
        ObjectStore(run.mirror_url)
    for benchmark in config.evaluate.benchmarks:
        benchmarks.read(benchmark.name, benchmark.problems)
    empty = config.rollout.shards - prompts.batch_size
    line = (
        f"rollout.shards = {config.rollout.shards}: {empty} of them stay empty, since a shard "
        f"holds whole groups and prompts.batch_size = {prompts.batch_size}"
    )
    return [*found.notes(), *([line] if empty > 0 else [])]


_DIGESTS: dict[tuple[str, int, int], str] = {}


def _file(path: str) -> str:
    """Digest of a problem set's file, computed once while it does not change."""
    if path.startswith(gym.PREFIX):
        return gym.digest(path)
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
