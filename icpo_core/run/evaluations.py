"""Evaluations of a run: its policies as targets, how they went, which is best, whether one fell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icpo_core.common import files
from icpo_core.evaluation import steerability
from icpo_core.evaluation.comparison import Comparison, compare, some
from icpo_core.evaluation.evaluator import stored
from icpo_core.evaluation.target import Target
from icpo_core.models import folder as models
from icpo_core.run import trust
from icpo_core.run.run import Run
from icpo_core.store.paths import RunPaths

FELL_P = 0.01
"""A fall counts if chance gives one as large this rarely: the best of many is there by luck too."""
FELL_BY = 0.01
"""And if accuracy is lower by this much."""


@dataclass(frozen=True)
class Change:
    """An evaluation against the best one before it."""

    iteration: int
    """Of the best one before."""
    comparison: Comparison

    @property
    def fell(self) -> bool:
        return fell(self.comparison)

    @property
    def words(self) -> str:
        (before, now), lost = self.comparison.accuracy, self.comparison.lost
        return (
            f"fell from {before:.1%} (iteration {self.iteration}) to {now:.1%}, "
            f"p = {self.comparison.p_value:.2g}"
        ) + (f"; lost {len(lost)} problems{some(lost)}" if lost else "")


@dataclass(frozen=True)
class Point:
    """An evaluation of a run after an iteration."""

    iteration: int
    benchmark: str
    protocol: str
    """`training` for the stage's own, else the name of the protocol."""
    figures: dict[str, Any]
    """As `scores.scores` gives them."""

    def value(self, metric: str) -> float | None:
        """`accuracy`, or one by its k as `pass@8`; None if it was not computed."""
        if metric in self.figures:
            return float(self.figures[metric])
        name, _, k = metric.partition("@")
        found = self.figures.get(f"{name}@k", {}).get(k)
        return None if found is None else float(found["value"])


def _start(run: Run) -> str:
    """Digest of the base model, as the run recorded it: its folder may be gone."""
    for stage, number in (("rollout", 1), ("evaluate", 0)):
        made = run.store.finished(stage, number)
        if made is not None and (version := made.inputs.get("policy")):
            return str(version)
    return run.base_version


def history(run: Run, evaluations: Path) -> list[Point]:
    """All evaluations of a run's policies, by iteration: those of training, and those below
    `evaluations` of models with the same digest; a probe's, with examples or on training problems,
    are none."""
    points, versions = [], {_start(run): 0}
    for number in run.paths.iterations():
        updated = run.store.finished("update", number)
        if updated is not None and updated.policy_version is not None:
            # An update without a signal leaves the weights of the iteration before.
            versions.setdefault(updated.policy_version, number)
        if run.store.finished("evaluate", number) is not None:
            scores = files.read_json(run.store.file("evaluate", number, "scores.json"))
            points += [Point(number, name, "training", one) for name, one in scores.items()]
    for path, record in stored(evaluations):
        at = versions.get(str(record.inputs["model"]))
        if at is not None and record.facts["protocol"] != steerability.NAME:
            protocol = f"{record.facts['protocol']} {path.stem}"
            points.append(Point(at, record.config["benchmark"], protocol, files.read_json(path)))
    return sorted(points, key=lambda one: (one.benchmark, one.protocol, one.iteration))


def best(points: Sequence[Point], metric: str = "accuracy") -> Point | None:
    """The point with the highest figure, the later of equals."""
    valued = [(value, one.iteration, at) for at, one in enumerate(points)
              if (value := one.value(metric)) is not None]  # fmt: skip
    return points[max(valued)[2]] if valued else None


def fell(comparison: Comparison) -> bool:
    """Whether the second is worse than the first by more than chance and by more than a trifle."""
    return comparison.p_value < FELL_P and comparison.difference <= -FELL_BY


def against_best(run: Run, iteration: int, benchmark: str, samples: pa.Table) -> Change | None:
    """The samples of an iteration's evaluation against those of the best one before it in the same
    run, by accuracy on the benchmark; None if there is none before."""
    best: tuple[float, int] | None = None
    for number in run.paths.iterations():
        if number >= iteration:
            break
        found = run.store.finished("evaluate", number)
        accuracy = None if found is None else found.facts.get(f"accuracy/{benchmark}")
        if accuracy is not None and (best is None or accuracy >= best[0]):
            best = (accuracy, number)
    if best is None:
        return None
    before = rewards(run, best[1], benchmark)
    now = samples.filter(pc.equal(samples["benchmark"], benchmark))
    if not set(before["prompt_id"].to_pylist()) & set(now["prompt_id"].to_pylist()):
        return None  # another problem set under the same name
    return Change(best[1], compare(before, now))


def rewards(run: Run, iteration: int, benchmark: str) -> pa.Table:
    """Problem and reward of each sample of a stored evaluation; raises ValueError if it is gone."""
    path = run.store.file("evaluate", iteration, "samples.parquet")
    columns = ["benchmark", "prompt_id", "reward"]
    table = pq.read_table(path, columns=columns, partitioning=None)
    return table.filter(pc.equal(table["benchmark"], benchmark))


def target(text: str) -> Target:
    """The target that `text` names: `FOLDER`, `OWNER/MODEL`, `RUN` (its newest checkpoint) or
    `RUN@ITERATION` (0: the untrained model).

    Raises ValueError with one line that names the mend.
    """
    place, _, number = text.rpartition("@")
    if place and number.isdecimal() and RunPaths(Path(place)).record.is_file():
        return of_run(Run.read(Path(place)), int(number))
    if RunPaths(Path(text)).record.is_file():
        run = Run.read(Path(text))
        whole = checkpointed(run)
        return of_run(run, whole[-1] if whole else 0)
    folder = models.resolve(text)
    return Target(text, folder, files.model_digest(folder))


def run_at(root: Path) -> Run:
    """The run in a folder, to be read. Raises ValueError if there is none; a model's folder, which
    has a config.json too, is none."""
    if not RunPaths(root).record.is_file():
        raise ValueError(f"{root}: no run here; `icpo ls` lists runs")
    return Run.read(root)


def of_run(run: Run, iteration: int) -> Target:
    """A run after an iteration. Raises ValueError if its weights are not there."""
    trust.require(run)
    policy, label = run.policy(iteration), f"{run.paths.root}@{iteration}"
    return Target(label, policy.folder, policy.version, policy.proof, run.config, iteration)


def checkpointed(run: Run) -> list[int]:
    """Iterations whose checkpoint is finished and whose weights are kept, ascending."""
    return [
        number
        for number in run.paths.iterations()
        if number
        and run.store.finished("checkpoint", number) is not None
        and (run.paths.stage("update", number) / "model" / "config.json").is_file()
    ]
