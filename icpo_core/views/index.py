"""What was read of many files, kept for the next look. It is never the truth.

An entry counts only while the files that it was read from bear the same mark: their sizes, times
and inodes. The file lies in the user's own folder for caches, and may be thrown away.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from icpo_core.common.closing import Closing
from icpo_core.common.files import read_json, sha256_bytes, write_json


class Index(Closing):
    """Entries by name, of one kind and folder."""

    def __init__(self, kind: str, folder: Path, shape: type) -> None:
        """shape: dataclass of what is kept; what an earlier version kept in another is not read."""
        place = os.path.realpath(folder)
        self._head = [kind, version("icpo"), place, *(field.name for field in fields(shape))]
        self._file = _caches() / f"{kind}-{sha256_bytes(os.fsencode(place))[:20]}.json"
        self._known: dict[str, list[Any]] = {}
        self._kept: dict[str, list[Any]] = {}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            stored = read_json(self._file)
            if stored["of"] == self._head:
                pairs = dict(stored["entries"]).items()
                self._known = {name: kept for name, kept in pairs if len(kept) == 2}

    def get(self, name: str, mark: Callable[[], str | None], make: Callable[[], Any]) -> Any:
        """What `make` says, a JSON value: that of an earlier look, if `mark` says the same as then.

        A mark of None is of what may change at any moment: nothing is kept of it.
        """
        before = mark()
        if before is not None and name in self._known and self._known[name][0] == before:
            self._kept[name] = self._known[name]
            return self._known[name][1]
        made = make()
        if before is not None and mark() == before:
            self._kept[name] = [before, made]
        return made

    def mark(self, name: str) -> str | None:
        """The mark of an entry that this look has found or made; None if it is not kept."""
        return self._kept[name][0] if name in self._kept else None

    def close(self) -> None:
        """Keep what this look has found. A folder that cannot be written keeps nothing."""
        if self._kept == self._known or not self._file.is_absolute():
            return
        with suppress(OSError):
            write_json(self._file, {"of": self._head, "entries": self._kept}, durable=False)


def marked(*paths: Path | str) -> str:
    """The mark of files; of a folder, of what lies right in it."""
    seen: list[Any] = []
    for path in paths:
        try:
            facts = os.lstat(path)
            seen.append(_facts(facts))
            if stat.S_ISDIR(facts.st_mode):
                with os.scandir(path) as entries:
                    seen += sorted(
                        [(e.name, *_facts(e.stat(follow_symlinks=False))) for e in entries]
                    )
        except FileNotFoundError:
            seen.append(None)
    return sha256_bytes(json.dumps(seen).encode())[:20]


def marked_below(folder: str) -> str | None:
    """The mark of a folder and of all that lies below it; None where a link lies, or where it
    changes at this moment."""
    seen: list[Any] = []
    folders = [folder]
    try:
        for place in folders:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda one: one.name)
            for one in found:
                if one.is_symlink():
                    return None
                if one.is_dir():
                    folders.append(one.path)
                seen.append((one.path, *_facts(one.stat(follow_symlinks=False))))
    except NotADirectoryError:
        return None
    except FileNotFoundError:
        if folders != [folder]:
            return None
    return sha256_bytes(repr(seen).encode())


def _facts(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino


def _caches() -> Path:
    """Relative for a user without a home, and then nothing is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "icpo"
