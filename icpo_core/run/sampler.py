"""Iterations that are sampled while others are trained on, one after another, in one thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context


class Sampler:
    """Holds what was handed over until it is waited for."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._held: dict[int, Future[object]] = {}

    def start(self, iteration: int, sample: Callable[[], object]) -> None:
        """Have an iteration sampled after those handed over before; one that is there stays."""
        if iteration in self._held:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "rollout")
        self._held[iteration] = self._pool.submit(copy_context().run, sample)

    def holds(self, iteration: int) -> bool:
        """Whether an iteration was handed over and not waited for yet."""
        return iteration in self._held

    def wait(self, iteration: int) -> None:
        """Wait for an iteration that was handed over. Raises what sampling it raised."""
        self._held[iteration].result()
        del self._held[iteration]

    @property
    def busy(self) -> bool:
        """Whether there is something to be sampled yet."""
        return any(not one.done() for one in self._held.values())

    def close(self) -> None:
        """Drop what waits. Waits for what is under way, so end the engines first."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        self._held.clear()
