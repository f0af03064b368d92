"""Uploads to a run's mirror: a thread beside the run, which nothing waits for before the end.

It is told which stages have changed. While the store is away it tries again, less and less often,
and the run goes on; what is still missing at the end is uploaded by the next attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from icpo_core.common.lock import RefusedError
from icpo_core.mirror import claim
from icpo_core.mirror.mirror import Key, Mirror
from icpo_core.mirror.object_store import AwayError

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
GIVE_UP_SECONDS = 60.0
"""At the end: how long the store may be silent before what is left is left to the next attempt."""
PATIENCE_SECONDS = 5.0
"""At the end: how long before the wait is explained."""


class Uploads:
    """The uploads of one open run. `say` is told what a person should know, a line each."""

    def __init__(self, mirror: Mirror, say: Callable[[str], None]) -> None:
        self.mirror, self._say = mirror, say
        self._changed: set[Key] = set()
        self._held: set[Key] = set()
        """Stages whose removals wait for the newest checkpoint."""
        self._news = threading.Condition()
        self._closing = self._over = self._known = self._away = self._lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._life = threading.Thread(target=self._live, name="mirror-claim", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._life.start()

    def changed(self, stage: str, iteration: int) -> None:
        """A stage was made, or lost or got back files: returns at once."""
        with self._news:
            self._changed.add((stage, iteration))
            self._news.notify()

    def close(self) -> None:
        """Upload what is left, as long as the store takes it, and give the claim back."""
        with self._news:
            self._closing = True
            self._news.notify()
        began, told = time.monotonic(), False
        if self._thread.ident is None:
            self._release()
            return
        while self._thread.is_alive():
            self._thread.join(0.2)
            now = time.monotonic()
            if now - max(began, self.mirror.store.moved) > GIVE_UP_SECONDS:
                break
            if not told and now - began > PATIENCE_SECONDS:
                told = True
                self._say(f"{self.mirror.store.url}: uploading what is left")
        self._over = True
        self._ended.set()
        self._life.join(GIVE_UP_SECONDS)
        missing = len(self._changed)
        if not self._lost and (missing or not self._known):
            what = f"{missing} stages are" if self._known else "what is new is"
            self._say(
                f"{self.mirror.store.url}: {what} not there yet; the same command uploads them "
                f"when it goes on, or now `icpo push {self.mirror.paths.root}`"
            )
        if not self._thread.is_alive():
            self._release()

    def _release(self) -> None:
        try:
            self.mirror.claim.release()
        except (AwayError, ValueError):
            return  # it grows old, or this folder's next attempt takes it

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while not self._over:
            with self._news:
                while not (self._changed or self._closing or not self._known):
                    self._news.wait()
                closing, mine = self._closing, self._changed
                self._changed = set()
            mine |= self._held
            try:
                self._upload(mine, closing)
            except RefusedError as taken:
                self._lost = True
                self._say(f"{taken}; this run goes on without its mirror")
                return
            except (AwayError, ValueError) as error:
                with self._news:
                    self._changed |= mine
                    self._known = False  # whether the last request was heard is not known
                    if not self._away:
                        self._say(
                            f"{self.mirror.store.url}: the mirror does not answer ({error}); the "
                            "run goes on, and what is missing there is uploaded later"
                        )
                    self._away = True
                    self._news.wait(min(pause, GIVE_UP_SECONDS / 4) if closing else pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            except BaseException:
                self._changed |= mine  # a mistake of ours: `close` says what is missing
                raise
            pause = FIRST_PAUSE
            if self._away:
                self._away = False
                self._say(f"{self.mirror.store.url}: the mirror answers again")
            if closing and not self._changed:
                return

    def _upload(self, mine: set[Key], closing: bool) -> None:
        if not self._known:
            if not self.mirror.claim.held:
                self.mirror.claim.take()
            self.mirror.is_ahead()  # refuses a run that went another way meanwhile
            self.mirror.look()
            mine |= self.mirror.differences()
            self._known = True
        self._held = self.mirror.upload(mine, self._say, closing)

    def _live(self) -> None:
        while not self._ended.wait(claim.BEAT_SECONDS):
            try:
                if self.mirror.claim.held:
                    self.mirror.claim.beat()
            except (AwayError, ValueError):
                continue  # the other thread says so
