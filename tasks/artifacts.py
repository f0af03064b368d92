"""What the Prefect UI shows of an iteration beside its runs, under keys that stay the same.

On the page of an iteration, and of a stage that is made alone:

    RUN-metrics    table: rollouts, reward, advantage and length by origin
    RUN-rollouts   the best, the worst and a rejected rollout, in full
    RUN-files      every file of the iteration, with rows, bytes and digest
    RUN-timeline   what ran when in the iteration, and what waited
    RUN-progress   of the stage that is sampling now

On the page of the training run, which it grows on:

    RUN-plot       the curves of the run so far

Every artifact costs the Prefect server a write, so a thread of its own makes and sends them while
the next iteration is at work. They are a view: one that cannot be sent is said in the log and lost.
"""

from __future__ import annotations

import base64
import queue
import re
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger

from icpo.tasks import pages
from icpo_core.common.text import code, line
from icpo_core.run import metrics
from icpo_core.run.run import Run
from icpo_core.store.paths import pattern_of
from icpo_core.store.store import Store
from icpo_core.views import curves

PROGRESS_SECONDS = 2.0
"""Least time between two reports of progress."""
FLUSH_SECONDS = 60.0
"""How long the end of a run waits for its last artifacts."""
ABANDON_SECONDS = 3.0
"""The same, where the run failed or was cancelled."""


@dataclass(frozen=True)
class _Progress:
    stage: str
    iteration: int
    percent: float
    flow_run: UUID
    task_run: UUID


class Publisher:
    """Sends the artifacts of an open run; a context manager inside a flow run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._slug = re.sub(r"[^a-z0-9]+", "-", run.config.run.name.lower()).strip("-")
        self._waiting: list[tuple[int, UUID]] = []
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._reported: tuple[str, int, float] = ("", 0, 0.0)
        self._progress_id: UUID | None = None
        self._plot_id: UUID | None = None

    def __enter__(self) -> Publisher:
        self._logger = get_run_logger()
        self._flow_run = UUID(runtime.flow_run.id)
        # In a copy of this context the thread finds the flow run's settings and its client.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._work,), name="artifacts", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.send()
        self._jobs.put(None)
        self._thread.join(FLUSH_SECONDS if error is None else ABANDON_SECONDS)

    def publish(self, iteration: int) -> None:
        """Note that there are artifacts of an iteration to make, in this flow run's name."""
        self._waiting.append((iteration, UUID(runtime.flow_run.id)))

    def send(self) -> None:
        """Have what was noted made and sent, in the thread: to be called when this flow run asks
        nothing of the Prefect server. Two writes at once are one too many for SQLite, and the one
        that is refused waits for two seconds."""
        while self._waiting:  # off-policy, also from the thread that samples
            self._jobs.put(partial(self._publish, *self._waiting.pop(0)))

    # --- in the thread --------------------------------------------------------------------------

    def _work(self) -> None:
        with get_client(sync_client=True) as self._client:
            assert isinstance(self._client, SyncPrefectClient)
            while (job := self._jobs.get()) is not None:
                try:
                    job()
                except httpx.HTTPError as error:
                    self._logger.warning("an artifact was not stored (%s)", line(error))
                except (OSError, ValueError) as error:
                    self._logger.warning("an artifact was not made (%s)", line(error))

    def _publish(self, number: int, flow_run: UUID) -> None:
        paths, name = self.run.paths, self.run.config.run.name
        what = f"Iteration {number} of {code(name)}"
        rows = [row for row in metrics.read(paths) if row["iteration"] <= number]
        if any(paths.stage("select", number).glob(pattern_of("batch"))):
            table = pages.by_origin(paths, number, rows[-1] if rows else {})
            self._create("metrics", "table", f"{what}: rollouts by origin", flow_run, table)
            chosen = pages.rollouts(paths, number)
            self._create("rollouts", "markdown", f"{what}: rollouts worth a look", flow_run, chosen)
        if rows:
            picture = base64.b64encode(curves.of_runs({name: rows}).encode())
            # Not an image artifact: the UI would spell the picture's address out below it.
            link = f"![the run so far](data:image/svg+xml;base64,{picture.decode()})"
            about = f"{code(name)} until iteration {number}"
            if self._plot_id is None:
                self._plot_id = self._create("plot", "markdown", about, self._flow_run, link)
            else:
                news = ArtifactUpdate(data=link, description=about)
                self._client.update_artifact(self._plot_id, news)
        # A store of this thread's own: the run's is the flow's.
        when = pages.timeline_of(Store(paths), number)
        self._create("timeline", "markdown", f"{what}: what ran when", flow_run, when)
        files = pages.files(paths, number)
        self._create("files", "markdown", f"{what}: its files", flow_run, files)

    def _create(
        self, key: str, kind: str, description: str, flow_run: UUID, data: Any, **more: Any
    ) -> UUID:
        artifact = ArtifactCreate(
            key=f"{self._slug}-{key}",
            type=kind,
            description=description,
            data=data,
            flow_run_id=flow_run,
            **more,
        )
        return self._client.create_artifact(artifact).id

    # --- progress -------------------------------------------------------------------------------

    def report(self, stage: str, iteration: int, done: int, all_: int) -> None:
        """Queue a report, but no more than one in `PROGRESS_SECONDS`, and the last."""
        context = TaskRunContext.get()
        now = time.monotonic()
        if (stage, iteration) != self._reported[:2]:
            self._reported, self._progress_id = (stage, iteration, now), None
        early = now - self._reported[2] < PROGRESS_SECONDS
        ended = done == all_ and self._progress_id is not None
        if context is None or not all_ or (early and not ended):
            return
        self._reported = (stage, iteration, now)
        flow_run = context.task_run.flow_run_id
        assert flow_run is not None
        news = _Progress(stage, iteration, 100.0 * done / all_, flow_run, context.task_run.id)
        self._jobs.put(partial(self._show, news))

    def _show(self, news: _Progress) -> None:
        if (news.stage, news.iteration) != self._reported[:2]:
            return  # that stage is over
        if self._progress_id is None:
            self._progress_id = self._create(
                "progress",
                "progress",
                f"Iteration {news.iteration}: {news.stage}",
                news.flow_run,
                news.percent,
                task_run_id=news.task_run,
            )
        else:
            self._client.update_artifact(self._progress_id, ArtifactUpdate(data=news.percent))
