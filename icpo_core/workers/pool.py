"""The long-lived workers of a run: the rollout engines and the trainer.

Each is spawned once, lives as long as the run and dies with it. What a worker holds is named by a
digest (weights) or a state id (weights and optimizer), so a fresh worker in the place of one that
died is told what to load.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from icpo_core.common import limits
from icpo_core.common.closing import Closing
from icpo_core.common.files import require_weights
from icpo_core.config import Config, EngineSection, LoraSection
from icpo_core.workers import devices, variables
from icpo_core.workers.client import Client, Host
from icpo_core.workers.errors import EndedError, WorkerError
from icpo_core.workers.jobs import (
    EngineSettings,
    Job,
    Load,
    Loaded,
    R,
    Sampled,
    Sleep,
    TrainerSettings,
)
from icpo_core.workers.launcher import Ranks, launch, slots
from icpo_core.workers.placement import Placement, place
from icpo_core.workers.process import Say, Worker, python_command

Around = Callable[[Any, Callable[[], Sampled]], Sampled]
"""Given a `Job[Sampled]` and what does it: does it, in whatever frame is wanted, and returns the
reply."""
T = TypeVar("T")


def unframed(_job: Any, do: Callable[[], Sampled]) -> Sampled:
    """An `Around` that adds nothing."""
    return do()


GIB = 1 << 30
FILES = 64
"""That a process has open beside its connections to servers."""
MOST = 4
"""Engines, or ranks of the trainer, that a core is to hold where there are no devices."""


def require(config: Config) -> None:
    """Raises ValueError where this machine could start no engine or trainer of a run, before one of
    them is waited for: no interpreter, too few devices, a variable that their libraries refuse."""
    for name, python in (
        ("rollout.python", config.rollout.python),
        ("update.python", config.update.python),
    ):
        if python and not os.access(python, os.X_OK):
            raise ValueError(f"{name} = {python}: no Python interpreter there; give its whole path")
    if not (config.rollout.python or config.rollout.endpoints):
        variables.require_of_vllm()
    if not config.update.python:
        variables.require_of_torch()
    hostfile, found = config.update.hostfile, devices.visible()
    placed = place(config, found, slots(Path(hostfile)) if hostfile else {})
    engines, most = len(placed.engines), MOST * limits.cores()
    for key, count in (("rollout.engines", engines), ("update.ranks", placed.ranks)):
        if not found and not hostfile and count > most:
            raise ValueError(
                f"{key} = {count}: without devices these are processes on {limits.cores()} cores, "
                f"which hold {most} at most; lower it"
            )
    Fleet.of(config, Path()).require_connections()
    cache = config.rollout.engine.cpu_kv_cache_gib
    if not found and engines * cache * GIB > limits.memory():
        raise ValueError(
            f"rollout.engine.cpu_kv_cache_gib = {cache} for each of {engines} engines is more than "
            f"the {limits.memory() // GIB} GiB of this machine: lower it, or rollout.engines"
        )


class Workers(Protocol):
    """What a run asks of its workers: engines that sample, and one trainer."""

    def start_engine(self, policy: Path) -> None:
        """Spawn the engines that are not there with the weights in `policy`, without waiting."""

    def start_trainer(self) -> None:
        """Spawn the trainer with the base model, without waiting for it."""

    def load(self, policy: Path, policy_version: str, proof: Path | None) -> Loaded:
        """Make every engine hold these weights and prove it."""

    def sample_all(
        self, jobs: Sequence[Job[Sampled]], on_progress: Say, around: Around = unframed
    ) -> list[Sampled]:
        """Have the engines do jobs; replies in the order of the jobs."""

    def train(self, job: Job[R]) -> R:
        """Have the trainer do a job. One at a time: another thread's waits."""

    def close(self) -> None:
        """End all of them, for good."""


