"""Evaluation as flow `icpo-eval`: deployments `run`, by hand, and `nightly`, by schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.events import emit_event
from prefect.logging import get_run_logger

from flows.table import Table, fill, open_targets
from icpo_core.comparison import compare
from icpo_core.evaluations import Evaluation
from icpo_core.history import fell
from icpo_core.run import Run
from icpo_core.targets import checkpointed, of_run

FELL = "icpo.evaluation.fell"
"""Event of a checkpoint that is worse than an earlier one; an automation can tell people of it."""


@flow(name="icpo-eval", flow_run_name="evaluate {targets}")
def run(
    targets: list[str],
    benchmarks: list[str] | None = None,
    protocol: str | None = None,
    overrides: list[str] | None = None,
    directory: str = "evaluations",
) -> dict[str, Any]:
    """Evaluate models or runs and compare them with the first.

    Args:
        targets: Each a model's folder, a hub id, a run's folder, or RUN@ITERATION.
        benchmarks: Of the registry, a group of it as "paper", a file, or NAME=FILE; a run's own
            without any.
        protocol: A preset (paper, greedy, quick, run) or a TOML file.
        overrides: Changes to it, each as section.key=value.
        directory: Folder of all evaluations.
    """
    table = fill(
        open_targets(targets), benchmarks or [], protocol, overrides or [], Path(directory), _quiet
    )
    _log(table)
    return table.as_json()


@flow(name="icpo-eval", flow_run_name="nightly {runs}")
def nightly(
    runs: str = "runs",
    benchmarks: list[str] | None = None,
    protocol: str | None = None,
    overrides: list[str] | None = None,
    directory: str = "evaluations",
) -> list[dict[str, Any]]:
    """Evaluate every kept checkpoint of every run that was not evaluated in this way yet.

    A checkpoint that is worse than the best one before it, by more than chance, is a warning in
    the log and an event `icpo.evaluation.fell`. Arguments as of deployment `run`; `runs` is the
    folder of the runs. Raises ValueError at the end if a run could not be evaluated.
    """
    logger = get_run_logger()
    made, mistakes = [], []
    for record in sorted(Path(runs).glob("*/run.json")):
        opened = Run.read(record.parent)
        targets = [of_run(opened, number) for number in checkpointed(opened)]
        try:
            table = fill(
                targets, benchmarks or [], protocol, overrides or [], Path(directory), _quiet
            )
        except ValueError as error:  # another run may be sound
            logger.error(str(error))
            mistakes.append(str(error))
            continue
        _log(table)
        made += _judged(record.parent, table)
    if mistakes:
        raise ValueError(
            f"{len(mistakes)} of the runs were not evaluated, the first: {mistakes[0]}"
        )
    return made


def _judged(root: Path, table: Table) -> list[dict[str, Any]]:
    """A line each evaluation, and an alert where a new one is worse than the best before it."""
    lines = []
    for name in table.benchmarks:
        best: Evaluation | None = None
        for label, row in table.rows.items():
            one = row[name]
            change = compare(best.rewards, one.rewards) if best else None
            down = change is not None and fell(change)
            if best and change and down and one.made:
                words = (
                    f"{label} {name}: {change.accuracy[1]:.1%} after {change.accuracy[0]:.1%} of "
                    f"{best.target}, p = {change.p_value:.2g}"
                )
                get_run_logger().warning(f"fell: {words}")
                emit_event(
                    FELL,
                    resource={"prefect.resource.id": f"icpo.run.{root.name}"},
                    payload={"words": words, "benchmark": name, **change.as_json()},
                )
            lines.append(
                {
                    "target": label,
                    "benchmark": name,
                    "accuracy": one.figures["accuracy"],
                    "interval": one.figures["interval"],
                    "made": one.made,
                    "fell": down,
                }
            )
            if best is None or one.figures["accuracy"] >= best.figures["accuracy"]:
                best = one
    return lines


def _log(table: Table) -> None:
    for label, row in table.rows.items():
        for name, one in row.items():
            low, high = one.figures["interval"]
            verb = f"{one.made} samples made" if one.made else "found again"
            get_run_logger().info(
                f"{label} {name}: {one.figures['accuracy']:.1%} [{low:.1%}, {high:.1%}], {verb} "
                f"({one.folder})"
            )


def _quiet(what: str, done: int, all_: int) -> None:
    """Progress is for terminals; a flow's log has what was done."""
