"""Work of a stage that is done before the stage asks for it, while engines or trainer are busy.

The flow process waits most of its time for its workers. Meanwhile one thread of it judges parts of
the rollouts that are written, and makes the next iteration's prompts. A stage that is asked for
takes what is ahead if that was made from the same, and makes the rest itself: it writes the same
files and the same manifest either way. Verdicts lie in the folder of their stage as soon as they
are made, each part under a fingerprint of its own; prompts are in memory alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

Place = tuple[str, int, str]
"""Stage, iteration, part."""


@dataclass(frozen=True)
class Done:
    """What was made ahead. `started`: Unix time."""

    value: Any
    started: float
    seconds: float


class Ahead:
    """Results by the stage, iteration and part that they are for, made one after another."""

    def __init__(self, further: int = 0, elsewhere: Mapping[str, int] | None = None) -> None:
        """further: iterations before the newest that may still be taken. elsewhere: how many are
        made at once of a stage that another machine makes."""
        self._further = further
        self._lock = threading.Lock()
        self._elsewhere = elsewhere or {}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._held: dict[Place, tuple[str, Future[Done]]] = {}

    def start(
        self, stage: str, iteration: int, part: str, source: str, make: Callable[[], Any]
    ) -> None:
        """Have `make` called in the background. `source` names all that the result is made from.

        Takes the place of what there is for this part; what other iterations of the stage never
        took is let go.
        """
        place, young = (stage, iteration, part), range(iteration - self._further, iteration + 1)
        self._drop(lambda old: old == place or (old[0] == stage and old[1] not in young))
        with self._lock:
            whose = stage if stage in self._elsewhere else "ahead"
            if whose not in self._pools:
                self._pools[whose] = ThreadPoolExecutor(self._elsewhere.get(whose, 1), whose)
            future = self._pools[whose].submit(_timed, make)
            self._held[place] = source, future

    def look(self, stage: str, iteration: int, part: str) -> Any:
        """What is ahead for a part, waited for; it can still be taken. Raises what `make` raised.

        For whoever started it.
        """
        with self._lock:
            _, future = self._held[stage, iteration, part]
        return future.result().value

    def settle(self, stage: str, iteration: int) -> None:
        """Wait for what is ahead of a stage: it may be writing into its folder."""
        with self._lock:
            held = [(place[:2], future) for place, (_, future) in self._held.items()]
        wait([future for of, future in held if of == (stage, iteration)])

    def take(self, stage: str, iteration: int, part: str, source: str) -> Done | None:
        """What is ahead for a part, waited for if it is under way; None if there is nothing, or if
        it was made from something else. It can be taken once. Raises what `make` raised, and then
        lets the stage's other parts go, so that another try makes all of them itself."""
        with self._lock:
            made_from, future = self._held.pop((stage, iteration, part), ("", None))
        if future is None:
            return None
        if made_from != source:
            future.cancel()
            return None
        try:
            return future.result()
        except BaseException:
            self._drop(lambda place: place[:2] == (stage, iteration))
            raise

    def _drop(self, which: Callable[[Place], bool]) -> None:
        with self._lock:
            for place in [place for place in self._held if which(place)]:
                self._held.pop(place)[1].cancel()

    def close(self) -> None:
        """Drop what nobody took. Waits for what is under way, so end what that works with first."""
        with self._lock:
            pools, self._pools = self._pools, {}
            self._held.clear()
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)


def _timed(make: Callable[[], Any]) -> Done:
    started, clock = time.time(), time.monotonic()
    value = make()
    return Done(value, started, time.monotonic() - clock)