@dataclass(frozen=True)
class Fleet:
    """Which engines there are, and the limits of their jobs."""

    engine: EngineSection
    seed: int
    endpoints: Sequence[str]
    """Addresses of servers in the place of engines of our own."""
    python: str | None
    seconds: float
    """Wall-clock limit of one job."""
    start_seconds: float
    max_logprob_gap: float | None = None
    base: Path | None = None
    """Folder of the base model where engines load adapters beside it (`rollout.lora`)."""
    lora: LoraSection | None = None
    deterministic: bool = False

    @property
    def served(self) -> bool:
        """Whether engines are clients of servers, which hold no weights themselves: endpoints are,
        unless another kind of engine is named."""
        return bool(self.endpoints) and self.engine.kind in ("vllm", "server")

    def require_connections(self) -> None:
        """Raises ValueError where servers are asked more at once than a process may."""
        asked = len(self.endpoints) * (self.engine.max_num_seqs + 1)
        if self.served and asked > (files := limits.open_files() - FILES):
            raise ValueError(
                f"endpoints: {asked} requests at once are more connections than a process may have "
                f"({files}): raise `ulimit -Hn`, or lower max_num_seqs"
            )

    @staticmethod
    def of(config: Config, base: Path) -> Fleet:
        """A run's own. base: folder of its base model."""
        rollout, beside = config.rollout, config.rollout.lora == "adapter"
        return Fleet(
            rollout.engine,
            config.run.seed,
            rollout.endpoints,
            rollout.python,
            rollout.seconds,
            rollout.start_seconds,
            rollout.max_logprob_gap,
            base if beside else None,
            config.update.lora if beside else None,
            rollout.deterministic,
        )


