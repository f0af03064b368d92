"""A run at a glance, and its iterations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from icpo_core.common import lock
from icpo_core.run import metrics, plan
from icpo_core.run.run import Run
from icpo_core.run.stages import STAGES
from icpo_core.store import run_record
from icpo_core.store.paths import MANIFEST, PRUNED, RunPaths
from icpo_core.views.index import Index, marked
from icpo_core.views.runs import Summary


@dataclass(frozen=True)
class StageLine:
    """A finished stage of an iteration."""

    rows: int
    seconds: float
    bytes: int
    pruned: bool


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
            folder = str(paths.iteration(number))
            told = [f"{folder}/{stage}/{name}" for stage in STAGES for name in (MANIFEST, PRUNED)]
            lines = index.get(str(number), partial(marked, *told), partial(_lines, run, number))
            if lines:
                found[number] = {stage: StageLine(*line) for stage, line in lines.items()}
    return found


def _lines(run: Run, number: int) -> dict[str, list[Any]]:
    made = {stage: _line(run, stage, number) for stage in STAGES}
    return {stage: line for stage, line in made.items() if line is not None}


def _line(run: Run, stage: str, number: int) -> list[Any] | None:
    manifest = run.store.finished(stage, number)
    if manifest is None:
        return None
    gone = run.store.marks.pruned(stage, number)
    kept = sum(one.bytes for one in manifest.files if one.name not in gone)
    return [manifest.rows, manifest.seconds, kept, bool(gone)]


def _bytes(root: Path) -> int:
    """Space of all files, each once however many links it has here."""
    sizes = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            facts = path.stat()
            sizes[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(sizes.values())
