"""What a stage is: one object that says what it reads, what it depends on, and how it is made.

Its fingerprint is made of its inputs, its settings and its version, so that changing a key reruns
just the stages that read it and what depends on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icpo_core.config import Config
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.run.timeline import Recorder
from icpo_core.store.manifest import Manifest
from icpo_core.store.tables import Written
from icpo_core.store.work import Work
from icpo_core.workers.errors import EndedError, WorkerError

CURSOR = "cursor"
"""Fact of stage `rollout`: batches of problems that were taken up to then (`prompts.fill`)."""

Inputs = dict[str, str | None]
"""Digest of everything that a stage reads, by name."""


class NotReadyError(ValueError):
    """A stage cannot be named yet, because one that it reads is not finished."""


class Reader:
    """How a stage says what it reads of others, at one iteration of a run."""

    def __init__(self, run: Run, iteration: int) -> None:
        """`run`: with the configuration of the iteration."""
        self.run, self.iteration = run, iteration
        self.parents: dict[str, str] = {}
        """What was read: where each stage lies in the run, by its fingerprint."""

    def content(self, stage: str, iteration: int | None = None) -> str | None:
        """Digest of all files of a stage, of this iteration or another. Raises NotReadyError, as
        all do."""
        at = self.iteration if iteration is None else iteration
        return self._digest(stage, at, Manifest.content)

    def taken(self, stage: str, iteration: int, name: str) -> str | None:
        """What a stage had as an input."""
        return self._digest(stage, iteration, lambda found: found.inputs.get(name))

    def table(self, stage: str, name: str, iteration: int | None = None) -> str | None:
        """Digest of one table of a stage, of this iteration or another."""
        at = self.iteration if iteration is None else iteration

        def digest(found: Manifest) -> str:
            if not found.has(name):  # made by other settings
                raise NotReadyError(f"waits for {name} of {stage} of iteration {at}")
            return found.digest(name)

        return self._digest(stage, at, digest)

    def parts(self, stage: str) -> dict[str, str]:
        """Digest of each part of the table of a stage's name, of this iteration, by name; nothing
        before it is there."""
        found = self.run.store.finished(stage, self.iteration)
        return {one.name: one.digest for one in found.table(stage)} if found else {}

    def fingerprint(self, stage: str, iteration: int) -> str | None:
        """Fingerprint of a stage, by which the trainer's state after it is known."""
        return self._digest(stage, iteration, lambda found: found.fingerprint)

    def cursor(self) -> str | None:
        """Batches of problems that earlier iterations took, where that hangs on what they sampled
        (`prompts.fill`)."""
        before = self.iteration - 1
        if before == 0:
            return "0"
        return self._digest("rollout", before, lambda found: str(found.facts.get(CURSOR, before)))

    def policy(self, iteration: int) -> str | None:
        """Digest of the weights after an iteration; 0: of the base model."""
        if iteration == 0:
            return self.run.base_version
        return self._digest("update", iteration, lambda found: found.policy_version)

    def _digest(
        self, stage: str, iteration: int, of: Callable[[Manifest], str | None]
    ) -> str | None:
        found = self.run.store.finished(stage, iteration)
        if found is None:
            raise NotReadyError(f"waits for {stage} of iteration {iteration}")
        self.parents[found.fingerprint] = self.run.paths.place(stage, iteration)
        return of(found)


class Tracer(Reader):
    """A reader that only takes down which stages are asked for, finished or not."""

    def __init__(self, run: Run, iteration: int) -> None:
        super().__init__(run, iteration)
        self.asked: list[tuple[str, int]] = []

    def _digest(
        self, stage: str, iteration: int, of: Callable[[Manifest], str | None]
    ) -> str | None:
        self.asked.append((stage, iteration))
        return None


@dataclass(frozen=True)
class Made:
    """What a stage's function leaves beside its files."""

    facts: dict[str, Any]
    policy_version: str | None = None
    known: dict[str, Written] | None = None
    """What is known of files, by name, because they were just written."""


@dataclass(frozen=True)
class Stage:
    """One stage. `STAGES` lists them in their order."""

    name: str
    version: int
    """Code version: bumped by hand when the code makes other results of the same inputs."""
    reads: Callable[[Reader], Inputs]
    """What it reads: digests by name."""
    settings: Callable[[Config], dict[str, Any]]
    """The part of the configuration that can change its result, by dotted key."""
    make: Callable[[Session, Work], Made]
    """Makes it: writes its files into its folder."""
    parts: Callable[[Reader], dict[str, Inputs]] = lambda reader: {}
    """What each of its parts reads in the place of the whole, by the part's name, where they are
    made one by one, as those of the stage before are."""
    of_start: bool = False
    """Whether iteration 0, the untrained model, may have it."""
    samples: bool = False
    """Whether it has the engines hold a policy, until it is made: one stage at a time."""
    draws: bool = False
    """Whether it draws by the run's seed. An evaluation's seeds are those of every other run."""
    wanted: Callable[[Config], bool] = lambda config: True
    """Whether a run has it at all."""
    due: Callable[[Config, int], bool] = lambda config, iteration: iteration > 0
    """Whether an iteration has it; iteration 0 is the untrained model's."""
    weights: Callable[[Run, int], int | None] = lambda run, iteration: None
    """After which iteration's update it needs the weights, if any: they may have been pruned."""
    state: Callable[[Run, int], int | None] = lambda run, iteration: None
    """After which iteration it needs the trainer's state, if any."""
    withdraw: Callable[[Run, int], None] = lambda run, iteration: None
    """Before it is made again: takes back what says that it is there."""
    about: str = ""
    """What it does, for people."""


def folder_of(session: Session, work: Work) -> Path:
    return session.run.paths.stage(work.stage, work.iteration)


def load_policy(session: Session, noted: Recorder, iteration: int, after: int) -> dict[str, Any]:
    """Have the engines of an iteration hold the policy that came `after` one; facts of it."""
    started, clock = time.time(), time.monotonic()
    policy = session.run.policy(after)
    try:
        reply = session.tools(iteration).workers.load(policy.folder, policy.version, policy.proof)
    except EndedError:
        raise
    except (ValueError, WorkerError):
        # Of files that are damaged an engine says all kinds of things, each time anew.
        for number in {after, session.run.nearest_weights(after)} - {0}:
            session.run.require_whole_weights(number)
        raise
    noted.load(reply, started, time.monotonic() - clock)
    facts = {"reload_seconds": reply.reload_seconds, "probe_gap": reply.proof_gap}
    return facts | reply.proof


def reporter(session: Session, work: Work, part: int, parts: int) -> Callable[[int, int], None]:
    """Progress of one part as progress of the whole stage, as if parts were alike."""
    context = copy_context()  # an engine's thread has none of its own

    def say(done: int, all_: int) -> None:
        news = work.stage, work.iteration, part * all_ + done, parts * all_
        context.copy().run(session.observer.progress, *news)

    return say
