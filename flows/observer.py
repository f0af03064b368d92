"""Prefect and the terminal as a run's observer: what each is told of what the run does."""

from __future__ import annotations

import sys
from collections.abc import Callable

from prefect.logging import get_run_logger

from icpo.flows.services.alarms import Alarms
from icpo.flows.services.judging import Pool
from icpo.flows.ui.progress import Watcher
from icpo.tasks import stages
from icpo.tasks.artifacts import Publisher
from icpo_core.common.text import plain
from icpo_core.run import metrics
from icpo_core.run.run import Run
from icpo_core.run.session import Observer, current
from icpo_core.workers.jobs import Judge, Rollout, Sampled


class FlowObserver(Observer):
    """Of a run inside a flow run."""

    def __init__(self, run: Run) -> None:
        self.publisher = Publisher(run)
        """Sends the artifacts."""
        self.watcher = Watcher()
        """What the terminal shows."""
        self.pool: Pool | None = None
        """Judges parts of the rollouts elsewhere."""
        self._logger = get_run_logger()

    def begins(self, first: int) -> None:
        run = current().run
        if first > 1:
            self._logger.info(f"{run.paths.root}: iterations 1 to {first - 1} are done and kept")
        self._alarms = Alarms(run, metrics.read(run.paths))
        self.watcher.begins(first)

    def part(self, job: Rollout, do: Callable[[], Sampled]) -> Sampled:
        return stages.part(job, do)

    def judge(self, job: Judge) -> bool:
        return self.pool is not None and self.pool.judge(job)

    def ends(self) -> None:
        if self.pool is not None:
            self.pool.close()

    def ids(self) -> dict[str, str]:
        return stages.ids()

    def progress(self, stage: str, iteration: int, done: int, all_: int) -> None:
        self.watcher.progress(stage, iteration, done, all_)
        self.publisher.report(stage, iteration, done, all_)

    def short(self, line: str) -> None:
        self._logger.warning(plain(line))
        super().short(line)

    def mirror(self, line: str) -> None:
        self._logger.warning(plain(line))
        print(plain(line), file=sys.stderr)  # the terminal is not shown Prefect's log

    def recorded(self, iteration: int, figures: dict[str, float]) -> None:
        self.watcher.recorded(iteration, figures)
        self._alarms.look(iteration, figures)
