"""An opened run: its configuration, its folder, and what its stages work with.

Everything heavy (problem sets, tokenizer, judges, workers) is made when it is first needed, once.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from icpo_core.common import files
from icpo_core.common.lock import RunLock
from icpo_core.config import Config, build, load, override
from icpo_core.evaluation import benchmarks
from icpo_core.grading.pool import Judges
from icpo_core.method.problems import read_problems
from icpo_core.method.prompts import PromptMaker
from icpo_core.mirror.download import fetch
from icpo_core.mirror.mirror import Mirror
from icpo_core.mirror.object_store import AwayError, ObjectStore
from icpo_core.mirror.uploader import Uploads
from icpo_core.models import folder as models
from icpo_core.run.prefetch import Ahead
from icpo_core.run.trackers import Tracker, open_trackers, require_installed
from icpo_core.store import eras, run_record
from icpo_core.store.eras import Era
from icpo_core.store.paths import RunPaths
from icpo_core.store.store import Store
from icpo_core.workers.pool import Around, Workers
from icpo_core.workers.process import EndedError

Progress = Callable[[str, int, int, int], None]
"""Told (stage, iteration, done, all) while a stage works."""

_OPEN: dict[Path, Run] = {}


def opened(root: str | Path) -> Run:
    """The run at `root` that this process has open: what Prefect hands on is a path, not a run."""
    return _OPEN[Path(root).resolve()]


def stored_config(root: Path) -> Config:
    """The configuration that the run at `root` was last run with.

    Raises ValueError if there is no run or its configuration cannot be read.
    """
    paths = RunPaths(root)
    if not paths.config.is_file():
        raise ValueError(f"{root}: no run here (no {paths.config.name}); `icpo ls` lists runs")
    stored = run_record.read_copied(paths, paths.config)
    assert stored is not None
    return build(stored, str(paths.config))


class Run:
    """One run, open in this process. A context manager: closing ends its workers and its lock."""

    def __init__(self, config: Config, root: Path | None = None) -> None:
        """`root`: the run's folder, if it is not where the configuration says."""
        self.config = config
        self.paths = RunPaths(root or Path(config.run.directory) / config.run.name)
        self.store = Store(self.paths)
        self.on_progress: Progress = lambda stage, iteration, done, all_: None
        self.on_decision: Callable[[str], None] = lambda line: None
        self.on_mirror: Callable[[str], None] = lambda line: print(line, file=sys.stderr)
        self.around_part: Around = lambda job, do: do()
        """How a part of the rollouts is made, in whatever frame is wanted."""
        self.make_workers = Workers
        self.settled = False
        """Whether this process has ended the removals that an earlier one began."""
        self._attempt = 0
        self._ending = False
        self._owner = self
        self._earlier: dict[int, Run] = {}
        self._lock: RunLock | None = None
        self._uploads: Uploads | None = None
        self._workers: Workers | None = None
        self._making = threading.Lock()
        self._trackers: list[Tracker] | None = None
        self._judges: dict[str, Judges] = {}
        self._ahead = Ahead()

    # --- opening and closing ------------------------------------------------------------------

    @classmethod
    def read(cls, root: Path) -> Run:
        """A run that exists, with the configuration it was last run with; writes nothing.

        Raises ValueError if there is no run or its configuration cannot be read.
        """
        return cls(stored_config(root), root)

    @classmethod
    def named(
        cls, config: str | Path, overrides: list[str] | None = None, name: str | None = None
    ) -> Run:
        """The run of a TOML file, or the run of this folder, with changes to its configuration.

        Raises ValueError for a user's mistake.
        """
        path = Path(config)
        if not RunPaths(path).config.is_file():
            return cls(load(path, overrides, name))
        folder = path.resolve()
        place = [
            f"run.directory={json.dumps(str(folder.parent))}",
            f"run.name={json.dumps(name or folder.name)}",
        ]
        return cls(override(stored_config(path), [*place, *(overrides or [])]))

    def open(self) -> Run:
        """Take the run for writing: folder, lock, what its mirror has beyond the folder, a new
        attempt. Its configuration stays what it is until `keep_config`.

        Raises ValueError, naming the owner, while another process has it or writes its mirror.
        """
        self._lock = RunLock(self.paths.lock)
        self._lock.acquire()
        try:
            if self.config.run.mirror:
                self._open_mirror(Mirror(self.paths, self.mirror_url))
            self.store.writable = True
            self._attempt = run_record.append_attempt(self.paths, self.config.model.path)
        except BaseException:
            self.close()
            raise
        if self._uploads is not None:
            self.store.on_change = self._uploads.changed
            self._uploads.start()
        self._ending = False
        _OPEN[self.paths.root.resolve()] = self
        return self

    @property
    def mirror_url(self) -> str:
        """Where the run's copy is kept, if `run.mirror` is set."""
        return f"{self.config.run.mirror.rstrip('/')}/{self.paths.root.name}"

    def _open_mirror(self, mirror: Mirror) -> None:
        """Claim the mirror, and fetch what it has beyond the folder."""
        url, may_go_on = mirror.store.url, self.paths.record.is_file()
        self._uploads = Uploads(mirror, lambda line: self.on_mirror(line))
        try:
            mirror.claim.take()
            if not mirror.is_ahead():
                return
            may_go_on = False
            self.on_mirror(f"{self.paths.root}: is brought to what {url} has")
            for line in fetch(mirror):
                self.on_mirror(line)
            self.store = Store(self.paths)  # what was read of the folder before is of no account
            self.__dict__.pop("eras", None)
        except AwayError as error:
            if not may_go_on:
                raise ValueError(
                    f"{url}: the mirror does not answer ({error}), and may have this run, to be "
                    'gone on with; try again later, or do without it: -o run.mirror=""'
                ) from None

    def keep_config(self) -> None:
        """Make this configuration the run's own, from which it is planned and gone on with."""
        kept = self.config.model_dump(mode="json")
        files.write_sealed(self.logs / self.paths.config.name, kept, durable=False)
        files.write_sealed(self.paths.config, kept)

    def close(self) -> None:
        """End workers and judges, wait for the mirror, give the lock back."""
        _OPEN.pop(self.paths.root.resolve(), None)
        for run in (self, *self._earlier.values()):
            for judges in run._judges.values():
                judges.interrupt()
        self._ahead.close()
        for earlier in self._earlier.values():
            earlier.close()
        self._earlier.clear()
        self.stop_workers()
        for judges in self._judges.values():
            judges.close()
        self._judges.clear()
        for tracker in self._trackers or []:
            tracker.close()
        self._trackers = None
        if self._uploads is not None:
            self.store.on_change = lambda stage, iteration: None
            self._uploads.close()
            self._uploads = None
        if self._lock is not None:
            self.store.writable = False
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

    # --- eras ---------------------------------------------------------------------------------

    @cached_property
    def eras(self) -> list[Era]:
        """What a branch has of the runs that it comes from; none otherwise."""
        return eras.read(run_record.read(self.paths) or {})

    def at(self, iteration: int) -> Run:
        """This run with the configuration that an iteration belongs to: its own, or in a branch,
        for what was made before the branching, that of the run which it comes from."""
        if self._owner is not self:
            return self._owner.at(iteration)
        for era in self.eras:
            if iteration <= era.last:
                return self._in(era)
        return self

    def _in(self, era: Era) -> Run:
        if era.last not in self._earlier:
            run = Run(era.config, self.paths.root)
            run._owner, run.store, run.make_workers = self, self.store, self.make_workers
            run.on_progress = lambda *news: self.on_progress(*news)
            run.on_decision = lambda line: self.on_decision(line)
            run.around_part = lambda job, do: self.around_part(job, do)
            self._earlier[era.last] = run
        return self._earlier[era.last]

    # --- what stages work with ----------------------------------------------------------------

    @property
    def seed(self) -> int:
        return self.config.run.seed

    @property
    def logs(self) -> Path:
        """Folder of this attempt's logs."""
        return self.paths.attempt(self.attempt)

    @property
    def attempt(self) -> int:
        """Number of this attempt at the run, from 1."""
        return self._owner._attempt

    @property
    def ahead(self) -> Ahead:
        """What is made before a stage asks for it, of all eras."""
        return self._owner._ahead

    @property
    def workers(self) -> Workers:
        """Engine and trainer with this run's configuration. Those of another era are ended first:
        devices and memory are for one set of them."""
        with self._owner._making:
            if self._owner._ending:
                raise EndedError(f"{self.paths.root}: this run is being ended")
            if self._workers is None:
                for other in (self._owner, *self._owner._earlier.values()):
                    other.stop_workers()
                self._workers = self.make_workers(self.config, self.base_model, self.logs)
            return self._workers

    def interrupt(self) -> None:
        """End what engine and trainer are doing, whoever waits for it, and start neither again."""
        with self._owner._making:
            self._owner._ending = True
        for run in (self._owner, *self._owner._earlier.values()):
            run.stop_workers()

    def stop_workers(self) -> None:
        """End engine and trainer; they start again when they are needed."""
        if self._workers is not None:
            self._workers.stop()
            self._workers = None

    @cached_property
    def base_model(self) -> Path:
        """Folder of the policy at the start. Raises ValueError if it cannot be had."""
        return models.resolve(self.config.model.path)

    @cached_property
    def base_version(self) -> str:
        """Digest of the base model's weights."""
        return files.model_digest(self.base_model)

    @cached_property
    def model_settings(self) -> dict[str, str]:
        """Digests of what the base model's folder says beside its weights."""
        return {
            "tokenizer": models.tokenizer_digest(self.base_model),
            "model settings": models.settings_digest(self.base_model),
        }

    @cached_property
    def tokenizer(self) -> Any:
        return models.load_tokenizer(self.base_model)

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
        require_installed(self.config)
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
        if self.config.run.mirror:
            ObjectStore(self.mirror_url)
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
        if not self.has_weights(iteration):
            raise ValueError(
                f"{self.paths.root}: the weights of iteration {iteration} were pruned "
                "(checkpoint.keep_last, keep_every); choose another iteration"
            )
        folder = self.paths.stage("update", iteration) / "model"
        return folder, found.policy_version, folder / "probe.parquet"

    def has_weights(self, iteration: int) -> bool:
        """Whether the weights of a finished update are still there."""
        return "model/config.json" not in self.store.marks.pruned("update", iteration)

    def nearest_policy(self, iteration: int) -> Path:
        """Folder of the newest weights up to an iteration that are there: an engine may start with
        them and load others."""
        for number in range(iteration, 0, -1):
            folder = self.paths.stage("update", number) / "model"
            if self.store.finished("update", number) is not None and self.has_weights(number):
                return folder
        return self.base_model