class Engines(Closing):
    """The engines of a fleet, which sample side by side."""

    def __init__(
        self, fleet: Fleet, logs: Path, placed: list[list[str]], sleeps: bool = False
    ) -> None:
        """`logs`: where each one's log goes. `placed`: devices of each engine of our own, none of
        them on the CPU. sleeps: `sleep` will be asked for."""
        fleet.require_connections()
        self._fleet, self._logs, self._placed, self._sleeps = fleet, logs, placed, sleeps
        self._engines: dict[int, Worker] = {}
        self._host: Host | None = None
        self._asleep: set[int] = set()
        self._lost: dict[int, str] = {}
        self._starting = threading.Lock()
        self._ended = False

    def start(self, policy: Path) -> None:
        """Spawn the engines that are not there with the weights in `policy`, without waiting.

        Raises EndedError after `close`.
        """
        with self._starting:
            if self._ended:
                raise EndedError("the workers were ended by their own run")
            for number in range(len(self._fleet.endpoints) or len(self._placed)):
                if number not in self._engines or not self._engines[number].alive:
                    self._asleep.discard(number)
                    self._engines[number] = self._spawn(number, policy)

    def _spawn(self, number: int, policy: Path) -> Worker:
        fleet = self._fleet
        address = fleet.endpoints[number] if fleet.endpoints else ""
        settings = EngineSettings(
            kind=fleet.engine.kind,
            model=fleet.base or policy,
            engine=fleet.engine,
            seed=fleet.seed,
            sleeps=self._sleeps,
            address=address,
            lora=fleet.lora,
            deterministic=fleet.deterministic,
        )
        if fleet.served:
            if self._host is None or not self._host.alive:
                command = python_command(fleet.python, "icpo_core.engine.clients", settings)
                self._host = Host(command, self._logs / "endpoints.log", fleet.start_seconds)
            return Client(self._host, address, fleet.start_seconds)
        if address:
            role, log = f"endpoint {address}", f"endpoint-{number}.log"
        elif len(self._placed) == 1:
            role, log = "rollout engine", "engine.log"
        else:
            role, log = f"rollout engine {number}", f"engine-{number}.log"
        return Worker(
            role,
            python_command(fleet.python, "icpo_core.engine.process", settings),
            self._logs / log,
            fleet.start_seconds,
            None if address else _share(self._placed, number, fleet.engine.cpu_threads),
        )

    def wait_ready(self) -> None:
        """Wait until all that were started are up."""
        self._each(lambda number: self._engines[number].wait_ready())

    def load(self, policy: Path, policy_version: str, proof: Path | None) -> Loaded:
        """Make every engine hold these weights and prove it; the largest seconds and gap of them.

        An endpoint that does not answer is left out until the next `load`; WorkerError if none
        does. Raises ValueError if an engine holds other weights afterwards.
        """
        if self._fleet.served:
            require_weights(policy, policy_version)  # once a machine, and not in every client
        self.start(policy)
        self._lost.clear()
        job = Load(
            model=policy,
            policy_version=policy_version,
            proof=proof,
            max_logprob_gap=self._fleet.max_logprob_gap,
        )

        def put(number: int) -> Loaded | None:
            clock = time.monotonic()
            try:
                self._engines[number].wait_ready()
                waited = time.monotonic() - clock
                reply = self._engines[number].call(job, self._fleet.seconds)
                return reply.model_copy(update={"start_seconds": waited})
            except WorkerError as error:
                self._lose(number, error)
                return None

        replies = [reply for reply in self._each(put) if reply is not None]
        self._asleep.clear()
        gaps = [reply.proof_gap for reply in replies if reply.proof_gap is not None]
        worst = max(replies, key=lambda reply: reply.proof.get("probe_upper", 0.0))
        return Loaded(
            proof=worst.proof,
            reload_seconds=max(reply.reload_seconds for reply in replies),
            start_seconds=max(reply.start_seconds for reply in replies),
            proof_gap=max(gaps) if gaps else None,
        )

    def call(self, job: Job[R]) -> R:
        """Have one engine do a job, after `load`."""
        number = next(number for number in self._engines if number not in self._lost)
        return self._engines[number].call(job, self._fleet.seconds)

    def sample_all(
        self, jobs: Sequence[Job[Sampled]], on_progress: Say, around: Around = unframed
    ) -> list[Sampled]:
        """Have the engines do jobs, each by whichever is free; replies in the order of the jobs,
        each with the number of its `engine`.

        on_progress is told of all jobs together, as if they were alike. `around` is called in the
        engine's thread and does a job. After an error no further job is handed out; those under
        way are finished, and the first error is raised. The job of an endpoint that failed is given
        to another.
        """
        assert self._engines, "engines are started by `load`"
        replies: dict[int, Sampled] = {}
        waiting, progress = list(range(len(jobs)))[::-1], [0.0] * len(jobs)
        lock = threading.Lock()

        def tell(index: int, done: int, all_: int) -> None:
            with lock:
                progress[index] = done / max(1, all_)
                whole = all_ * len(jobs)
                on_progress(round(sum(progress) / len(jobs) * whole), whole)

        def do(number: int, index: int) -> Sampled:
            engine = self._engines[number]
            reply = engine.call(jobs[index], self._fleet.seconds, partial(tell, index))
            return reply.model_copy(update={"engine": number})

        def work(number: int) -> None:
            while True:
                with lock:
                    if not waiting:
                        return
                    index = waiting.pop()
                try:
                    replies[index] = around(jobs[index], partial(do, number, index))
                except WorkerError as error:
                    with lock:
                        if not self._fleet.endpoints:
                            waiting.clear()
                        else:
                            waiting.append(index)
                    self._lose(number, error)
                    return
                except ValueError:
                    with lock:
                        waiting.clear()
                    raise
                progress[index] = 1.0

        while len(replies) < len(jobs):
            # Once more where an endpoint was lost when the others had no more to do.
            self._each(work, [number for number in self._engines if number not in self._lost])
        return [replies[index] for index in range(len(jobs))]

    def sleep(self) -> None:
        """Have the engines give their devices' memory back until the next `load`."""
        awake = [number for number in self._engines if number not in self._asleep]
        awake = [number for number in awake if self._engines[number].alive]
        self._each(lambda number: self._engines[number].call(Sleep(), self._fleet.seconds), awake)
        self._asleep.update(awake)

    def close(self) -> None:
        """End all engines with all their children, for good: what other threads wait for, or ask
        for later, ends with EndedError."""
        with self._starting:
            self._ended = True
        for engine in self._engines.values():
            engine.stop()
        if self._host is not None:
            self._host.stop()

    def _lose(self, number: int, error: WorkerError) -> None:
        """Go on without an endpoint that failed; raise without any left, or for our own engine."""
        if isinstance(error, EndedError) or not self._fleet.endpoints:
            raise error
        self._lost[number] = str(error)
        self._engines[number].stop()
        if len(self._lost) == len(self._engines):
            raise WorkerError("no endpoint is left: " + "; ".join(self._lost.values()))

    def _each(self, task: Callable[[int], T], numbers: Sequence[int] | None = None) -> list[T]:
        """Do a task for several engines at once; the first error is raised when all are through."""
        chosen = list(self._engines if numbers is None else numbers)
        if len(chosen) == 1:
            return [task(chosen[0])]
        with ThreadPoolExecutor(max(1, len(chosen)), "engine") as pool:
            under_way = [pool.submit(task, number) for number in chosen]
            try:
                wait(under_way)
            except BaseException:  # a signal: an hour of their work is not waited for
                self.close()
                raise
        return [one.result() for one in under_way]


