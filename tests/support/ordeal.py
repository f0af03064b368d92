"""A run that is struck by one fault after another, and gone on with as a user would.

At the end of every run each stage's content digest, which covers the bytes of weights and of the
optimizer's saved states, must be that of a run that nothing happened to. Whatever else ends a run
for good is lost too: it cannot be gone on with, it stands still, `icpo check` fails, or processes
stay.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil
import stubs
from faults import FAULTS, OF_ENGINES, Fault, Place
from killing import Zygote
from places import DEMO, ROOT

from icpo_core.run import integrity
from icpo_core.run.run import Run
from icpo_core.store.paths import RunPaths

Say = Callable[[str], None]
REFUSALS = 4
"""Attempts in a row that may end by themselves with an error before a run counts as lost."""
LEFT_SECONDS = 60.0
EARLY = 0.3
"""Share of the attempts that may be struck before they have finished a stage."""


class LostError(Exception):
    """A run that a fault ended for good, or made another one."""


class Attempt(Protocol):
    """One process that trains."""

    def ended(self) -> str | None:
        """None while it is at work, then its last words, "" where it came to the run's end."""


class Trains(Protocol):
    faults: dict[str, Fault]
    until_hung: float
    """Seconds without a finished stage after which a run stands still."""
    moments: float
    """Seconds, at most, between two faults."""

    def start(self, place: Place) -> Attempt: ...

    def check(self, place: Place) -> bool:
        """Whether every file is as recorded, after a check that marks what is not."""


# --- what trains ------------------------------------------------------------------------------


class _Forked:
    def __init__(self, future: Future[str]) -> None:
        self._future = future

    def ended(self) -> str | None:
        return self._future.result() if self._future.done() else None


class StandIns:
    """The stand-ins of `stubs`, in a process that is forked in milliseconds."""

    until_hung, moments = 180.0, 1.0

    def __init__(self, zygote: Zygote, pool: ThreadPoolExecutor, iterations: int) -> None:
        self.faults = dict(FAULTS)
        self._zygote, self._pool = zygote, pool
        self._changes = [f"run.iterations={iterations}"]

    def start(self, place: Place) -> Attempt:
        def run() -> str:
            death = self._zygote.run(place.runs.parent, self._changes)
            return "killed" if death.killed else death.words

        return _Forked(self._pool.submit(run))

    def check(self, place: Place) -> bool:
        return not integrity.check(RunPaths(place.run))


class _Started:
    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def ended(self) -> str | None:
        if self._process.poll() is None:
            return None
        if self._process.returncode == 0:
            return ""
        words = self._log.read_text("utf-8", "replace").strip()
        return f"status {self._process.returncode}: {words[-600:]}"


class Engines:
    """`icpo train` with vLLM and DeepSpeed, now and then with Prefect's temporary server."""

    until_hung, moments = 300.0, 12.0

    def __init__(self, folder: Path, iterations: int, prefect: float) -> None:
        """prefect: share of the attempts that run with a server."""
        self._folder, self._prefect = folder, prefect
        self.faults = {**FAULTS, **OF_ENGINES}
        self._changes = [
            f"run.iterations={iterations}", "prompts.batch_size=4", "rollout.on_policy=3",
            "rollout.expert=1", "rollout.shards=2", "rollout.max_tokens=32", "evaluate.every=6",
            "checkpoint.state_every=3", "update.learning_rate=1e-3", "run.trackers=[]",
            *stubs.problem_sets(folder / "data"),
        ]  # fmt: skip

    def start(self, place: Place) -> Attempt:
        changes = [*self._changes, f"run.directory={place.runs}"]
        words = [word for change in changes for word in ("-o", change)]
        plain = [] if place.draw.random() < self._prefect else ["--plain"]
        return self._icpo(place, "train", str(DEMO), "--run", "run", *plain, *words)

    def check(self, place: Place) -> bool:
        found = self._icpo(place, "check", str(place.run))
        while (words := found.ended()) is None:
            time.sleep(0.1)
        if words and ("Traceback" in words or not words.startswith("status 1:")):
            raise LostError(f"icpo check: {words}")
        return not words

    def _icpo(self, place: Place, *words: str) -> _Started:
        log = self._folder / "said"
        environment = {
            name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"
        } | place.environment
        environment |= {"PREFECT_HOME": str(self._folder / "prefect"), "PYTHONPATH": str(ROOT)}
        with log.open("w") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "icpo", *words],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, text=True, env=environment,
                cwd=self._folder, start_new_session=True,
            )  # fmt: skip
        return _Started(process, log)


@contextmanager
def stand_ins(place: Place, iterations: int) -> Iterator[StandIns]:
    with Zygote(place.environment) as zygote, ThreadPoolExecutor(1) as pool:
        place.spared.add(zygote.pid)
        yield StandIns(zygote, pool, iterations)


