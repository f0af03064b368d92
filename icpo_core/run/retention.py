"""Which checkpoints are kept, and why.

A checkpoint's weights and its trainer state are kept or not each for reasons of their own. Nothing
goes without a newer checkpoint being whole, and nothing that somebody relies on goes at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from icpo_core.common import files
from icpo_core.run.run import Run
from icpo_core.store import run_record
from icpo_core.store.paths import RunPaths, place_of


@dataclass(frozen=True)
class Holding:
    """One finished checkpoint: reasons to keep its weights and its state; none: it may go."""

    iteration: int
    weights: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    has_state: bool = False


def lineage(run: Run) -> list[int]:
    """Iterations whose updates grew out of one another and have a checkpoint of theirs, ascending.

    Where a run is made again from some iteration on, what it had made after that is none of it.
    """
    found = []
    state = None
    for number in run.paths.iterations():
        update = run.store.finished("update", number)
        if update is None:
            state = None  # not known while it is being made again
            continue
        if state is not None and update.inputs["state"] != state:
            break
        state = update.fingerprint
        checkpoint = run.store.finished("checkpoint", number)
        if checkpoint is not None and state in checkpoint.parents:
            found.append(number)
    return found


def holdings(run: Run, pinned: set[int] | None = None) -> list[Holding]:
    """Every checkpoint of the run's lineage with the reasons to keep it, oldest first.

    `pinned`: iterations to keep in any case, if not those that are protected now.
    """
    done = lineage(run)
    if not done:
        return []
    settings = run.config.checkpoint
    last = set(done[-settings.keep_last :])
    best = best_iteration(run, done)
    pinned = protected(run.paths) if pinned is None else pinned
    states = [number for number in done if has_state(run, number)]
    waiting = _sampled_from(run, done[-1])
    users: dict[int, list[str]] | None = None
    found = []
    for number in done:
        weights, state = [], []
        if number == done[-1]:
            weights.append("newest")
        elif number in last:
            weights.append(f"one of the last {settings.keep_last}")
        if settings.keep_every and number % settings.keep_every == 0:
            weights.append(f"every {settings.keep_every}")
        if number == best:
            weights.append(f"best on {settings.keep_best}")
        if number in pinned:
            weights.append("protected")
        if number in waiting and number != done[-1]:
            weights.append(f"iteration {waiting[number]} is sampled from it")
        if number in states:
            if number == states[-1]:
                state.append("the run goes on from it")
            if number in last:
                state.append(f"one of the last {settings.keep_last}")
            if number in pinned:
                state.append("protected")
        if not weights and run.has_weights(number):
            # Other runs are looked through only before something would go.
            users = users if users is not None else referenced(run.paths)
            weights += [f"{name} begins from it" for name in users.get(number, [])]
        found.append(Holding(number, weights, state, number in states))
    return found


def _sampled_from(run: Run, newest: int) -> dict[int, int]:
    """Updates whose weights iterations after the `newest` one are yet to be sampled from, each with
    the first of those."""
    found: dict[int, int] = {}
    last = min(run.config.run.iterations, newest + 1 + run.config.rollout.off_policy_steps)
    for number in range(last, newest, -1):
        policy, sampled = run.sampling_policy(number), run.store.finished("rollout", number)
        made = run.store.finished("update", policy) if policy else None
        if made and (sampled is None or sampled.inputs["policy"] != made.policy_version):
            found[policy] = number
    return found


def removals(run: Run, kept: list[Holding]) -> dict[tuple[str, int], frozenset[str]]:
    """Files that may go, by (stage, iteration), and are not said to be gone yet."""
    found = {}
    for holding in kept:
        for stage in ("checkpoint", "update"):
            manifest = run.store.finished(stage, holding.iteration)
            if manifest is None:
                continue
            gone = run.store.marks.pruned(stage, holding.iteration)
            names = frozenset(
                one.name
                for one in manifest.files
                if one.name not in gone
                and (
                    (not holding.weights and one.name.startswith("model/"))
                    or (not holding.state and one.name.startswith("state/"))
                )
            )
            if names:
                found[stage, holding.iteration] = names
    return found


def freed(paths: RunPaths, files_by_stage: dict[tuple[str, int], frozenset[str]]) -> int:
    """Bytes that removing these files gives back: none for a file that has other links, as the
    weights of an update and its checkpoint, or of a run and its branch."""
    links: dict[tuple[int, int], list[int]] = {}
    for key, names in files_by_stage.items():
        for name in names:
            try:
                facts = (paths.stage(*key) / name).stat()
            except FileNotFoundError:
                continue
            entry = links.setdefault(
                (facts.st_dev, facts.st_ino), [0, facts.st_nlink, facts.st_size]
            )
            entry[0] += 1
    return sum(size for going, all_, size in links.values() if going == all_)


def has_state(run: Run, iteration: int) -> bool:
    """Whether a finished checkpoint has a trainer state that is still there."""
    found = run.store.finished("checkpoint", iteration)
    name = "state/state.json"
    return (
        found is not None
        and any(one.name == name for one in found.files)
        and name not in run.store.marks.pruned("checkpoint", iteration)
    )


def best_iteration(run: Run, candidates: list[int]) -> int | None:
    """The iteration with the highest accuracy on `checkpoint.keep_best`, the later of equals."""
    benchmark = run.config.checkpoint.keep_best
    if benchmark is None:
        return None
    scored = []
    for number in candidates:
        found = run.store.finished("evaluate", number)
        if found is not None and f"accuracy/{benchmark}" in found.facts:
            scored.append((found.facts[f"accuracy/{benchmark}"], number))
    return max(scored)[1] if scored else None


def protected(paths: RunPaths) -> set[int]:
    """Iterations that a person wants kept; all, while the list of them is damaged."""
    if not paths.protected.is_file():
        return set()
    try:
        return set(files.read_sealed(paths.protected)["iterations"])
    except ValueError:
        return set(paths.iterations())


def protect(paths: RunPaths, iterations: set[int]) -> None:
    """Keep the checkpoints of these iterations, and of no others, whatever retention says."""
    files.write_sealed(paths.protected, {"iterations": sorted(iterations)})


_BASES: dict[tuple[Path, int], str] = {}


def referenced(paths: RunPaths) -> dict[int, list[str]]:
    """Runs beside this one that begin from one of its checkpoints, by iteration."""
    mine = paths.root.resolve()
    users: dict[int, list[str]] = {}
    for file in sorted(mine.parent.glob("*/run.json")):
        if file.parent == mine:
            continue
        key = (file, file.stat().st_mtime_ns)
        if key not in _BASES:
            try:
                found = run_record.read(RunPaths(file.parent))
            except ValueError:
                found = None
            attempts = found["attempts"] if found else []
            _BASES[key] = attempts[-1]["model"] if attempts else ""
        base = Path(_BASES[key])
        if base.is_relative_to(mine) and (place := place_of(base.parent)) is not None:
            users.setdefault(place[1], []).append(file.parent.name)
    return users
