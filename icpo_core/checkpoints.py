"""Checkpoints: published weights, saved trainer states, `LATEST`, and which are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from icpo_core.config import Config
from icpo_core.files import TEMPORARY_SUFFIX, link_or_copy, read_json, sync
from icpo_core.paths import RunPaths
from icpo_core.run import Run


def publish(run: Run, iteration: int, folder: Path) -> dict[str, str]:
    """Link the weights of an update into `folder`; their sha256 by name in the checkpoint."""
    found = run.store.manifest("update", iteration)
    assert found is not None
    known = {}
    for record in found.files:
        if record.name.startswith("model/"):
            source = run.store.file("update", iteration, record.name)
            link_or_copy(source, folder.parent / record.name)
            known[record.name] = record.sha256
    sync(folder)
    return known


def state_due(config: Config, iteration: int) -> bool:
    """Whether the trainer's state is saved after this iteration."""
    return iteration % config.checkpoint.state_every == 0 or iteration == config.run.iterations


def restore(run: Run, iteration: int) -> dict[str, Any]:
    """How a trainer comes to the state after `iteration`: the nearest saved state, and the stored
    batches since, which are replayed; without a saved state from the base model on.

    A state counts if its checkpoint is whole and belongs to the update that is there now.
    """
    replay: list[dict[str, Any]] = []
    for number in range(iteration, 0, -1):
        folder = _saved_state(run, number)
        if folder is not None:
            return {"folder": str(folder), "replay": replay[::-1]}
        batch = run.paths.stage("select", number) / "batch.parquet"
        replay.append({"iteration": number, "batch": str(batch)})
    return {"folder": None, "replay": replay[::-1]}


def _saved_state(run: Run, iteration: int) -> Path | None:
    checkpoint = run.store.manifest("checkpoint", iteration)
    update = run.store.manifest("update", iteration)
    if checkpoint is None or update is None or update.fingerprint not in checkpoint.parents:
        return None
    folder = run.paths.stage("checkpoint", iteration) / "state"
    if not (folder / "state.json").is_file():
        return None
    saved = read_json(folder / "state.json")
    return folder if saved["state_id"] == update.fingerprint else None


def settle(run: Run) -> None:
    """Make `LATEST` the newest finished checkpoint, then remove what need not be kept.

    Repeats without harm, so that a run which died in between is put right when it is resumed.
    """
    done = [
        number
        for number in run.paths.iterations()
        if number and run.store.manifest("checkpoint", number) is not None
    ]
    if not done:
        return
    point_latest(run.paths, done[-1])
    kept = set(done[-run.config.checkpoint.keep_last :])
    every = run.config.checkpoint.keep_every
    kept |= {number for number in done if every and number % every == 0}
    if best := best_iteration(run, done):
        kept.add(best)
    states = [number for number in done if _saved_state(run, number) is not None]
    for number in done:
        weights = number not in kept
        # The newest state is what a resumed run starts from.
        state = number in states[:-1] and number not in set(
            done[-run.config.checkpoint.keep_last :]
        )
        _prune(run, number, weights, state)


def best_iteration(run: Run, candidates: list[int]) -> int | None:
    """The iteration with the highest accuracy on `checkpoint.keep_best`, the later of equals."""
    benchmark = run.config.checkpoint.keep_best
    if benchmark is None:
        return None
    scored = []
    for number in candidates:
        found = run.store.manifest("evaluate", number)
        if found is not None and f"accuracy/{benchmark}" in found.facts:
            scored.append((found.facts[f"accuracy/{benchmark}"], number))
    return max(scored)[1] if scored else None


def point_latest(paths: RunPaths, iteration: int) -> None:
    """Make `LATEST` a link to a checkpoint; it is the old link or the new one, never none."""
    target = paths.stage("checkpoint", iteration).relative_to(paths.root)
    if paths.latest.is_symlink() and os.readlink(paths.latest) == str(target):
        return
    temporary = paths.latest.with_name(paths.latest.name + TEMPORARY_SUFFIX)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, paths.latest)
    sync(paths.root)


def _prune(run: Run, iteration: int, weights: bool, state: bool) -> None:
    for stage in ("checkpoint", "update"):
        found = run.store.manifest(stage, iteration)
        if found is None:
            continue
        gone = run.store.pruned(stage, iteration)
        names = [
            record.name
            for record in found.files
            if record.name not in gone
            and (
                (weights and record.name.startswith("model/"))
                or (state and record.name.startswith("state/"))
            )
        ]
        if names:
            run.store.prune(stage, iteration, names)
