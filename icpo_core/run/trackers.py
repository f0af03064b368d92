"""A run's figures where researchers look at them: TensorBoard, Weights & Biases, MLflow.

`metrics.parquet` has all of it; trackers are told the same row, under the same names, an iteration.
A tracker that cannot be reached must not end a run: each of them writes locally first (TensorBoard
always, the others by their own offline modes).
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from icpo_core.config import Config

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class Tracker(Protocol):
    """Where the figures of a run's iterations go."""

    def __init__(self, config: Config, root: Path) -> None: ...

    def log(self, iteration: int, row: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def require_installed(config: Config) -> None:
    """Raises ValueError with the command that installs what is missing of `run.trackers`."""
    for name in config.run.trackers:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ValueError(
                f"run.trackers has {name}, which is not installed: pip install {PACKAGES[name]}, "
                "or take it out"
            )


def open_trackers(config: Config, root: Path) -> list[Tracker]:
    """The trackers of `run.trackers`, for the run at `root`. Raises as `require_installed`."""
    require_installed(config)
    kinds: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
    return [kinds[name](config, root) for name in config.run.trackers]


class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir runs` shows all runs.

    One event an iteration, written as it comes: `SummaryWriter` has a thread that ends in a
    traceback of its own when the disk is full.
    """

    def __init__(self, config: Config, root: Path) -> None:
        # Not tensorboardX nor torch's writer: both import torch, three seconds of the first
        # iteration and 200 MB.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = root / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # By the nanosecond, so that a quick resume does not overwrite it.
        file = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._writer = RecordWriter(file.open("wb"))
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def log(self, iteration: int, row: Mapping[str, float]) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if math.isfinite(value)
        ]
        summary = self._summary(value=values)
        self._write(self._event(wall_time=time.time(), step=iteration, summary=summary))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        # On a full disk the event that did not fit is tried again; `metrics.parquet` has its row.
        with contextlib.suppress(OSError):
            self._writer.close()


class WandB:
    """A W&B run of the same name, in the project `icpo` unless WANDB_PROJECT says otherwise."""

    def __init__(self, config: Config, root: Path) -> None:
        import os

        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "icpo"),
            id=config.run.name,
            name=config.run.name,
            resume="allow",
            dir=str(root),
            config=config.model_dump(mode="json"),
        )

    def log(self, iteration: int, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=iteration)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """An MLflow run of the same name, at MLFLOW_TRACKING_URI or in RUN/mlruns."""

    def __init__(self, config: Config, root: Path) -> None:
        import os

        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{(root / 'mlflow.db').resolve()}")
        mlflow.set_experiment("icpo")
        found = mlflow.search_runs(
            filter_string=f"attributes.run_name = '{config.run.name}'",
            output_format="list",
            max_results=1,
        )
        self._mlflow: Any = mlflow
        self._id = found[0].info.run_id if found else None
        run = mlflow.start_run(run_id=self._id, run_name=None if found else config.run.name)
        self._id = run.info.run_id

    def log(self, iteration: int, row: Mapping[str, float]) -> None:
        finite = {name: value for name, value in row.items() if math.isfinite(value)}
        self._mlflow.log_metrics(finite, step=iteration, run_id=self._id)

    def close(self) -> None:
        self._mlflow.end_run()
