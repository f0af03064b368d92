"""What servers are asked: on one event loop a process, and each server's ended on its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """This process's, in a thread of its own, for whatever servers are asked."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="requests", daemon=True).start()
    return loop


class Calls:
    """What one server is asked at present, and the end of it."""

    def __init__(self) -> None:
        self._under_way: set[Future[Any]] = set()
        self._ended = False
        self._lock = threading.Lock()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it on the event loop, and wait. Raises CancelledError after `cancel`."""
        future = asyncio.run_coroutine_threadsafe(work, _loop())
        with self._lock:
            self._under_way.add(future)
            if self._ended:
                future.cancel()
        try:
            return future.result()
        finally:
            future.cancel()  # a signal to this thread ended the wait
            with self._lock:
                self._under_way.discard(future)

    def cancel(self) -> None:
        """End what is asked, and all that is to be."""
        with self._lock:
            self._ended = True
            for future in self._under_way:
                future.cancel()
