"""What a finished run says at the end: accuracies, seconds a stage, where it is, what is next."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from icpo_core.common.console import Console, Table
from icpo_core.run import metrics
from icpo_core.run.stages import STAGES
from icpo_core.store.paths import RunPaths
from icpo_core.views import curves

COLUMNS = 8
"""Of the accuracies: the first half and the last, as many as a terminal of 80 columns holds."""
ENGINES = ("rollout", "update", "evaluate")


def as_json(root: Path) -> dict[str, Any]:
    """Accuracies by iteration, median seconds by stage, seconds of the whole and the run's path."""
    rows = metrics.read(RunPaths(root))
    accuracies = {
        name.partition("/")[2]: {int(row["iteration"]): row[name] for row in rows if name in row}
        for name in sorted({name for row in rows for name in row if name.startswith("accuracy/")})
    }
    seconds = {
        stage: median(row[f"seconds/{stage}"] for row in rows if f"seconds/{stage}" in row)
        for stage in STAGES
        if any(f"seconds/{stage}" in row for row in rows)
    }
    return {"run": str(root), "accuracy": accuracies, "seconds": seconds}


def show(root: Path, console: Console, prefect: bool = True) -> None:
    """Print the summary. prefect: and where its UI is."""
    summary = as_json(root)
    for name, by_iteration in summary["accuracy"].items():
        title = f"accuracy on {name}, zero-shot"
        table = Table(title=title, title_justify="left", min_width=len(title))
        shown = [*by_iteration][: COLUMNS // 2] + [*by_iteration][COLUMNS // 2 :][-COLUMNS // 2 :]
        for iteration in shown:
            table.add_column("before" if iteration == 0 else f"it {iteration}", justify="right")
        table.add_row(*(f"{by_iteration[iteration]:.1%}" for iteration in shown))
        console.print(table)
    table = Table(title="seconds a stage, median", title_justify="left")
    for stage in summary["seconds"]:
        table.add_column(stage, justify="right")
    table.add_row(*(f"{value:.2f}" for value in summary["seconds"].values()))
    console.print(table)
    picture = curves.write([root], root / "progress.svg")
    console.print(f"The run       {root}", highlight=False)
    console.print(f"newest model  {root}/LATEST/model", highlight=False)
    console.print(f"picture       {picture}", highlight=False)
    console.print("Try next:", highlight=False)
    for command in (
        f"icpo show {root} --iteration 1    # what was sampled, judged, rejected and why",
        f"icpo stage verify {root} --iteration 2 --force    # one stage again, on stored Parquet",
        f"icpo report {root}    # one HTML page with plots and a browser of rollouts",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)
    if prefect:
        console.print(ui(), highlight=False, soft_wrap=True)


def ui() -> str:
    """Where the Prefect UI is, in a sentence."""
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

    api = PREFECT_API_URL.value()
    if not api:
        return "No Prefect server was configured: `icpo up` starts one, with its UI."
    page = PREFECT_UI_URL.value() or api.removesuffix("/api")
    return f"Prefect UI: {page}   (`icpo down` ends what `icpo up` started)"
