"""The runs of a folder, each in a line; and the iterations of one run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from icpo_core.common import lock
from icpo_core.run import metrics, plan
from icpo_core.run.run import Run
from icpo_core.run.stages import STAGES
from icpo_core.store import run_record
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


@dataclass(frozen=True)
class StageLine:
    """A finished stage of an iteration."""

    rows: int
    seconds: float
    bytes: int
    pruned: bool


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
    return summary(root).as_json()


def summary(root: Path) -> Summary:
    """A run at a glance. What cannot be read is said, not raised."""
    paths = RunPaths(root)
    try:
        facts = run_record.read(paths) or {}
        run = Run.read(root)
    except ValueError as error:
        return Summary(
            str(root), root.name, 0, 0, "damaged", str(error), {}, _bytes(root), 0.0, None
        )
    whole, first_open = 0, None
    for number in range(run.config.run.iterations + 1):
        due = plan.stages_of(run.at(number).config, number)
        missing = [stage for stage in due if not paths.manifest(stage, number).is_file()]
        if missing:
            first_open = f"{missing[0]} of iteration {number}"
            break
        whole = number
    holder = lock.holder(paths.lock)
    state, detail = "finished", ""
    if holder is not None:
        state, detail = "running", holder
    elif first_open is not None:
        started = any(paths.iterations())
        state, detail = ("stopped" if started else "new"), f"next: {first_open}"
    accuracy: dict[str, float] = {}
    try:
        for row in metrics.read(paths):
            accuracy |= {
                name.partition("/")[2]: value
                for name, value in row.items()
                if name.startswith("accuracy/")
            }
    except ValueError as error:
        detail = str(error)
    return Summary(
        path=str(root),
        name=root.name,
        done=whole,
        iterations=run.config.run.iterations,
        state=state,
        detail=detail,
        accuracy=accuracy,
        bytes=_bytes(root),
        created=facts.get("created", 0.0),
        branch=facts.get("branch"),
    )


def iterations(run: Run) -> dict[int, dict[str, StageLine]]:
    """What each iteration of a run has, by stage."""
    found: dict[int, dict[str, StageLine]] = {}
    paths = run.paths
    with Index("stages", paths.root, StageLine) as index:
        for number in paths.iterations():
            for stage in STAGES:
                mark = partial(marked, paths.manifest(stage, number), paths.pruned(stage, number))
                line = index.get(
                    paths.place(stage, number), mark, partial(_line, run, stage, number)
                )
                if line is not None:
                    found.setdefault(number, {})[stage] = StageLine(*line)
    return found


def _line(run: Run, stage: str, number: int) -> list[Any] | None:
    manifest = run.store.finished(stage, number)
    if manifest is None:
        return None
    gone = run.store.marks.pruned(stage, number)
    kept = sum(one.bytes for one in manifest.files if one.name not in gone)
    return [manifest.rows, manifest.seconds, kept, bool(gone)]


def _named(folder: Path) -> bool:
    return not folder.name.endswith(".partial")


def _bytes(root: Path) -> int:
    """Space of all files, each once however many links it has here."""
    sizes = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            facts = path.stat()
            sizes[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(sizes.values())
