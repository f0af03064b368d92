"""The runs of a folder, each in a line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from icpo_core.common import lock
from icpo_core.store.paths import RunPaths
from icpo_core.views.index import Index, marked


@dataclass(frozen=True)
class Summary:
    """One run at a glance, read off its manifests; nothing is hashed."""

    path: str
    name: str
    done: int
    """Iterations that are whole."""
    iterations: int
    state: str
    """`running`, `finished`, `stopped`, `new` or `damaged`."""
    detail: str
    """Who runs it, where it stopped, or what is wrong."""
    accuracy: dict[str, float]
    """Newest accuracy by benchmark."""
    bytes: int
    """Space of its files; what it shares with another run is in both."""
    created: float
    """Unix time."""
    branch: dict[str, Any] | None
    """What it is a branch of: run, place and changes."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def found_in(folder: Path) -> list[Path]:
    """Folders of runs directly below `folder`. Raises ValueError if there is no such folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name the folder of the runs (run.directory)")
    return sorted(file.parent for file in folder.glob("*/run.json") if _named(file.parent))


def summaries(folder: Path) -> list[Summary]:
    """The runs directly below `folder`, each at a glance; what an earlier look read of a run that
    nobody has touched since is taken from an index. Raises ValueError as `found_in` does."""
    with Index("ls", folder, Summary) as index:
        return [
            Summary(**index.get(root.name, partial(_mark, root), partial(_facts, root)))
            for root in found_in(folder)
        ]


def _mark(root: Path) -> str | None:
    """Of a run that nobody has open: every process that opens one leaves its lock's time. A file
    that somebody removes by hand is missed in the newest iteration, and in others by `check`."""
    paths = RunPaths(root)
    if lock.holder(paths.lock) is not None:
        return None
    return marked(root, *map(paths.iteration, paths.iterations()[-1:]))


def _facts(root: Path) -> dict[str, Any]:
    # All that reads a run: it takes as long as 2,000 runs of an index.
    from icpo_core.views.listing import summary

    return summary(root).as_json()


def _named(folder: Path) -> bool:
    return not folder.name.endswith(".partial")
