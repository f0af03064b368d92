"""Where a stored result comes from: the stages it was made from, and what those were made from,
down to the base model and the data; and what was made from it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icpo_core.run.run import Run
from icpo_core.run.stages import STAGES
from icpo_core.store import run_record
from icpo_core.store.manifest import Manifest
from icpo_core.store.paths import RunPaths, place_of


@dataclass(frozen=True)
class Node:
    """A finished stage and its ancestors."""

    place: str
    manifest: Manifest
    run: str
    """Folder of the run that made it: in a branch, for what it shares, the run it comes from."""
    inputs: dict[str, Any]
    """Digests of what it read that no stage made: data, base model, tokenizer."""
    parents: list[Node] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Places of stages it was made from that hold something else now, or nothing."""
    cut: bool = False
    """Whether ancestors are left out: they stand elsewhere in the tree, or too deep."""

    def as_json(self) -> dict[str, Any]:
        found = self.manifest
        return {
            "place": self.place,
            "run": self.run,
            "fingerprint": found.fingerprint,
            "policy_version": found.policy_version,
            "config": found.config,
            "inputs": self.inputs,
            "git": found.git,
            "started": found.started,
            "seconds": found.seconds,
            "lost": self.lost,
            "parents": [parent.as_json() for parent in self.parents],
        }


STAGE_INPUTS = frozenset({"prompts", "rollouts", "verdicts", "batch", "update"})
"""Names of inputs that stages make; state and policy are of a stage after the first iteration."""


def locate(path: Path) -> tuple[Path, str, int]:
    """Run, stage and iteration of any path in a run; of a run itself, its newest checkpoint.

    Raises ValueError if the path is in no run, or leads to no stage.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    real = path.resolve()
    for folder in (real, *real.parents):
        paths = RunPaths(folder)
        if paths.record.is_file():
            inside = real.relative_to(folder)
            root = path if folder == real else folder
            break
    else:
        raise ValueError(f"{path}: is no run and no file of one; `icpo ls` lists runs")
    if inside == Path("."):
        if not paths.latest.is_symlink():
            raise ValueError(f"{path}: has no checkpoint yet; name {path}/it-0001/select or such")
        target = Path(os.path.realpath(paths.latest))  # itself, where it leads to itself
        if not target.is_relative_to(folder):
            raise ValueError(f"{paths.latest}: leads out of the run; `icpo check {path}` mends it")
        inside = target.relative_to(folder)
    place = place_of(Path(*inside.parts[:2]))
    if place is None or place[0] not in STAGES:
        raise ValueError(f"{path}: belongs to no stage; name a stage, as {root}/it-0001/select")
    return root, *place


def ancestors(run: Run, stage: str, iteration: int, depth: int) -> Node:
    """A finished stage with its ancestors, each stage once, `depth` iterations back.

    Raises ValueError if the stage is not finished.
    """
    found = run.store.manifest(stage, iteration)
    if found is None:
        raise ValueError(
            f"{run.paths.root}: {stage} of iteration {iteration} is not finished; "
            f"`icpo plan {run.paths.root}` says why"
        )
    return _node(run, found, iteration - depth, set())


def _node(run: Run, found: Manifest, oldest: int, seen: set[str]) -> Node:
    place = run.paths.place(found.stage, found.iteration)
    era = next((one for one in run.eras if found.iteration <= one.last), None)
    node = Node(
        place=place,
        manifest=found,
        run=era.run if era else str(run.paths.root),
        inputs={
            name: digest
            for name, digest in found.inputs.items()
            if name not in STAGE_INPUTS and digest is not None and digest not in _made(run, found)
        },
        cut=place in seen or found.iteration < oldest,
    )
    if node.cut:
        return node
    seen.add(place)
    for fingerprint, parent in sorted(found.parents.items(), key=lambda item: item[1]):
        where = place_of(Path(parent))
        assert where is not None
        stored = run.store.finished(*where)
        if stored is None or stored.fingerprint != fingerprint:
            node.lost.append(parent)
        else:
            node.parents.append(_node(run, stored, oldest, seen))
    return node


def _made(run: Run, found: Manifest) -> set[str]:
    """Digests among a stage's inputs that its parents made: a state or a policy."""
    made = set(found.parents)
    for parent in found.parents.values():
        where = place_of(Path(parent))
        stored = run.store.finished(*where) if where else None
        if stored is not None and stored.policy_version:
            made.add(stored.policy_version)
    return made


def descendants(run: Run, stage: str, iteration: int) -> list[str]:
    """Places of the stages that were made from this one, directly."""
    found = run.store.manifest(stage, iteration)
    assert found is not None
    return [
        run.paths.place(each, number)
        for number in (iteration, iteration + 1)
        for each in STAGES
        if (other := run.store.finished(each, number)) and found.fingerprint in other.parents
    ]


def origins(paths: RunPaths) -> list[dict[str, Any]]:
    """The runs that a run is a branch of, the nearest first: run, place and changes."""
    found = []
    seen = {paths.root.resolve()}
    while (branch := (run_record.read(paths) or {}).get("branch")) is not None:
        found.append(branch)
        paths = RunPaths(Path(branch["run"]))
        if paths.root.resolve() in seen:
            break
        seen.add(paths.root.resolve())
    return found
