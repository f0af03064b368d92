"""The long-lived workers of a run: the rollout engine and the trainer.

Each is spawned once, lives as long as the run and dies with it. What a worker holds is named by a
digest (weights) or a state id (weights and optimizer), so a fresh worker in the place of one that
died is told what to load.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from icpo_core.config import Config
from icpo_core.devices import visible
from icpo_core.ranks import Ranks, launch, rank_count, slots
from icpo_core.worker import Worker, python_command

Progress = Callable[[int, int], None]


class Workers:
    """Engine and trainer of one run; a context manager that ends both."""

    def __init__(self, config: Config, model: Path, logs: Path) -> None:
        """`model`: the base model's folder; `logs`: where each worker's log goes."""
        self._config, self._model, self._logs = config, model, logs
        self._engine: Worker | None = None
        self._trainer: Worker | None = None
        self._trainer_starts = 0

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start_engine(self, policy: Path) -> None:
        """Spawn the engine with the weights in `policy`, without waiting for it."""
        if self._engine is not None and self._engine.alive:
            return
        rollout = self._config.rollout
        settings = {
            "model": str(policy),
            "engine": rollout.engine.model_dump(),
            "seed": self._config.run.seed,
        }
        self._engine = Worker(
            "rollout engine",
            python_command(rollout.python, "icpo_core.engine", settings),
            self._logs / "engine.log",
            rollout.start_seconds,
        )

    def start_trainer(self) -> None:
        """Spawn the trainer with the base model, without waiting for it."""
        if self._trainer is not None and self._trainer.alive:
            return
        config = self._config
        settings = {
            "model": str(self._model),
            "loss": config.loss.model_dump(),
            "update": config.update.model_dump(),
            "temperature": config.rollout.temperature,
        }
        update, devices = config.update, visible()
        hostfile = Path(update.hostfile) if update.hostfile else None
        hosts = slots(hostfile) if hostfile else {}
        ranks = rank_count(update, hosts, devices)
        log = self._logs / "trainer.log"
        if ranks == 1:
            self._trainer = Worker(
                "trainer",
                python_command(update.python, "icpo_core.trainer", settings),
                log,
                update.start_seconds,
            )
            return
        self._trainer_starts += 1
        folder = self._logs / f"trainer-{self._trainer_starts}"
        command = launch(update.python, devices[:ranks] or ranks, hostfile, folder, settings)
        self._trainer = Ranks(command, log, folder, update.start_seconds, hosts=len(hosts) > 1)

    def load(self, policy: Path, policy_version: str, probe: Path | None) -> dict[str, Any]:
        """Make the engine hold these weights and prove it; `reload_seconds` and `probe_gap`.

        Raises ValueError if the engine holds other weights afterwards.
        """
        self.start_engine(policy)
        assert self._engine is not None
        job = {
            "job": "load",
            "model": str(policy),
            "policy_version": policy_version,
            "probe": str(probe) if probe else None,
            "max_logprob_gap": self._config.rollout.max_logprob_gap,
        }
        return self._engine.call(job, self._config.rollout.seconds)

    def sample(self, job: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Have the engine do a `rollout` or `sample` job, after `load`."""
        assert self._engine is not None
        return self._engine.call(job, self._config.rollout.seconds, _counted(on_progress))

    def train(self, job: dict[str, Any]) -> dict[str, Any]:
        """Have the trainer do an `update` or `save` job."""
        self.start_trainer()
        assert self._trainer is not None
        return self._trainer.call(job, self._config.update.seconds)

    def stop(self) -> None:
        """End both workers with all their children."""
        for worker in (self._engine, self._trainer):
            if worker is not None:
                worker.stop()
        self._engine = self._trainer = None


def _counted(on_progress: Progress) -> Callable[[dict[str, Any]], None]:
    return lambda news: on_progress(news["done"], news["all"])
