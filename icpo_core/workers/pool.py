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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any

from icpo_core.config import Config
from icpo_core.workers import devices
from icpo_core.workers.launcher import Ranks, launch, slots
from icpo_core.workers.placement import Placement, place
from icpo_core.workers.process import EndedError, Worker, WorkerError, python_command

Progress = Callable[[int, int], None]

Around = Callable[[dict[str, Any], Callable[[], dict[str, Any]]], dict[str, Any]]
"""Given a job and what does it: does it and returns the reply, in whatever frame is wanted."""


class Workers:
    """Engines and trainer of one run; a context manager that ends all of them."""

    def __init__(self, config: Config, model: Path, logs: Path) -> None:
        """`model`: the base model's folder; `logs`: where each worker's log goes."""
        self._config, self._model, self._logs = config, model, logs
        self._engines: dict[int, Worker] = {}
        self._asleep: set[int] = set()
        self._lost: dict[int, str] = {}
        self._trainer: Worker | None = None
        self._trainer_starts = 0
        self._training = threading.Lock()
        self._starting = threading.Lock()
        self._ended = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @cached_property
    def placement(self) -> Placement:
        """Raises ValueError where the machine's devices do not hold what the run asks for."""
        return place(self._config, devices.visible(), self._hosts)

    @cached_property
    def _hosts(self) -> dict[str, int]:
        hostfile = self._config.update.hostfile
        return slots(Path(hostfile)) if hostfile else {}

    @contextmanager
    def _spawning(self) -> Iterator[None]:
        """Frame of every spawn: none after `stop`, which another thread may call."""
        with self._starting:
            if self._ended:
                raise EndedError("the workers were ended by their own run")
            yield

    def start_engine(self, policy: Path) -> None:
        """Spawn the engines that are not there with the weights in `policy`, without waiting.

        Raises EndedError after `stop`.
        """
        with self._spawning():
            self._start_engine(policy)

    def _start_engine(self, policy: Path) -> None:
        rollout, placement = self._config.rollout, self.placement
        for number, address in enumerate(rollout.endpoints):
            if number in self._engines and self._engines[number].alive:
                continue
            served = {
                "address": address,
                "model": str(policy),
                "engine": rollout.engine.model_dump(),
            }
            self._engines[number] = Worker(
                f"endpoint {address}",
                python_command(rollout.python, "icpo_core.engine.remote", served),
                self._logs / f"endpoint-{number}.log",
                rollout.start_seconds,
            )
        settings = {
            "model": str(policy),
            "engine": rollout.engine.model_dump(),
            "seed": self._config.run.seed,
            "sleeps": placement.shared,
        }
        for number, chosen in enumerate(placement.engines):
            if number in self._engines and self._engines[number].alive:
                continue
            single = len(placement.engines) == 1
            self._asleep.discard(number)
            self._engines[number] = Worker(
                "rollout engine" if single else f"rollout engine {number}",
                python_command(rollout.python, "icpo_core.engine.vllm", settings),
                self._logs / ("engine.log" if single else f"engine-{number}.log"),
                rollout.start_seconds,
                _share(placement, number, chosen, rollout.engine.cpu_threads),
            )

    def start_trainer(self) -> None:
        """Spawn the trainer with the base model, without waiting for it.

        Raises EndedError after `stop`.
        """
        if self._trainer is not None and self._trainer.alive:
            return
        if self.placement.shared:
            # An engine measures what is free on its device while it starts.
            self._each(lambda number: self._engines[number].wait_ready())
        with self._spawning():
            self._start_trainer()

    def _start_trainer(self) -> None:
        config, update, placement = self._config, self._config.update, self.placement
        settings = {
            "model": str(self._model),
            "loss": config.loss.model_dump(),
            "update": update.model_dump(),
            "temperature": config.rollout.temperature,
            "off_policy_steps": config.rollout.off_policy_steps,
        }
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
        command = launch(update.python, chosen, hostfile, folder, settings)
        several = len(self._hosts) > 1
        self._trainer = Ranks(command, log, folder, update.start_seconds, several)

    def load(self, policy: Path, policy_version: str, probe: Path | None) -> dict[str, Any]:
        """Make every engine hold these weights and prove it; the largest `reload_seconds`,
        `start_seconds` (waited for an engine that was still starting) and `probe_gap`.

        An endpoint that does not answer is left out until the next `load`; WorkerError if none
        does. Raises ValueError if an engine holds other weights afterwards.
        """
        self.start_engine(policy)
        self._lost.clear()
        job = {
            "job": "load",
            "model": str(policy),
            "policy_version": policy_version,
            "probe": str(probe) if probe else None,
            "max_logprob_gap": self._config.rollout.max_logprob_gap,
        }
        seconds = self._config.rollout.seconds

        def put(number: int) -> dict[str, Any] | None:
            clock = time.monotonic()
            try:
                self._engines[number].wait_ready()
                waited = time.monotonic() - clock
                return self._engines[number].call(job, seconds) | {"start_seconds": waited}
            except WorkerError as error:
                self._lose(number, error)
                return None

        replies = [reply for reply in self._each(put) if reply is not None]
        self._asleep.clear()
        gaps = [reply["probe_gap"] for reply in replies if reply["probe_gap"] is not None]
        return {
            "reload_seconds": max(reply["reload_seconds"] for reply in replies),
            "start_seconds": max(reply["start_seconds"] for reply in replies),
            "probe_gap": max(gaps) if gaps else None,
        }

    def sample(self, job: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Have an engine do a `rollout` or `sample` job, after `load`."""
        return self.sample_all([job], on_progress)[0]

    def sample_all(
        self,
        jobs: Sequence[dict[str, Any]],
        on_progress: Progress,
        around: Around = lambda job, do: do(),
    ) -> list[dict[str, Any]]:
        """Have the engines do jobs, each by whichever is free; replies in the order of the jobs,
        each with the number of its `engine`.

        on_progress is told of all jobs together, as if they were alike. `around` is called in the
        engine's thread and does a job. After an error no further job is handed out; those under
        way are finished, and the first error is raised. The job of an endpoint that failed is given
        to another.
        """
        seconds = self._config.rollout.seconds
        replies: dict[int, dict[str, Any]] = {}
        waiting, progress = list(range(len(jobs)))[::-1], [0.0] * len(jobs)
        lock = threading.Lock()

        def tell(index: int, news: dict[str, Any]) -> None:
            with lock:
                progress[index] = news["done"] / max(1, news["all"])
                all_ = news["all"] * len(jobs)
                on_progress(round(sum(progress) / len(jobs) * all_), all_)

        def do(number: int, index: int) -> dict[str, Any]:
            engine = self._engines[number]
            return engine.call(jobs[index], seconds, partial(tell, index)) | {"engine": number}

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
                        if not self._config.rollout.endpoints:
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

    def train(self, job: dict[str, Any]) -> dict[str, Any]:
        """Have the trainer do an `update` or `save` job. Its reply says too what it waited for:
        `waits`, seconds by name. One job at a time: another thread's waits."""
        with self._training:
            return self._train(job)

    def _train(self, job: dict[str, Any]) -> dict[str, Any]:
        clock = [time.monotonic()]
        self.start_trainer()
        if self.placement.shared:
            self._sleep()
        clock.append(time.monotonic())
        assert self._trainer is not None
        self._trainer.wait_ready()
        clock.append(time.monotonic())
        reply = self._trainer.call(job, self._config.update.seconds)
        return reply | {"waits": {"engines": clock[1] - clock[0], "start": clock[2] - clock[1]}}

    def stop(self) -> None:
        """End all workers with all their children, for good: what other threads wait for, or ask
        for later, ends with EndedError."""
        with self._starting:
            self._ended = True
        for worker in [*self._engines.values(), self._trainer]:
            if worker is not None:
                worker.stop()

    def _lose(self, number: int, error: WorkerError) -> None:
        """Go on without an endpoint that failed; raise without any left, or for our own engine."""
        if isinstance(error, EndedError) or not self._config.rollout.endpoints:
            raise error
        self._lost[number] = str(error)
        self._engines[number].stop()
        if len(self._lost) == len(self._engines):
            raise WorkerError("no endpoint is left: " + "; ".join(self._lost.values()))

    def _sleep(self) -> None:
        """Have the engines give their devices' memory back until the next `load`."""
        awake = [number for number in self._engines if number not in self._asleep]
        awake = [number for number in awake if self._engines[number].alive]
        seconds = self._config.rollout.seconds
        self._each(lambda number: self._engines[number].call({"job": "sleep"}, seconds), awake)
        self._asleep.update(awake)

    def _each(self, task: Callable[[int], Any], numbers: Sequence[int] | None = None) -> list[Any]:
        """Do a task for several engines at once; the first error is raised when all are through."""
        chosen = list(self._engines if numbers is None else numbers)
        if len(chosen) == 1:
            return [task(chosen[0])]
        with ThreadPoolExecutor(max(1, len(chosen)), "engine") as pool:
            under_way = [pool.submit(task, number) for number in chosen]
        return [one.result() for one in under_way]


def _share(
    placement: Placement, number: int, chosen: list[str], threads: int
) -> dict[str, str] | None:
    """What keeps an engine to its own devices, or of several on the CPU each to its own cores."""
    if chosen:
        return {devices.VARIABLE: ",".join(chosen)}
    if len(placement.engines) == 1:
        return None
    cores, count = sorted(os.sched_getaffinity(0)), len(placement.engines)
    each = threads or max(1, len(cores) // count)
    mine = cores[number * each : (number + 1) * each] or [cores[number % len(cores)]]
    return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, mine))}
