"""Checkpoints: published weights, saved trainer states and the way back to one, and `LATEST`."""

from __future__ import annotations

import os
from pathlib import Path

from icpo_core.common.files import TEMPORARY_SUFFIX, link_or_copy, point, read_json
from icpo_core.config import plugin_sources
from icpo_core.run import metrics, retention
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store.paths import RunPaths
from icpo_core.store.tables import Written
from icpo_core.workers.jobs import Replay, Restore


def publish(run: Run, iteration: int, folder: Path) -> dict[str, Written]:
    """Link the weights of an update into `folder`; what is known of them, by name."""
    found = run.store.manifest("update", iteration)
    assert found is not None
    known = {}
    for record in found.files:
        if record.name.startswith("model/"):
            source = run.store.file("update", iteration, record.name)
            link_or_copy(source, folder.parent / record.name)
            known[record.name] = Written(record.sha256, record.rows, record.content)
    return known


def state_due(run: Run, iteration: int) -> bool:
    """Whether the trainer's state is saved after this iteration: every so often, at the end, and
    where a branch leaves another run, whose batches its own trainer could not replay."""
    config = run.config_at(iteration)
    return (
        iteration % config.checkpoint.state_every == 0
        or iteration == config.run.iterations
        or not run.same_era(iteration, iteration + 1)
    )


def state_id(run: Run, iteration: int) -> str:
    """Name of the trainer's state after an iteration: the fingerprint of the update that made it,
    or the base model's digest at the start."""
    if iteration == 0:
        return run.base_version
    found = run.store.finished("update", iteration)
    assert found is not None, "a stage is performed when what it reads is finished"
    return found.fingerprint


def restore(session: Session, iteration: int, of: int) -> Restore:
    """How the trainer `of` an iteration comes to the state after `iteration`: the nearest saved
    state, and the stored batches since, which are replayed; without a saved state from the base
    model on. A state counts if it is whole, to the byte, and belongs to the update that is there
    now.

    Raises ValueError if a batch is no longer the one that its update learned from.
    """
    replay: list[Replay] = []
    for number in range(iteration, 0, -1):
        folder = _saved_state(session, number)
        if folder is not None:
            return Restore(folder=folder, replay=replay[::-1])
        assert session.run.same_era(number, of), "a branch saves a state where it begins"
        update = session.run.store.finished("update", number)
        said = update.inputs.get("teacher") if update else None
        batch, tuning = _learned_from(session.run, number)
        teacher = teacher_of(session.run, number, said)
        replay.append(Replay(iteration=number, batch=batch, teacher=teacher, tuning=tuning))
    return Restore(folder=None, replay=replay[::-1])


def bridge_needed(session: Session, iteration: int, of: int) -> int | None:
    """The last iteration of an earlier era whose state must be saved before the trainer `of` an
    iteration can come to the state after `iteration`; None if there is nothing in the way."""
    for number in range(iteration, 0, -1):
        if _saved_state(session, number) is not None:
            return None
        if not session.run.same_era(number, of):
            return number
    return None


def _saved_state(session: Session, iteration: int) -> Path | None:
    """Folder of a whole state that was saved after an iteration as it is stored now."""
    run = session.run
    update = run.store.finished("update", iteration)
    checkpoint = run.store.finished("checkpoint", iteration)
    if update is None or checkpoint is None or not retention.has_state(run, iteration):
        return None
    if update.fingerprint not in checkpoint.parents:
        return None
    folder = run.paths.stage("checkpoint", iteration) / "state"
    try:
        for record in checkpoint.files:
            if record.name.startswith("state/"):
                run.store.file("checkpoint", iteration, record.name)
    except ValueError as damage:
        session.observer.decision(f"state of iteration {iteration} passed over: {damage}")
        return None
    return folder if read_json(folder / "state.json")["state_id"] == update.fingerprint else None