class WorkerPool(Closing):
    """Engines and trainer of one run, as processes: the `Workers` that do the work."""

    def __init__(self, config: Config, model: Path, logs: Path) -> None:
        """`model`: the base model's folder; `logs`: where each worker's log goes."""
        self._config, self._model, self._logs = config, model, logs
        self._trainer: Worker | None = None
        self._trainer_starts = 0
        self._training = threading.Lock()
        self._starting = threading.Lock()
        self._ended = False

    @cached_property
    def placement(self) -> Placement:
        """Raises ValueError where the machine's devices do not hold what the run asks for."""
        return place(self._config, devices.visible(), self._hosts)

    @cached_property
    def engines(self) -> Engines:
        placed = self.placement
        return Engines(
            Fleet.of(self._config, self._model), self._logs, placed.engines, placed.shared
        )

    @cached_property
    def _hosts(self) -> dict[str, int]:
        hostfile = self._config.update.hostfile
        return slots(Path(hostfile)) if hostfile else {}

    @contextmanager
    def _spawning(self) -> Iterator[None]:
        """Frame of every spawn: none after `close`, which another thread may call."""
        with self._starting:
            if self._ended:
                raise EndedError("the workers were ended by their own run")
            yield

    def start_engine(self, policy: Path) -> None:
        """Spawn the engines that are not there with the weights in `policy`, without waiting.

        Raises EndedError after `close`.
        """
        with self._spawning():
            self.engines.start(policy)

    def load(self, policy: Path, policy_version: str, proof: Path | None) -> Loaded:
        """As `Engines.load`. Raises EndedError after `close`."""
        self.start_engine(policy)
        return self.engines.load(policy, policy_version, proof)

    def sample_all(
        self, jobs: Sequence[Job[Sampled]], on_progress: Say, around: Around = unframed
    ) -> list[Sampled]:
        """As `Engines.sample_all`."""
        return self.engines.sample_all(jobs, on_progress, around)

    def start_trainer(self) -> None:
        """Spawn the trainer with the base model, without waiting for it.

        Raises EndedError after `close`.
        """
        if self._trainer is not None and self._trainer.alive:
            return
        if self.placement.shared:
            # An engine measures what is free on its device while it starts.
            self.engines.wait_ready()
        with self._spawning():
            self._start_trainer()

    def _start_trainer(self) -> None:
        config, update, placement = self._config, self._config.update, self.placement
        settings = TrainerSettings(
            model=self._model,
            loss=config.loss,
            update=update,
            temperature=config.rollout.temperature,
            updates_behind=config.rollout.updates_behind,
        )
        log = self._logs / "trainer.log"
        if placement.ranks == 1:
            self._trainer = Worker(
                "trainer",
                python_command(update.python, "icpo_core.trainer.process", settings),
                log,
                update.start_seconds,
                {devices.VARIABLE: ",".join(placement.trainer)} if placement.trainer else None,
            )
            return
        self._trainer_starts += 1
        folder = self._logs / f"trainer-{self._trainer_starts}"
        hostfile = Path(update.hostfile) if update.hostfile else None
        chosen = placement.trainer or placement.ranks
        command = launch(update.python, chosen, hostfile, folder, settings, update.rendezvous)
        several = len(self._hosts) > 1
        self._trainer = Ranks(command, log, folder, update.start_seconds, several)

    def train(self, job: Job[R]) -> R:
        """Have the trainer do an `Update` or `Save` job. Its reply says too what it waited for:
        `waits`, seconds by name. One job at a time: another thread's waits."""
        with self._training:
            clock = [time.monotonic()]
            self.start_trainer()
            if self.placement.shared:
                self.engines.sleep()
            clock.append(time.monotonic())
            assert self._trainer is not None
            self._trainer.wait_ready()
            clock.append(time.monotonic())
            reply = self._trainer.call(job, self._config.update.seconds)
            waits = {"engines": clock[1] - clock[0], "start": clock[2] - clock[1]}
            return reply.model_copy(update={"waits": waits})

    def close(self) -> None:
        """End all workers with all their children, for good: what other threads wait for, or ask
        for later, ends with EndedError."""
        with self._starting:
            self._ended = True
        if "engines" in vars(self):
            self.engines.close()
        if self._trainer is not None:
            self._trainer.stop()


def _share(placed: list[list[str]], number: int, threads: int) -> dict[str, str] | None:
    """What keeps an engine to its own devices, or of several on the CPU each to its own cores."""
    if placed[number]:
        return {devices.VARIABLE: ",".join(placed[number])}
    if len(placed) == 1:
        return None
    cores, count = sorted(os.sched_getaffinity(0)), len(placed)
    each = threads or max(1, limits.cores() // count)
    mine = cores[number * each : (number + 1) * each] or [cores[number % len(cores)]]
    return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, mine))}