# --- the ordeal -------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was injected, and what became of it."""

    seed: int
    injected: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Faults of the runs that were lost: one of these it was."""
    runs: int = 0
    attempts: int = 0
    stages: int = 0
    """Whose digests were compared."""
    reports: list[str] = field(default_factory=list)
    """What was lost, and with which words."""

    def table(self) -> str:
        rows = [("fault", "injected", "survived", "lost")]
        for kind, count in sorted(self.injected.items()):
            rows.append((kind, str(count), str(count - self.lost[kind]), str(self.lost[kind])))
        all_, lost = self.injected.total(), self.lost.total()
        rows.append(("all", str(all_), str(all_ - lost), str(lost)))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows
        ]
        about = (
            f"seed {self.seed}: {self.runs} runs, {self.attempts} starts, {self.stages} digests of "
            "stages compared"
        )
        return "\n".join([*lines, about, *self.reports])


def undisturbed(trains: Trains, place: Place) -> dict[str, str]:
    """Content digest of every stage of a run that nothing happens to."""
    attempt = trains.start(place)
    while (words := attempt.ended()) is None:
        time.sleep(0.1)
    assert words == "", words
    found = stubs.digests_of(Run.read(place.run))
    shutil.rmtree(place.run)
    return found


def endure(
    trains: Trains, place: Place, whole: dict[str, str], tally: Tally, over: Callable[[], bool],
    say: Say = lambda line: None,
) -> None:  # fmt: skip
    """Strike one run after another until it is over; the last one is brought to its end."""
    while not over():
        struck: list[str] = []
        try:
            _one_run(trains, place, tally, struck, over, say)
            found = stubs.digests_of(Run.read(place.run))
            differ = sorted(k for k in whole.keys() | found.keys() if whole.get(k) != found.get(k))
            if differ:
                raise LostError(f"other digests in silence: {', '.join(differ)}")
            tally.stages += len(found)
            say(f"run {tally.runs}: {len(struck)} faults, {len(found)} digests equal")
        except LostError as error:
            tally.lost.update(struck)
            tally.reports.append(f"LOST after {', '.join(struck)}: {error}")
            say(tally.reports[-1])
            kept = place.runs.parent / f"lost-{tally.runs}"
            shutil.copytree(place.run, kept, symlinks=True, ignore_dangling_symlinks=True)
        finally:
            _end_all(place)
        tally.runs += 1
        shutil.rmtree(place.run)


def _one_run(
    trains: Trains, place: Place, tally: Tally, struck: list[str], over: Callable[[], bool],
    say: Say,
) -> None:  # fmt: skip
    """From nothing to its end; `struck` gets the faults."""
    refusals = 0
    while True:
        attempt = trains.start(place)
        tally.attempts += 1
        faults_before = len(struck)
        words = _struck_until_it_ends(trains, place, attempt, tally, struck, over, say)
        _require_nothing_left(place)
        place.tell(slow=0)
        if words == "":
            if trains.check(place):
                return
            words = "finished, and icpo check found damage"
        elif "Traceback" in words:
            tally.reports.append(f"not one line: {words}")
        say(f"  ended: {words.splitlines()[-1] if words else ''}")
        refusals = refusals + 1 if len(struck) == faults_before else 0
        if refusals >= REFUSALS:
            raise LostError(f"cannot be gone on with: {words}")
        # Whoever is refused twice does what the line says.
        if (place.draw.random() < 0.5 or refusals > 1) and place.run.is_dir():
            trains.check(place)


def _struck_until_it_ends(
    trains: Trains, place: Place, attempt: Attempt, tally: Tally, struck: list[str],
    over: Callable[[], bool], say: Say,
) -> str:  # fmt: skip
    """One attempt; its last words."""
    files, since = _manifests(place), time.monotonic()
    early, begun = place.draw.random() < EARLY, False
    due = time.monotonic() + place.draw.uniform(0, trains.moments)
    while (words := attempt.ended()) is None:
        time.sleep(0.02)
        now = time.monotonic()
        if now < due:
            continue
        if (there := _manifests(place)) != files:
            files, since, begun = there, now, True
        if now - since > trains.until_hung:
            raise LostError(f"stands still since {now - since:.0f} s")
        if over() or not (early or begun):
            due = now + 0.2
            continue
        due = now + place.draw.uniform(0, trains.moments)
        kind = place.draw.choice(sorted(trains.faults))
        what = trains.faults[kind](place)
        if what is not None:
            tally.injected[kind] += 1
            struck.append(kind)
            say(f"  {kind}: {what}")
    return words


def _manifests(place: Place) -> int:
    return sum(1 for _ in place.run.glob("it-*/*/manifest.json"))


def _require_nothing_left(place: Place) -> None:
    """Nothing outlives a run."""
    until = time.monotonic() + LEFT_SECONDS
    while left := place.processes():
        if time.monotonic() > until:
            raise LostError(f"processes stay: {left}")
        time.sleep(0.1)


def _end_all(place: Place) -> None:
    for some in place.processes().values():
        for process in some:
            with suppress(psutil.Error):
                process.kill()
