"""A session: what one process has open of a run. Lock, mirror, workers, judges, trackers.

Whoever watches (the terminal, Prefect, a test) is its `Observer`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from icpo_core.common import files
from icpo_core.common.closing import Closing
from icpo_core.common.lock import RunLock
from icpo_core.common.text import plain
from icpo_core.config import Config, check_plugins
from icpo_core.evaluation import benchmarks
from icpo_core.grading.pool import Judges
from icpo_core.grading.rewards import Judging
from icpo_core.method.problems import read_problems
from icpo_core.method.prompts import PromptMaker
from icpo_core.method.verdicts import judging
from icpo_core.mirror.download import fetch
from icpo_core.mirror.mirror import Mirror
from icpo_core.mirror.object_store import AwayError
from icpo_core.mirror.uploader import Uploads
from icpo_core.run import trust
from icpo_core.run.prefetch import Ahead
from icpo_core.run.run import Run
from icpo_core.run.sampler import Sampler
from icpo_core.run.trackers import Tracker, open_trackers
from icpo_core.store import run_record
from icpo_core.workers import devices
from icpo_core.workers.errors import EndedError
from icpo_core.workers.jobs import Judge, Rollout, Sampled
from icpo_core.workers.pool import WorkerPool, Workers

_CURRENT: ContextVar[Session | None] = ContextVar("session", default=None)

AWAY = 32
"""Parts that are judged elsewhere at once: a thread waits for each."""

MakeWorkers = Callable[[Config, Path, Path], Workers]
"""Given configuration, base model's folder and the folder of logs."""


def current() -> Session:
    """The session that this context is in: what Prefect hands on is a path, not a run."""
    session = _CURRENT.get()
    assert session is not None, "no run is open in this context"
    return session


class Observer:
    """Whoever watches a run is told what it does. This one says only what the mirror has to say."""

    def part(self, job: Rollout, do: Callable[[], Sampled]) -> Sampled:
        """Frame of a part of the rollouts, in the engine's thread: calls `do`."""
        return do()

    def judge(self, job: Judge) -> bool:
        """Have a part judged elsewhere; whether the reply is there. Raises EndedError."""
        return False

    def ends(self) -> None:
        """The session ends: what is elsewhere is waited for no more."""

    def ids(self) -> dict[str, str]:
        """What the manifest of the stage at work says of the frame that it is made in."""
        return {}

    def begins(self, first: int) -> None:
        """The loop begins with this iteration."""

    def progress(self, stage: str, iteration: int, done: int, all_: int) -> None:
        """How far a stage is."""

    def decision(self, line: str) -> None:
        """What is skipped or made, and why."""

    def short(self, line: str) -> None:
        """What was asked for and cannot be given."""
        print(plain(line), file=sys.stderr)

    def mirror(self, line: str) -> None:
        """What the mirror has to say."""
        print(plain(line), file=sys.stderr)

    def recorded(self, iteration: int, figures: dict[str, float]) -> None:
        """An iteration is done, and these are its figures."""


_NONE: Mapping[str, str] = {}