def _learned_from(run: Run, iteration: int) -> tuple[list[Path], Path | None]:
    """The stored batch that an iteration's update learned from, in its parts, and the rows of its
    fine-tuning."""
    source = plugin_sources(run.config_at(iteration), "update").get("loss.policy")
    select, update = (
        run.store.finished("select", iteration),
        run.store.finished("update", iteration),
    )
    assert select is not None
    assert update is not None
    if update.inputs.get("loss.policy") != source:
        raise ValueError(
            f"loss.policy: its file is not what update {iteration} learned with, so the trainer "
            "cannot be brought back to where it was; put the file back, or begin another run"
        )
    paths: dict[str, list[Path]] = {}
    for name in ("batch", "tuning"):
        if name not in update.inputs:
            continue
        paths[name] = run.store.table_files("select", iteration, name)
        if update.inputs[name] != select.digest(name):
            raise ValueError(
                f"{paths[name][0]}: is another {name} than the one that update {iteration} learned "
                "from, so the trainer cannot be brought back to where it was; make the update "
                f"again: `icpo stage update {run.paths.root} --iteration {iteration} --force`"
            )
    return paths["batch"], paths["tuning"][0] if "tuning" in paths else None


def teacher_of(run: Run, iteration: int, digest: str | None) -> list[Path]:
    """The stored parts of table `teacher` that an iteration's update learns from.

    digest: of stage `teach`, as the update's inputs have it; None: there is no teacher.
    Raises ValueError if what is stored is something else.
    """
    if digest is None:
        return []
    found = run.store.finished("teach", iteration)
    if found is None or found.content() != digest:
        raise ValueError(
            f"{run.paths.stage('teach', iteration)}: is not what update {iteration} learned "
            "from, so the trainer cannot be brought back to where it was; make the update again: "
            f"`icpo stage update {run.paths.root} --iteration {iteration} --force`"
        )
    names = [one.name for one in found.files if one.name.startswith("part-")]
    return [run.store.file("teach", iteration, name) for name in names]


def settle(session: Session) -> None:
    """Make `LATEST` the newest checkpoint of the run's lineage, then remove what need not be kept.

    Repeats without harm, so that a run which died in between is put right when it is resumed.
    """
    run = session.run
    if not session.settled:
        _end_removals(run)
        metrics.mend(run)
        session.settled = True
    kept = retention.holdings(run)
    if not kept:
        return
    point_latest(run.paths, kept[-1].iteration)
    removals = retention.removals(run, kept)
    if removals:
        run.store.prune(removals)


def _end_removals(run: Run) -> None:
    """Remove what a process that was killed had said to be gone, and what it was about to write."""
    said = {
        (stage, number): frozenset[str]()
        for number in run.paths.iterations()
        for stage in ("checkpoint", "update")
        if run.store.finished(stage, number) and run.store.marks.pruned(stage, number)
    }
    run.store.prune(said)
    for pattern in ("*", "logs/*/*"):
        for path in run.paths.root.glob(pattern + TEMPORARY_SUFFIX):
            path.unlink()


def point_latest(paths: RunPaths, iteration: int) -> None:
    """Make `LATEST` a link to a checkpoint. A folder in its place, as `cp -rL` and object stores
    leave it, is moved aside."""
    if paths.latest.is_dir() and not paths.latest.is_symlink():
        paths.set_aside(paths.latest)
    point(paths.latest, paths.place("checkpoint", iteration))


def withdraw(run: Run, iteration: int) -> None:
    """Before a checkpoint is made again: let `LATEST` be the one before it, if it was this one."""
    target = str(run.paths.stage("checkpoint", iteration).relative_to(run.paths.root))
    if not run.paths.latest.is_symlink() or os.readlink(run.paths.latest) != target:
        return
    before = [one for one in retention.lineage(run) if one < iteration and run.has_weights(one)]
    if before:
        point_latest(run.paths, before[-1])
    else:
        run.paths.latest.unlink()
