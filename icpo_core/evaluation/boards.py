"""Evaluations where researchers keep theirs: tables of MLflow, Weights & Biases or trackio.

Each is told locally first: MLflow in a file beside the evaluations unless MLFLOW_TRACKING_URI says
otherwise, W&B by its own modes (WANDB_MODE=offline), trackio in its folder (TRACKIO_DIR).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

PROJECT = "icpo-eval"
PACKAGES = {"mlflow": ("mlflow", "pandas"), "wandb": ("wandb",), "trackio": ("trackio", "pandas")}

Rows = list[dict[str, Any]]


def require(kinds: Sequence[str]) -> None:
    """Raises ValueError, naming the fix, for an unknown board or one that is not installed."""
    for kind in kinds:
        if kind not in PACKAGES:
            raise ValueError(f"--push {kind}: is none of {', '.join(PACKAGES)}")
        missing = [one for one in PACKAGES[kind] if importlib.util.find_spec(one) is None]
        if missing:
            raise ValueError(
                f"--push {kind}: {missing[0]} is not installed: pip install {' '.join(missing)}"
            )


def tables(target: dict[str, Any], against: dict[str, Any]) -> dict[str, Rows]:
    """The tables of one target, by name; one without a row is left out.

    target: an entry of `targets`, against: of `comparisons`, in the JSON of `icpo eval`.
    """
    found: dict[str, Rows] = {"evaluations": [], "budgets": [], "judges": [], "comparisons": []}
    for name, one in target["benchmarks"].items():
        key = {"target": target["target"], "benchmark": name, "protocol": one["protocol"]}
        found["evaluations"].append(
            key
            | _accuracy(one)
            | {
                "samples": one["k"],
                "problems": one["problems"],
                **{
                    f"{kind}@k": list(one[f"{kind}@k"].values())[-1]["value"]
                    for kind in ("pass", "maj", "cons")
                },
                **{part: one[part] for part in ("format", "truncated", "mean_tokens")},
                "tokens": one["cost"]["tokens"],
                "seconds": one["cost"]["seconds"],
                "public since": one["released"] or "",
                "folder": Path(one["folder"]).name,
            }
        )
        found["budgets"] += [
            key | {"tokens": int(budget)} | _accuracy(cut) | {"truncated": cut["truncated"]}
            for budget, cut in one["budgets"].items()
        ]
        found["judges"] += [
            key | {"judge": judge} | _accuracy(said) | {"alike": said["share"]}
            for judge, said in one["judges"].items()
        ]
    for name, change in against.items():
        low, high = change["interval"]
        found["comparisons"].append(
            {
                "target": target["target"],
                "benchmark": name,
                "difference": change["difference"],
                "low": low,
                "high": high,
                "p": change["p_value"],
                "p_holm": change["p_holm"],
                "gained": ", ".join(change["gained"]),
                "lost": ", ".join(change["lost"]),
            }
        )
    return {name: rows for name, rows in found.items() if rows}


def push(kinds: Sequence[str], found: dict[str, Any], root: Path) -> None:
    """Tell each board: a run a target, in project `icpo-eval`, with its accuracies and its tables.

    found: the JSON of `icpo eval`. root: folder of all evaluations.
    Raises ValueError as `require`.
    """
    require(kinds)
    root.mkdir(parents=True, exist_ok=True)
    boards: dict[str, Callable[[str, dict[str, float], dict[str, Rows], Path], None]]
    boards = {"mlflow": _mlflow, "wandb": _wandb, "trackio": _trackio}
    for target in found["targets"]:
        label = target["target"]
        figures = {
            f"accuracy/{name}": one["accuracy"] for name, one in target["benchmarks"].items()
        }
        told = tables(target, found["comparisons"].get(label, {}))
        for kind in kinds:
            with redirect_stdout(sys.stderr):  # trackio greets there, where JSON may go
                boards[kind](label, figures, told, root)


def _accuracy(figures: dict[str, Any]) -> dict[str, float]:
    low, high = figures["interval"]
    return {"accuracy": figures["accuracy"], "low": low, "high": high}


def _columns(rows: Rows) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _mlflow(label: str, figures: dict[str, float], told: dict[str, Rows], root: Path) -> None:
    import mlflow

    theirs = os.environ.get("MLFLOW_TRACKING_URI")
    if theirs is None:
        mlflow.set_tracking_uri(f"sqlite:///{(root / 'mlflow.db').resolve()}")
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # it sets that, too
    if mlflow.get_experiment_by_name(PROJECT) is None:
        # Beside the evaluations, not in the folder from which this was called.
        place = None if theirs else (root / "mlflow").resolve().as_uri()
        mlflow.create_experiment(PROJECT, artifact_location=place)
    mlflow.set_experiment(PROJECT)
    with mlflow.start_run(run_name=label):
        mlflow.log_metrics(figures)
        for name, rows in told.items():
            mlflow.log_table(_columns(rows), f"{name}.json")


def _wandb(label: str, figures: dict[str, float], told: dict[str, Rows], root: Path) -> None:
    import wandb

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    run = wandb.init(project=project, name=label, job_type="evaluation", dir=str(root))
    made = {
        name: wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        for name, rows in told.items()
    }
    run.log({**figures, **made})
    run.finish()


def _trackio(label: str, figures: dict[str, float], told: dict[str, Rows], root: Path) -> None:
    import pandas
    import trackio

    trackio.init(project=PROJECT, name=label, resume="allow", embed=False)
    made = {name: trackio.Table(dataframe=pandas.DataFrame(rows)) for name, rows in told.items()}
    trackio.log({**figures, **made})
    trackio.finish()
