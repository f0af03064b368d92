"""One writer a mirror: an object that says who writes, and shows a sign of life every minute.

An object store has no lock that dies with its owner. So the claim is made by a conditional put,
and one that nobody has renewed for five minutes counts as left behind. Whoever writes looks at it
before each stage: of two that took over a left-behind claim at once, or whose clocks are minutes
apart, one finds out there and stops.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from icpo_core.common.lock import RefusedError
from icpo_core.mirror.object_store import ObjectStore

CLAIM = "writer.json"
BEAT_SECONDS = 60.0
STALE_SECONDS = 300.0


class Claim:
    """This process's claim on a mirror. Methods raise what `ObjectStore` raises, too."""

    def __init__(self, store: ObjectStore, root: Path) -> None:
        """`root`: the run's folder, whose lock this process holds."""
        self._store = store
        self._mine: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "root": str(root.resolve()),
            "since": time.time(),
            "token": secrets.token_hex(8),
        }
        self.held = False

    def take(self) -> None:
        """Raises RefusedError, naming the owner, if another process writes."""
        owner = self._owner()
        if owner is not None and owner["token"] != self._mine["token"]:
            if not self._left_behind(owner):
                raise self._refusal(owner)
            self._store.remove(CLAIM)
        if not self._store.create(CLAIM, self._now()):
            # In the very moment; or by a request of ours whose answer was lost.
            self.require()
        self.held = True

    def require(self) -> None:
        """Raises RefusedError if the claim is another process's by now."""
        owner = self._owner()
        if owner is not None and owner["token"] != self._mine["token"]:
            self.held = False
            raise self._refusal(owner)
        if owner is None:  # someone took it away by hand: that is leave to go on
            self._store.write(CLAIM, self._now())

    def beat(self) -> None:
        """Show a sign of life."""
        self.require()
        self._store.write(CLAIM, self._now())

    def release(self) -> None:
        """Give it back, if this process holds it."""
        owner = self._owner() if self.held else None
        if owner is not None and owner["token"] == self._mine["token"]:
            self._store.remove(CLAIM)
        self.held = False

    def _owner(self) -> dict[str, Any] | None:
        data = self._store.read(CLAIM)
        if data is None:
            return None
        try:
            found = json.loads(data)
            return found if found.keys() >= self._mine.keys() | {"beat"} else None
        except (ValueError, AttributeError, RecursionError):
            return None

    def _left_behind(self, owner: dict[str, Any]) -> bool:
        # The folder's own lock is ours, so whoever wrote from this very folder is dead.
        same = all(owner[key] == self._mine[key] for key in ("host", "root"))
        return same or time.time() - owner["beat"] > STALE_SECONDS

    def _now(self) -> bytes:
        return json.dumps(self._mine | {"beat": time.time()}).encode()

    def _refusal(self, owner: dict[str, Any]) -> RefusedError:
        since, free = (
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
            for at in (owner["since"], owner["beat"] + STALE_SECONDS)
        )
        return RefusedError(
            f"{self._store.url}: is written by process {owner['pid']} on {owner['host']} since "
            f"{since}; end it, or, if it is dead, try again after {free}"
        )
