"""What a run cost, stage by stage, and what it did not pay again when it went on or branched.

Seconds are those of the manifests: of a stage that was made in several attempts, the last one's.
Device-seconds count a stage's engines or ranks for as long as it took, busy or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from functools import partial
from typing import Any

from icpo_core.config import Config
from icpo_core.run.run import Run
from icpo_core.run.stages import STAGES
from icpo_core.store import run_record
from icpo_core.store.manifest import Manifest
from icpo_core.store.paths import MANIFEST
from icpo_core.views.index import Index, marked


@dataclass
class Spent:
    """On one stage in all iterations, or on all stages."""

    stage: str
    times: int = 0
    seconds: float = 0.0
    device_seconds: float = 0.0
    tokens: int = 0
    """Sampled."""
    resumed_seconds: float = 0.0
    """Of these, seconds of what an earlier attempt had finished, so that the last one kept it."""
    resumed_device_seconds: float = 0.0
    inherited_seconds: float = 0.0
    """Beside these, seconds of what the run that this one branched from had made."""
    inherited_device_seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def devices(config: Config, stage: str) -> int:
    """How many engines' devices, or ranks, a stage keeps; 0: none."""
    if stage in ("rollout", "evaluate"):
        return max(1, config.rollout.engines) * config.rollout.engine.tensor_parallel
    return max(1, config.update.ranks) if stage in ("update", "teach") else 0


@dataclass(frozen=True)
class _Made:
    """What counts of a finished stage."""

    started: float
    seconds: float
    tokens: int
    """Sampled, of rollouts."""
    attempt: float | None

    @classmethod
    def of(cls, made: Manifest) -> _Made:
        tokens = int(_number(made.facts.get("tokens"))) if made.stage == "rollout" else 0
        attempt = made.facts.get("attempt")
        return cls(
            made.started, made.seconds, tokens, None if attempt is None else _number(attempt)
        )


def of_run(run: Run) -> list[Spent]:
    """By stage, in their order, those that a run has; all together last."""
    record = run_record.read(run.paths) or {}
    attempts = record.get("attempts") or []
    # What was there before a branch's first attempt is another run's.
    branched = record.get("branch") is not None and attempts
    born = _number(attempts[0].get("started")) if branched else 0.0
    last = len(attempts)
    found = {stage: Spent(stage) for stage in STAGES}
    for number, stages in _read(run):
        for stage, made in stages.items():
            spent = found[stage]
            held = made.seconds * devices(run.config_at(number), stage)
            if made.started < born:
                spent.inherited_seconds += made.seconds
                spent.inherited_device_seconds += held
                continue
            spent.times += 1
            spent.seconds += made.seconds
            spent.device_seconds += held
            spent.tokens += made.tokens
            if made.attempt is not None and made.attempt < last:
                spent.resumed_seconds += made.seconds
                spent.resumed_device_seconds += held
    rows = [one for one in found.values() if one.times or one.inherited_seconds]
    whole = Spent("all")
    for one in rows:
        for name, value in one.as_json().items():
            if name != "stage":
                setattr(whole, name, getattr(whole, name) + value)
    return [*rows, whole]


def _read(run: Run) -> Iterator[tuple[int, dict[str, _Made]]]:
    """What every iteration's manifests say, each read again only where it changed."""
    with Index("cost", run.paths.root, _Made) as index:
        for number in run.paths.iterations():
            files = [f"{run.paths.iteration(number)}/{stage}/{MANIFEST}" for stage in STAGES]
            said = index.get(str(number), partial(marked, *files), partial(_said, run, number))
            yield number, {stage: _Made(*values) for stage, values in said.items()}


def _said(run: Run, number: int) -> dict[str, list[Any]]:
    found = {stage: run.store.finished(stage, number) for stage in STAGES}
    return {
        stage: list(astuple(_Made.of(made))) for stage, made in found.items() if made is not None
    }


def _number(value: Any) -> float:
    """Of what somebody else may have written; anything but a number counts as nothing."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
