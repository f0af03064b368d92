"""Findings of judges elsewhere, kept on disk: what was paid for is not asked for again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icpo_core.grading.grade import Finding, Pair, VerdictStatus


@dataclass(frozen=True)
class Kept:
    """A file of findings that any number of runs share.

    `judge`: all that says who judges: name, digest of the source, declared version. A file that
    cannot be read or written is done without: every finding can be asked for again.
    """

    file: Path
    judge: tuple[Any, ...]

    def find(self, pairs: Iterable[Pair]) -> dict[Pair, Finding]:
        """What is known of some pairs."""
        found: dict[Pair, Finding] = {}
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._open()) as database:
            for pair in pairs:
                query = "SELECT finding FROM kept WHERE key = ?"
                for (text,) in database.execute(query, [self._key(pair)]):
                    status, *rest = json.loads(text)
                    found[pair] = Finding(VerdictStatus(status), *rest)
        return found

    def put(self, findings: Mapping[Pair, Finding]) -> None:
        """Keep these too."""
        rows = [(self._key(pair), json.dumps(found.wire())) for pair, found in findings.items()]
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._open()) as database:
            database.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", rows)
            database.commit()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.file)
        database.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, finding TEXT)")
        return database

    def _key(self, pair: Pair) -> str:
        whole = json.dumps([self.judge, pair.gold, pair.answers, pair.row])
        return hashlib.sha256(whole.encode()).hexdigest()