class Tools:
    """What stages work with under one configuration; each is made when it is first needed."""

    def __init__(self, session: Session, run: Run) -> None:
        """`run`: with the configuration."""
        self._session, self.run, self.config = session, run, run.config
        self._judges: dict[str, tuple[Mapping[str, str], Judging]] = {}
        self._workers: Workers | None = None

    @property
    def workers(self) -> Workers:
        """Engine and trainer. Those of another configuration are ended first: devices and memory
        are for one set of them. Raises EndedError in a session that ends."""
        return self._session.workers_of(self)

    @cached_property
    def prompt_maker(self) -> PromptMaker:
        """Raises ValueError for problem sets or settings that cannot serve."""
        prompts, rollout = self.config.prompts, self.config.rollout
        pool = read_problems(prompts.demonstrations) if prompts.demonstrations else None
        excluded = [read_problems(path) for path in prompts.exclude]
        if prompts.pool != "fixed":  # nobody chose what joins it
            for one in self.config.evaluate.benchmarks:
                asked = benchmarks.read(one.name, one.problems).problems
                excluded.append(pa.table({"problem": [problem.text for problem in asked]}))
        return PromptMaker(
            read_problems(prompts.problems),
            pool if rollout.expert_source == "in_context" and rollout.expert else None,
            excluded,
            self.run.tokenizer,
            prompts,
            self.config.run.seed,
            traces=rollout.expert_source == "traces" and rollout.expert > 0,
            tries=rollout.expert_tries,
        )

    @cached_property
    def lesson_maker(self) -> PromptMaker:
        """Makes the prompts of a teacher, whether or not there are expert rollouts."""
        prompts, rollout = self.config.prompts, self.config.rollout
        if rollout.expert and rollout.expert_source == "in_context":
            return self.prompt_maker
        pool = read_problems(prompts.demonstrations) if prompts.demonstrations else None
        return PromptMaker(
            read_problems(prompts.problems),
            pool,
            [read_problems(path) for path in prompts.exclude],
            self.run.tokenizer,
            prompts,
            self.config.run.seed,
        )

    @property
    def has_prompts(self) -> bool:
        """Whether the problems have been read."""
        return "prompt_maker" in vars(self)

    def judges(self, stage: str, sources: Mapping[str, str] = _NONE) -> Judging:
        """The judges of `verify` or `evaluate`, which have rules of their own.

        `sources`: `config.plugin_sources` of the stage. Where they are not those that the judges
        were started with, one's own verifier was edited meanwhile, and others are made.
        """
        held = self._judges.get(stage)
        if held is not None and held[0] == sources:
            return held[1]
        verify = self.config.verify
        if stage == "verify":
            judges = judging(verify, sources, self.run.paths.kept)
        elif self.config.own_judges:
            asked = verify.model_copy(update={"rules": self.config.evaluate.rules})
            judges = judging(asked, sources, self.run.paths.kept)
        else:
            limits = verify.workers, verify.seconds, verify.memory_mb
            judges = Judges(*limits, self.config.evaluate.rules)
        self._judges[stage] = sources, judges
        if held is not None:
            held[1].close()
        return judges

    def interrupt_judges(self) -> None:
        for _, judges in self._judges.values():
            judges.interrupt()

    def stop_workers(self) -> None:
        """End engine and trainer; they start again when they are needed."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def close(self) -> None:
        self.stop_workers()
        for _, judges in self._judges.values():
            judges.close()
        self._judges.clear()


class Session(Closing):
    """A run that this process has open for writing."""

    def __init__(
        self, run: Run, observer: Observer | None = None, make_workers: MakeWorkers = WorkerPool
    ) -> None:
        self.run = run
        self.observer = observer or Observer()
        self.attempt = 0
        """Number of this attempt at the run, from 1."""
        elsewhere = {"verify": AWAY} if run.config.verify.pool else {}
        self.ahead = Ahead(max(0, run.config.rollout.off_policy_steps - 1), elsewhere)
        """What is made before a stage asks for it."""
        self.sampler = Sampler()
        """What is sampled off-policy."""
        self.engines = threading.Lock()
        """Of whoever has the engines hold a policy, until it has sampled."""
        self.settled = False
        """Whether the removals that an earlier process began are ended."""
        self.said_short = False
        """Whether it was said what cannot be given as asked."""
        self._make_workers = make_workers
        self._ending = False
        self._tools: dict[int, Tools] = {}
        self._making = threading.Lock()
        self._lock: RunLock | None = None
        self._uploads: Uploads | None = None

    def __enter__(self) -> Session:
        return self.open()

    def open(self) -> Session:
        """Take the run for writing: folder, lock, what its mirror has beyond the folder, a new
        attempt. Its configuration stays what it is until `keep_config`.

        Raises ValueError, naming the owner, while another process has it or writes its mirror.
        """
        self.run.paths.require_inside()
        trust.require(self.run)
        self._lock = RunLock(self.run.paths.lock)
        self._lock.acquire()
        try:
            for path in self.run.paths.in_the_way():
                self.run.paths.set_aside(path)
            if self.run.config.run.mirror:
                self._open_mirror(Mirror(self.run.paths, self.run.mirror_url))
                trust.require(self.run)
            self.run.store.writable = True
            model = self.run.config.model.path
            self.attempt = run_record.append_attempt(self.run.paths, model, devices.names())
        except BaseException:
            self.close()
            raise
        if self._uploads is not None:
            self.run.store.on_change = self._uploads.changed
            self._uploads.start()
        self._ending = False
        self._outer = _CURRENT.get()
        _CURRENT.set(self)
        return self

    def _open_mirror(self, mirror: Mirror) -> None:
        """Claim the mirror, and fetch what it has beyond the folder."""
        url, may_go_on = mirror.store.url, self.run.paths.record.is_file()
        self._uploads = Uploads(mirror, lambda line: self.observer.mirror(line))
        try:
            mirror.claim.take()
            if not mirror.is_ahead():
                return
            may_go_on = False
            self.observer.mirror(f"{self.run.paths.root}: is brought to what {url} has")
            for line in fetch(mirror):
                self.observer.mirror(line)
            # What was read of the folder before is of no account.
            self.run = Run.of(self.run.config, self.run.paths.root, self.run.stored)
        except AwayError as error:
            if not may_go_on:
                raise ValueError(
                    f"{url}: the mirror does not answer ({error}), and may have this run, to be "
                    'gone on with; try again later, or do without it: -o run.mirror=""'
                ) from None

    def keep_config(self) -> None:
        """Make this configuration the run's own, from which it is planned and resumed."""
        kept = self.run.config.model_dump(mode="json")
        files.write_sealed(self.logs / self.run.paths.config.name, kept, durable=False)
        files.write_sealed(self.run.paths.config, kept)
        with suppress(OSError):  # a home that holds no key: the folder alone will not do then
            trust.seal(self.run)

    def prepare(self, first: int) -> None:
        """Start what an iteration works with, and wait for none of it but what shows a mistake in
        the data, or a tracker that is not available, before the run begins.

        Engine and trainer start while problems are read and trackers are opened.
        """
        check_plugins(self.run.config)
        tools = self.tools(first)
        tools.workers.start_engine(self.run.nearest_policy(self.run.sampling_policy(first)))
        tools.workers.start_trainer()
        tools.prompt_maker, self.trackers  # noqa: B018  a mistake in either shows now

    def close(self) -> None:
        """End workers and judges, wait for the mirror, give the lock back."""
        for tools in self._tools.values():
            tools.interrupt_judges()
        self.observer.ends()
        if self.sampler.busy:
            self.interrupt()
        self.sampler.close()
        self.ahead.close()
        for tools in self._tools.values():
            tools.close()
        self._tools.clear()
        for tracker in vars(self).pop("trackers", []):
            tracker.close()
        if self._uploads is not None:
            self.run.store.on_change = lambda stage, iteration: None
            self._uploads.close()
            self._uploads = None
        if _CURRENT.get() is self:
            _CURRENT.set(self._outer)
        if self._lock is not None:
            self.run.store.writable = False
            self._lock.release()
            self._lock = None

    # --- what stages work with ----------------------------------------------------------------

    @property
    def logs(self) -> Path:
        """Folder of this attempt's logs."""
        return self.run.paths.attempt(self.attempt)

    @cached_property
    def trackers(self) -> list[Tracker]:
        return open_trackers(self.run.config, self.run.paths.root)

    def tools(self, iteration: int) -> Tools:
        """What the stages of an iteration work with."""
        run = self.run.at(iteration)
        return self._tools.setdefault(id(run), Tools(self, run))

    def workers_of(self, tools: Tools) -> Workers:
        """Workers for these tools, made if need be."""
        with self._making:
            if self._ending:
                raise EndedError(f"{self.run.paths.root}: this run is being ended")
            if tools._workers is None:
                for other in self._tools.values():
                    other.stop_workers()
                tools._workers = self._make_workers(tools.config, tools.run.base_model, self.logs)
            return tools._workers

    def interrupt(self) -> None:
        """End what engine and trainer are doing, whoever waits for it, and start neither again."""
        with self._making:
            self._ending = True
        for tools in self._tools.values():
            tools.stop_workers()
