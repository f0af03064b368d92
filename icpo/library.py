"""Runs from Python: open one, train one, judge a response. `docs/python.md` shows them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from icpo_core.config import Config
from icpo_core.grading.grade import GradingRules, Question, Verdict
from icpo_core.grading.grade import grade as _grade
from icpo_core.run import metrics
from icpo_core.run.run import Run
from icpo_core.views import curves
from icpo_core.views.rollouts import Group, newest
from icpo_core.views.rollouts import read as read_groups

if TYPE_CHECKING:
    from datasets import Dataset

STAGES = {
    "prompts": "prompts",
    "rollout": "rollout",
    "verdicts": "verify",
    "batch": "select",
    "rejects": "select",
    "samples": "evaluate",
}
"""Tables of a run, and the stage that writes each."""


class Picture(str):
    """SVG, which a notebook shows."""

    def _repr_svg_(self) -> str:
        return str(self)


class Opened:
    """A run on disk, to read; one that trains elsewhere, too."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __repr__(self) -> str:
        recorded = [int(row["iteration"]) for row in metrics.read(self.run.paths)]
        done = f"iteration {max(recorded, default=0)} of {self.config.run.iterations}"
        return f"<run {self.config.run.name} in {self.folder}: {done}>"

    @property
    def folder(self) -> Path:
        return self.run.paths.root

    @property
    def config(self) -> Config:
        return self.run.config

    def table(self, name: str, iteration: int | None = None) -> pa.Table:
        """A table of an iteration, or of all iterations that have it, with a column `iteration`.

        Raises ValueError if there is no such table, or a file of it is damaged.
        """
        if name not in STAGES:
            raise ValueError(f"{name}: no table of a run; there are {', '.join(STAGES)}")
        stage, store = STAGES[name], self.run.store
        numbers = self.run.paths.iterations() if iteration is None else [iteration]
        if iteration is None:
            numbers = [one for one in numbers if store.finished(stage, one) is not None]
            if not numbers:
                raise ValueError(f"{self.folder}: no iteration has finished {stage} yet")
        found = [store.table(stage, number, name) for number in numbers]
        if iteration is not None:
            return found[0]
        return pa.concat_tables(
            [
                one.append_column("iteration", pa.array([number] * len(one), pa.int64()))
                for one, number in zip(found, numbers, strict=True)
            ],
            promote_options="default",
        )

    def dataset(self, name: str, iteration: int | None = None) -> Dataset:
        """`table` as a data set of Hugging Face `datasets`."""
        from datasets import Dataset
        from datasets.table import InMemoryTable

        return Dataset(InMemoryTable(self.table(name, iteration).replace_schema_metadata(None)))

    @property
    def metrics(self) -> pa.Table:
        """One row an iteration: reward, loss, accuracy, seconds, … (docs/store.md)."""
        rows = metrics.read(self.run.paths)
        names = sorted({name for row in rows for name in row} - {"iteration"})
        return pa.Table.from_pylist([dict.fromkeys(["iteration", *names]) | row for row in rows])

    def curves(self) -> Picture:
        """Accuracy, reward and more over the iterations. Raises ValueError without figures."""
        rows = metrics.read(self.run.paths)
        if not rows:
            raise ValueError(f"{self.folder}: no figures yet; an iteration has to end first")
        return Picture(curves.of_runs({self.config.run.name: rows}))

    def groups(self, iteration: int | None = None) -> list[Group]:
        """The prompts of an iteration (None: the newest) with every rollout: its verdict and how
        that was reached, its advantage, or why it is no part of the batch."""
        return read_groups(self.run, newest(self.run) if iteration is None else iteration)


def open(run: str | Path) -> Opened:
    """The run of a folder. Raises ValueError if there is none."""
    return Opened(Run.read(Path(run)))


def train(
    config: str | Path | Config,
    overrides: Sequence[str] = (),
    name: str | None = None,
    rerun: bool = False,
    progress: bool = True,
) -> Opened:
    """Train in this process, without Prefect, and return the run; what is finished is kept.

    config: a TOML file, a run's folder, or what `icpo.load` returns. overrides: as
    `section.key=value`. rerun: make again what a changed configuration makes otherwise.
    progress: a bar on a terminal, else a line an iteration, on standard error.

    Raises ValueError for a user's mistake, WorkerError where a worker failed.
    """
    from icpo.flows.ui.progress import Watcher
    from icpo.flows.ui.waiting import Waiting
    from icpo_core.config import override
    from icpo_core.run import loop, sources, trust
    from icpo_core.run.session import Observer, Session

    if isinstance(config, Config):
        run = Run.of(override(config, [*overrides, *([f"run.name={name}"] if name else [])]))
    else:
        run = Run.named(config, list(overrides), name)
    trust.require(run)
    for note in sources.require(run):
        warnings.warn(note, stacklevel=2)
    if not progress:
        with Session(run, Observer()) as session:
            loop.train(session, rerun)
    else:
        with Waiting("the run opens"), Watcher() as watcher, Session(run, watcher) as session:
            loop.train(session, rerun)
    return open(run.paths.root)


def grade(gold: str, response: str, **rules: Any) -> Verdict:
    """The verdict of `verify.verifier = math` on a response. rules: as in `[verify.rules]`.

    Judges in this process, without a limit on time or memory; a run has judges that it can end.
    """
    return _grade(Question(gold, response), GradingRules(**rules))
