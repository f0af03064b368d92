"""What ran when in an iteration, what waited for what, and how busy it kept the machine.

A manifest says when its stage began and how long it took. Within it, its fact `spans` says what
each engine, the judges and the trainer did, and what was done ahead of the stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from icpo_core.store.manifest import Manifest
from icpo_core.store.store import Store
from icpo_core.workers.jobs import Loaded, Sampled
from icpo_core.workers.pool import Around

LEAST = 0.001
"""Seconds below which a wait is none."""
FLOW = "stages"
"""The lane of the stages themselves."""
WAITS = "wait for "
"""How the names of spans begin in which nothing is done."""


@dataclass(frozen=True)
class Span:
    """Something that took time. `lane`: who did it. `started`: Unix time, seconds."""

    lane: str
    name: str
    started: float
    seconds: float

    @property
    def ended(self) -> float:
        return self.started + self.seconds


class Recorder:
    """Takes down the spans of a stage while it is made; from any thread."""

    def __init__(self) -> None:
        self._spans: list[Span] = []

    def add(self, lane: str, name: str, started: float, seconds: float) -> None:
        self._spans.append(Span(lane, name, started, seconds))

    @contextmanager
    def span(self, lane: str, name: str) -> Iterator[None]:
        started, clock = time.time(), time.monotonic()
        yield
        self.add(lane, name, started, time.monotonic() - clock)

    def row(self, lane: str, started: float, names: dict[str, float]) -> None:
        """Spans one behind another, seconds by name; waits that are none are left out."""
        for name, seconds in names.items():
            if seconds >= LEAST or not name.startswith(WAITS):
                self.add(lane, name, started, seconds)
            started += seconds

    def load(self, reply: Loaded, started: float, seconds: float) -> None:
        """What `Workers.load` did: waited for engines to start, and had them load the weights."""
        waited = reply.start_seconds
        words = {f"{WAITS}start": waited, "load weights": max(0.0, seconds - waited)}
        self.row("engines", started, words)

    def parts(self, around: Around, name: Callable[[Any], str]) -> Around:
        """`around`, that also takes down which engine did a job, when, and for how long."""

        def noted(job: Any, do: Callable[[], Sampled]) -> Sampled:
            def timed() -> Sampled:
                started, clock = time.time(), time.monotonic()
                reply = do()
                seconds = time.monotonic() - clock
                self.add(f"engine {reply.engine}", name(job), started, seconds)
                return reply

            return around(job, timed)

        return noted

    def facts(self) -> list[dict[str, Any]]:
        """The spans for a manifest, in the order in which they began."""
        return [asdict(one) for one in sorted(self._spans, key=lambda one: one.started)]


def within(found: Manifest) -> list[Span]:
    """What a stage's manifest says of what was done within it and ahead of it."""
    return [Span(**one) for one in found.facts.get("spans", [])]


def manifests(store: Store, iteration: int) -> list[Manifest]:
    """Those of an iteration's finished stages, in the order in which they began."""
    found = [store.finished(stage, iteration) for stage in store.paths.stages(iteration)]
    return sorted((one for one in found if one is not None), key=lambda one: one.started)


def spans(found: Iterable[Manifest]) -> list[Span]:
    """All that is known of an iteration: each stage, and after it what was done within it."""
    known: list[Span] = []
    for one in found:
        known += [Span(FLOW, one.stage, one.started, one.seconds), *within(one)]
    return known


def gaps(found: Sequence[Manifest], before: Sequence[Manifest] = ()) -> dict[str, float]:
    """Seconds between the stage before and each stage's beginning, by stage, in which no stage ran.

    `before`: the manifests of the iteration before. Known only within one attempt: between two of
    them the run was not there.
    """
    known: dict[str, float] = {}
    ended = {one.facts.get("attempt"): one.started + one.seconds for one in before}
    for one in found:
        attempt = one.facts.get("attempt")
        if attempt is not None and attempt in ended:
            known[one.stage] = max(0.0, one.started - ended[attempt])
        # Off-policy, rollouts are sampled while the update before them is made.
        ended[attempt] = max(ended.get(attempt, 0.0), one.started + one.seconds)
    return known


def sampling_seconds(found: Manifest) -> float:
    """From the first part's beginning to the last one's end, of parts that were sampled just then:
    wall time, however many engines there were."""
    parts = [one for one in within(found) if one.lane.startswith("engine ")]
    if not parts:
        return 0.0
    return max(one.ended for one in parts) - min(one.started for one in parts)
