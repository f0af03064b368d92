"""An opened run: its configuration, its folder, and what its stages work with.

Everything heavy (problem sets, tokenizer, judges, workers) is made when it is first needed, once.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from icpo_core import benchmarks, files, manifest, models
from icpo_core.config import Config, build
from icpo_core.judges import Judges
from icpo_core.lock import RunLock
from icpo_core.paths import RunPaths
from icpo_core.problems import read_problems
from icpo_core.prompts import PromptMaker
from icpo_core.schemas import SCHEMA_VERSION
from icpo_core.seeds import stable_seed
from icpo_core.store import Store
from icpo_core.trackers import Tracker, open_trackers
from icpo_core.workers import Workers

Progress = Callable[[str, int, int, int], None]
"""Told (stage, iteration, done, all) while a stage works."""

_OPEN: dict[Path, Run] = {}


def opened(root: str | Path) -> Run:
    """The run at `root` that this process has open: what Prefect hands on is a path, not a run."""
    return _OPEN[Path(root).resolve()]


class Run:
    """One run, open in this process. A context manager: closing ends its workers and its lock."""

    def __init__(self, config: Config, root: Path | None = None) -> None:
        """`root`: the run's folder, if it is not where the configuration says."""
        self.config = config
        self.paths = RunPaths(root or Path(config.run.directory) / config.run.name)
        self.store = Store(self.paths)
        self.on_progress: Progress = lambda stage, iteration, done, all_: None
        self.on_decision: Callable[[str], None] = lambda line: None
        self._attempt = 0
        self._lock: RunLock | None = None
        self._workers: Workers | None = None
        self._trackers: list[Tracker] | None = None
        self._judges: dict[str, Judges] = {}

    # --- opening and closing ------------------------------------------------------------------

    @classmethod
    def read(cls, root: Path) -> Run:
        """A run that exists, with the configuration it was last run with; writes nothing.

        Raises ValueError if there is no run or its configuration cannot be read.
        """
        paths = RunPaths(root)
        if not paths.config.is_file():
            raise ValueError(f"{root}: no run here (no {paths.config.name}); `icpo ls` lists runs")
        return cls(build(files.read_json(paths.config), str(paths.config)), root)

    def open(self) -> Run:
        """Take the run for writing: folder, lock, configuration, a new attempt.

        Raises ValueError, naming the owner, while another process has it.
        """
        self._lock = RunLock(self.paths.lock)
        self._lock.acquire()
        record = self._record()
        self._attempt = len(record["attempts"]) + 1
        record["attempts"].append(
            {
                "number": self._attempt,
                "started": time.time(),
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "command": sys.argv,
                "git": manifest.git(),
                "libraries": manifest.libraries(),
            }
        )
        files.write_json(self.paths.record, record)
        resolved = self.config.model_dump(mode="json")
        files.write_json(self.paths.config, resolved)
        files.write_json(self.logs / "config.json", resolved)
        _OPEN[self.paths.root.resolve()] = self
        return self

    def close(self) -> None:
        """End workers and judges, give the lock back."""
        _OPEN.pop(self.paths.root.resolve(), None)
        if self._workers is not None:
            self._workers.stop()
            self._workers = None
        for judges in self._judges.values():
            judges.close()
        self._judges.clear()
        for tracker in self._trackers or []:
            tracker.close()
        self._trackers = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Run:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _record(self) -> dict[str, Any]:
        if self.paths.record.is_file():
            return files.read_json(self.paths.record)
        return {
            "name": self.paths.root.name,
            "created": time.time(),
            "schema_version": SCHEMA_VERSION,
            "attempts": [],
        }

    # --- what stages work with ----------------------------------------------------------------

    @property
    def seed(self) -> int:
        return self.config.run.seed

    @property
    def logs(self) -> Path:
        """Folder of this attempt's logs."""
        return self.paths.attempt(self._attempt)

    @property
    def workers(self) -> Workers:
        if self._workers is None:
            self._workers = Workers(self.config, self.base_model, self.logs)
        return self._workers

    @cached_property
    def base_model(self) -> Path:
        """Folder of the policy at the start. Raises ValueError if it cannot be had."""
        return models.resolve(self.config.model.path)

    @cached_property
    def base_version(self) -> str:
        """Digest of the base model's weights."""
        return files.model_digest(self.base_model)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.base_model)

    @cached_property
    def prompt_maker(self) -> PromptMaker:
        """Raises ValueError for problem sets or settings that cannot serve."""
        prompts, rollout = self.config.prompts, self.config.rollout
        pool = read_problems(prompts.demonstrations) if prompts.demonstrations else None
        return PromptMaker(
            read_problems(prompts.problems),
            pool if rollout.expert_source == "in_context" and rollout.expert else None,
            [read_problems(path) for path in prompts.exclude],
            self.tokenizer,
            prompts,
            self.seed,
            traces=rollout.expert_source == "traces" and rollout.expert > 0,
        )

    def require_sources(self) -> None:
        """Raise ValueError, in one line, if the model or a problem set cannot be had or cannot
        serve. Reads what is cheap to read, so that a mistake shows before anything is started."""
        prompts, rollout = self.config.prompts, self.config.rollout
        assert self.base_version
        problems = read_problems(prompts.problems)
        if prompts.batch_size > problems.num_rows:
            raise ValueError(
                f"prompts.batch_size = {prompts.batch_size} is more than the {problems.num_rows} "
                f"problems of {prompts.problems}: lower it, or give more problems"
            )
        if prompts.demonstrations and rollout.expert:
            pool = read_problems(prompts.demonstrations)
            if pool["solution"].null_count == pool.num_rows:
                raise ValueError(
                    f"{prompts.demonstrations}: none of its rows has a solution, so none can be "
                    "shown; fill column solution, or give another prompts.demonstrations"
                )
        for path in prompts.exclude:
            read_problems(path)
        for benchmark in self.config.evaluate.benchmarks:
            benchmarks.read(benchmark.name, benchmark.problems)

    @property
    def trackers(self) -> list[Tracker]:
        if self._trackers is None:
            self._trackers = open_trackers(self.config, self.paths.root)
        return self._trackers

    def judges(self, stage: str) -> Judges:
        """The pool of judges of `verify` or `evaluate`, which have rules of their own."""
        if stage not in self._judges:
            verify = self.config.verify
            rules = verify.rules if stage == "verify" else self.config.evaluate.rules
            self._judges[stage] = Judges(verify.workers, verify.seconds, verify.memory_mb, rules)
        return self._judges[stage]

    def policy(self, iteration: int) -> tuple[Path, str, Path | None]:
        """The policy after an iteration (0: the base model): folder, digest, probe.

        Raises ValueError if the iteration's weights were not made or were pruned.
        """
        if iteration == 0:
            return self.base_model, self.base_version, None
        found = self.store.manifest("update", iteration)
        if found is None or found.policy_version is None:
            raise ValueError(
                f"{self.paths.root}: iteration {iteration} has no update yet; "
                f"`icpo plan {self.paths.root}` shows what comes first"
            )
        folder = self.paths.stage("update", iteration) / "model"
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{folder}: the weights of iteration {iteration} were pruned (checkpoint.keep_last,"
                " keep_every); choose another iteration"
            )
        return folder, found.policy_version, folder / "probe.parquet"

    def seed_of(self, *parts: str | int) -> int:
        """Seed of a piece of this run's work."""
        return stable_seed(self.seed, *parts)
