"""The same figures in TensorBoard, MLflow and Weights & Biases (offline)."""

from pathlib import Path

import pytest

from icpo_core.config import load
from icpo_core.run import sources
from icpo_core.run.run import Run
from icpo_core.run.trackers import open_trackers

ROWS = {1: {"reward/on_policy": 0.25, "kl": float("nan")}, 2: {"reward/on_policy": 0.5}}


def track(root: Path, tmp_path: Path, kind: str, iterations: list[int]) -> None:
    config = load(root / "configs" / "demo.toml", [f'run.trackers=["{kind}"]'], "tracked")
    trackers = open_trackers(config, tmp_path)
    for iteration in iterations:
        for tracker in trackers:
            tracker.log(iteration, ROWS[iteration])
    for tracker in trackers:
        tracker.close()


def test_tensorboard(root: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(root, tmp_path, "tensorboard", [1])
    track(root, tmp_path, "tensorboard", [2])  # a resumed run goes on in the same place
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = events.Scalars("reward/on_policy")
    assert [(event.step, event.value) for event in scalars] == [(1, 0.25), (2, 0.5)]


def test_mlflow(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    track(root, tmp_path, "mlflow", [1])
    track(root, tmp_path, "mlflow", [2])
    [run] = mlflow.search_runs(experiment_names=["icpo"], output_format="list")
    assert run.info.run_name == "tracked"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "reward/on_policy")
    assert [(one.step, one.value) for one in history] == [(1, 0.25), (2, 0.5)]


def test_wandb_offline(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    track(root, tmp_path, "wandb", [1, 2])
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_a_missing_package_is_named(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"run\.trackers has wandb.*pip install wandb"):
        track(root, tmp_path, "wandb", [])
    run = Run.of(load(root / "configs" / "demo.toml", ['run.trackers=["wandb"]'], "tracked"))
    with pytest.raises(ValueError, match="pip install wandb"):
        sources.require(run)
