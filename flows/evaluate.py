"""Evaluation as flow `icpo-eval`: deployments `run`, by hand, and `nightly`, by schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.logging import get_run_logger
from pydantic import Field

from icpo.flows.parameters import Override, RunFolder
from icpo.flows.services import slots
from icpo.flows.services.alarms import FELL, raise_alarm
from icpo.flows.ui.table import Table, fill, open_targets, protocol_of
from icpo_core.common.text import line
from icpo_core.evaluation import boards
from icpo_core.evaluation.comparison import compare, some
from icpo_core.evaluation.evaluator import Evaluation
from icpo_core.evaluation.target import Target
from icpo_core.run.evaluations import checkpointed, fell, of_run
from icpo_core.run.run import Run

Targets = Annotated[
    list[Annotated[str, Field(pattern=r"^\S(.*\S)?$")]],
    Field(min_length=1, examples=[["runs/demo", "runs/demo@20"]]),
]
BenchmarkName = Annotated[str, Field(pattern=r"^\S(.*\S)?$", examples=["paper", "math500=FILE"])]
BoardName = Annotated[str, Field(examples=list(boards.PACKAGES))]
ProtocolName = Annotated[str, Field(examples=["paper", "greedy", "run"])]


@flow(name="icpo-eval", flow_run_name="evaluate {targets}", persist_result=False)
async def run(
    targets: Targets,
    benchmarks: list[BenchmarkName] = [],  # noqa: B006  the form shows an empty list
    protocol: ProtocolName = "",
    overrides: list[Override] = [],  # noqa: B006
    directory: str = "evaluations",
    after: str = "",
    push: list[BoardName] = [],  # noqa: B006
) -> dict[str, Any]:
    """Evaluate models or runs and compare them with the first.

    Args:
        targets: Each a model's folder, a hub id, a run's folder, or RUN@ITERATION.
        benchmarks: Of the registry, a group of it as "paper", a file, or NAME=FILE. Empty: a run's
            own.
        protocol: A preset (paper, greedy, quick, run) or a TOML file. Empty: run for a run, paper
            for a model.
        overrides: Changes to it, each as section.key=value.
        directory: Folder of all evaluations.
        after: The models' cut-off, as 2025-06. Benchmarks that are not newer are marked; without
            benchmarks, the newer ones are taken.
        push: mlflow, wandb or trackio: the results as tables there.

    Raises ValueError for a user's mistake.
    """
    boards.require(push)
    table = await _filled(open_targets(targets), benchmarks, protocol, overrides, directory, after)
    boards.push(push, table.as_json(), Path(directory))
    return table.as_json()


@flow(name="icpo-eval", flow_run_name="nightly {runs}", persist_result=False)
async def nightly(
    runs: RunFolder = "runs",
    benchmarks: list[BenchmarkName] = [],  # noqa: B006
    protocol: ProtocolName = "",
    overrides: list[Override] = [],  # noqa: B006
    directory: str = "evaluations",
    only: str = "",
    push: list[BoardName] = [],  # noqa: B006
) -> list[dict[str, Any]]:
    """Evaluate every kept checkpoint of every run that was not evaluated in this way yet.

    A new one that is worse than the best before it, by more than chance, is a warning in the log
    and an event `icpo.evaluation.fell`.

    Args:
        runs: Folder of the runs.
        benchmarks: Of the registry, a group of it as "paper", a file, or NAME=FILE. Empty: each
            run's own.
        protocol: A preset (paper, greedy, quick, run) or a TOML file. Empty: as in training.
        overrides: Changes to it, each as section.key=value.
        directory: Folder of all evaluations.
        only: Folder, below `runs`, of the one run to look at. Empty: all.
        push: mlflow, wandb or trackio: the results as tables there, of runs with new ones.

    Raises ValueError at the end if a run could not be evaluated.
    """
    boards.require(push)
    made, mistakes = [], []
    for record in sorted(Path(runs).glob("*/run.json")):
        if only and record.parent.name != only:
            continue
        try:
            opened = Run.read(record.parent)
            targets = [of_run(opened, number) for number in checkpointed(opened)]
            if not targets:
                continue
            table = await _filled(targets, benchmarks, protocol, overrides, directory)
        except ValueError as error:  # another run may be sound
            get_run_logger().error(line(error))
            mistakes.append(str(error))
            continue
        lines = _judged(record.parent.name, targets, table)
        if any(line["made"] for line in lines):
            boards.push(push, table.as_json(), Path(directory))
        made += lines
    if mistakes:
        raise ValueError(f"{len(mistakes)} runs were not evaluated, the first: {mistakes[0]}")
    return made


async def _filled(
    targets: Sequence[Target],
    benchmarks: Sequence[str],
    protocol: str,
    overrides: Sequence[str],
    directory: str,
    after: str = "",
) -> Table:
    """The table, with GPU slots held meanwhile."""
    placed = protocol_of(targets[0], protocol, overrides).placed()
    async with slots.held(sum(map(len, placed))):
        chosen = [protocol] if protocol else []
        table = fill(targets, benchmarks, chosen, overrides, Path(directory), _quiet, after)
    for label, row in table.rows.items():
        for name, one in row.items():
            low, high = one.figures["interval"]
            verb = f"{one.made} samples made" if one.made else "found again"
            get_run_logger().info(
                f"{label} {name}: {one.figures['accuracy']:.1%} [{low:.1%}, {high:.1%}], {verb} "
                f"({one.folder})"
            )
    return table


def _judged(name: str, targets: Sequence[Target], table: Table) -> list[dict[str, Any]]:
    """A line each evaluation, and an alarm where a new one is worse than the best before it."""
    lines = []
    for benchmark in table.benchmarks:
        best: Evaluation | None = None
        for target in targets:
            one = table.rows[target.label][benchmark]
            change = compare(best.rewards, one.rewards) if best else None
            down = change is not None and fell(change)
            if best and change and down and one.made:
                before, now = change.accuracy
                words = (
                    f"{benchmark} fell from {before:.1%} ({best.target}) to {now:.1%}, "
                    f"p = {change.p_value:.2g}"
                )
                if change.lost:
                    words += f"; lost {len(change.lost)} problems{some(change.lost)}"
                raise_alarm(FELL, name, target.iteration or 0, words, now)
            lines.append(
                {
                    "target": target.label,
                    "benchmark": benchmark,
                    "accuracy": one.figures["accuracy"],
                    "interval": one.figures["interval"],
                    "made": one.made,
                    "fell": down,
                    "lost": change.lost if change and down else [],
                }
            )
            if best is None or one.figures["accuracy"] >= best.figures["accuracy"]:
                best = one
    return lines


def _quiet(what: str, done: int, all_: int) -> None:
    """Progress is for terminals; a flow's log has what was done."""
