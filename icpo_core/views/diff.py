"""Two runs side by side: what their configurations, figures and rows have not in common."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from icpo_core.run import metrics
from icpo_core.run.run import Run
from icpo_core.run.stages import STAGES
from icpo_core.store.manifest import Manifest
from icpo_core.store.paths import EXPERT_TOKENS
from icpo_core.views import rollouts

OPERATIONAL = ("run.name", "run.directory")
"""Keys in which any two runs differ."""


@dataclass(frozen=True)
class RowChange:
    """A rollout that fared otherwise in the other run, though both have it."""

    prompt_id: str
    sample_index: int
    origin: str
    a: dict[str, Any]
    b: dict[str, Any]
    """The fields that differ: response, status, reward, advantage or reason."""


@dataclass(frozen=True)
class Rows:
    """Rollouts of one iteration in both runs."""

    iteration: int
    common: int
    """Rollouts that both have, by prompt, index and origin."""
    only_a: int
    only_b: int
    changes: list[RowChange]


@dataclass(frozen=True)
class Differences:
    """From run a to run b."""

    config: dict[str, tuple[Any, Any]]
    """Values by dotted key."""
    iteration: int | None
    """Newest iteration that both have figures of."""
    figures: dict[str, tuple[float | None, float | None]]
    """The figures of that iteration by name, without times."""
    same_until: str | None
    """Place of the last stage, in their order, that made the same in both."""
    differ_at: str | None
    """Place of the first that did not; None if there is none."""
    rows: Rows | None = field(default=None)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def between(a: Run, b: Run, iteration: int | None = None) -> Differences:
    """Compare two runs. Rows are those of `iteration`, or of the first in which a stage with rows
    differs. Raises ValueError if a file that is needed is damaged."""
    same_until, differ_at, first = _first_difference(a, b)
    chosen = iteration if iteration is not None else first
    rows = None
    if chosen and all(run.store.finished("rollout", chosen) for run in (a, b)):
        rows = _rows(a, b, chosen)
    figures_a = {int(row["iteration"]): row for row in metrics.read(a.paths)}
    figures_b = {int(row["iteration"]): row for row in metrics.read(b.paths)}
    common = sorted(figures_a.keys() & figures_b.keys())
    at = iteration if iteration in common else (common[-1] if common else None)
    figures = {}
    if at is not None:
        for name in sorted(figures_a[at].keys() | figures_b[at].keys()):
            if name != "iteration" and "seconds" not in name:
                figures[name] = figures_a[at].get(name), figures_b[at].get(name)
    return Differences(_configs(a, b), at, figures, same_until, differ_at, rows)


def _configs(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    ours = flat(a.config.model_dump(mode="json"))
    theirs = flat(b.config.model_dump(mode="json"))
    return {
        key: (ours.get(key), theirs.get(key))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key) and key not in OPERATIONAL
    }


def flat(part: Any, prefix: str = "") -> dict[str, Any]:
    """Values of nested tables by dotted key."""
    if not isinstance(part, dict) or not part:
        return {prefix: part}
    found: dict[str, Any] = {}
    for key, value in part.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else key)
    return found


def _first_difference(a: Run, b: Run) -> tuple[str | None, str | None, int | None]:
    """Place of the last stage that made the same, of the first that did not, and its iteration."""
    same = None
    for number in sorted(set(a.paths.iterations()) & set(b.paths.iterations())):
        for stage in STAGES:
            ours, theirs = a.store.finished(stage, number), b.store.finished(stage, number)
            if ours is None or theirs is None or stage == "checkpoint":
                continue
            if _made(ours) != _made(theirs):
                return same, a.paths.place(stage, number), number
            same = a.paths.place(stage, number)
    return same, None, None


def _made(found: Manifest) -> dict[str, str]:
    """Digests of what a stage made, without what an earlier version did not write."""
    return {one.name: one.digest for one in found.files if one.name != EXPERT_TOKENS}


def _rows(a: Run, b: Run, iteration: int) -> Rows:
    ours, theirs = _by_key(a, iteration), _by_key(b, iteration)
    changes = []
    for key in sorted(ours.keys() & theirs.keys()):
        before, after = ours[key], theirs[key]
        names = [name for name in before if not _same(before[name], after[name])]
        if names:
            changes.append(
                RowChange(
                    *key,
                    a={name: before[name] for name in names},
                    b={name: after[name] for name in names},
                )
            )
    common = len(ours.keys() & theirs.keys())
    return Rows(iteration, common, len(ours) - common, len(theirs) - common, changes)


def _by_key(run: Run, iteration: int) -> dict[rollouts.Key, dict[str, Any]]:
    return {
        (group.prompt_id, one.sample_index, one.origin): {
            "response": one.response,
            "status": one.status,
            "reward": one.reward,
            "advantage": one.advantage,
            "reason": one.reason,
        }
        for group in rollouts.read(run, iteration)
        for one in group.rollouts
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return bool(a == b)
