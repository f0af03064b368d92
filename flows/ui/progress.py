"""What a person sees while a run trains: a bar over iterations, or a line each off a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from icpo.flows.ui.waiting import waiting_now
from icpo_core.common.closing import Closing
from icpo_core.common.console import Console
from icpo_core.method import likeness
from icpo_core.run import metrics
from icpo_core.run.session import Observer, current


class Watcher(Observer, Closing):
    """Shows a run's progress on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._accuracy = ""
        self._figures = ""
        self._waiting = waiting_now()
        self._answers, self._root = likeness.Watch(), Path("RUN")

    def begins(self, first: int) -> None:
        """Follow the run that this context has open, until `close`."""
        run = current().run
        config = run.config
        self._last, self._first = config.run.iterations, first
        self._answers, self._root = likeness.Watch(metrics.read(run.paths)), run.paths.root
        self._started = self._since = time.monotonic()
        group = f"{config.rollout.on_policy}+{config.rollout.expert}"
        self._console.print(
            Text.assemble(
                (config.run.name, "bold"),
                f" {config.preset or 'icpo'}: iterations {max(1, first)} to {self._last} of "
                f"{config.prompts.batch_size} prompts x ({group}) rollouts, in {run.paths.root}",
            )
        )
        if not self._console.is_terminal:
            if self._waiting:
                self._waiting.now("engine and trainer start", heard=True)
            return
        if self._waiting:
            self._waiting.end()
        self._bar = Progress(
            TextColumn("it", style="bold"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=self._console,
            refresh_per_second=4,
        )
        self._bar.start()
        self._task = self._bar.add_task(
            "", total=self._last, completed=max(0, first - 1), figures="engines start", left=""
        )

    def close(self) -> None:
        """Leave the terminal as it is now."""
        if self._bar is not None:
            self._bar.stop()

    def recorded(self, iteration: int, figures: Mapping[str, float]) -> None:
        """An iteration is done, with these figures."""
        now = time.monotonic()
        for name, value in figures.items():
            if name.startswith("accuracy/"):
                self._accuracy = f"{name.partition('/')[2]} {value:.1%}"
        parts = [self._accuracy] if self._accuracy else []
        for name, label in (("reward/on_policy", "reward"), ("reward/expert", "expert")):
            if name in figures:
                parts.append(f"{label} {figures[name]:.2f}")
        self._figures = "  ".join(parts)
        if (words := self._answers.look(figures)) is not None:
            look = f"icpo show {self._root} --iteration {iteration}"
            line = f"it {iteration}: {words}; read some with {look}"
            self._console.print(Text(line, "yellow"), soft_wrap=True)
        left = self._left(iteration, now)
        if self._bar is not None:
            self._bar.update(self._task, completed=iteration, figures=self._figures, left=left)
        else:
            self._console.print(
                f"it {iteration}/{self._last}  {self._figures}  {now - self._since:.1f} s  {left}",
                highlight=False,
                soft_wrap=True,
            )
            if self._waiting:
                self._waiting.now(f"it {iteration + 1}", heard=True)
        self._since = now

    def _left(self, iteration: int, now: float) -> str:
        done = iteration - max(1, self._first) + 1
        if done < 1 or iteration == self._last:
            return ""
        # The first iteration waits for the engines, so the pace is that of the others.
        if iteration == max(1, self._first):
            self._pace_from = (iteration, now)
            return ""
        since, at = self._pace_from
        seconds = (now - at) / (iteration - since) * (self._last - iteration)
        return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"

    def progress(self, stage: str, iteration: int, done: int, all_: int) -> None:
        """How far a stage is."""
        if self._bar is not None:
            figures = f"{self._figures}  {stage} {done}/{all_}"
            self._bar.update(self._task, figures=figures)
        elif self._waiting:
            self._waiting.now(f"it {iteration}  {stage} {done}/{all_}")
