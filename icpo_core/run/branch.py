"""Branches: a run that begins with what another has stored, and goes its own way from a stage on.

The branch has hard links to the files of the stages that it shares, so it costs no space and is a
whole run by itself: neither run changes a file in place, and each may be pruned or deleted without
the other noticing.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from icpo_core.common import files
from icpo_core.config import Config, override
from icpo_core.run import metrics, plan, trust
from icpo_core.run.run import Run
from icpo_core.run.sources import sources
from icpo_core.run.stages import STAGES
from icpo_core.store import eras, run_record
from icpo_core.store.eras import Era
from icpo_core.store.marks import Marks
from icpo_core.store.paths import MANIFEST, MARKS, RunPaths
from icpo_core.store.store import Store
from icpo_core.store.work import Standing


def create(
    source: Run, name: str, stage: str, iteration: int, changes: list[str], last: int | None = None
) -> Path:
    """Make the branch `name` beside `source`, which differs from it from `stage` of `iteration` on
    by `changes` to the configuration; its folder. A branch that is there already is left alone.

    last: the stage is to be made for all iterations up to this one, from what `source` has stored:
    the branch also has what the stage reads there.

    Raises ValueError if another run has the name, if the stage cannot be made there, or if the
    changes concern a stage before it.
    """
    trust.require(source)
    place = source.paths.place(stage, iteration)
    named = [*changes, f'run.name="{name}"']
    config = override(source.config, named)
    paths = RunPaths(source.paths.root.parent / name)
    origin: dict[str, object] = {"run": str(source.paths.root), "at": place, "changes": changes}
    if last not in (None, iteration):
        origin["until"] = last
    if paths.root.exists():
        _require_same_branch(paths, origin)
        return paths.root
    own = eras.until(list(source.eras), iteration - 1)
    if not own or own[-1].last < iteration - 1:
        own.append(Era(iteration - 1, str(source.paths.root), source.config))
    branch = Run(config, source.paths, Store(source.paths), tuple(own))
    shared = {iteration: _shared(branch, stage, iteration, changes)}
    for number in range(iteration + 1, (last or iteration) + 1):
        for each, at in _read_by(source, stage, number):
            if at > iteration or (at == iteration and each != stage):
                shared[at] = (*shared.get(at, ()), each)

    made = RunPaths(paths.root.with_name(name + files.TEMPORARY_SUFFIX))
    shutil.rmtree(made.root, ignore_errors=True)
    made.root.mkdir(parents=True)
    for number in source.paths.iterations():
        for each in STAGES if number < iteration else dict.fromkeys(shared.get(number, ())):
            if source.store.finished(each, number) is not None:
                _link_stage(source.paths, made, each, number)
    rows = [row for row in metrics.read(source.paths) if row["iteration"] < iteration]
    if rows:
        metrics.write(made, rows)
    written = run_record.new(name) | {"branch": origin, "eras": [era.as_json() for era in own]}
    for folder in (made.attempt(0), made.root):  # attempt 0: the copies of what no attempt wrote
        files.write_sealed(folder / made.config.name, config.model_dump(mode="json"))
        files.write_sealed(folder / made.record.name, written)
    os.replace(made.root, paths.root)
    files.sync(paths.root.parent)
    trust.seal(Run.read(paths.root))
    return paths.root


def _read_by(source: Run, stage: str, iteration: int) -> set[tuple[str, int]]:
    """What a stage of an iteration needs, without itself at any."""
    own = {(each, iteration) for each in plan.before(source, stage, iteration)}
    return {one for one in own | set(plan.reads(source, stage, iteration)) if one[0] != stage}


def run_for(
    root: Path,
    stage: str,
    iteration: int,
    changes: list[str],
    into: str | None,
    force: bool,
    last: int | None = None,
) -> Run:
    """The run in which a stage is to be made, of one iteration or of all up to `last`: the one at
    `root`, or its branch `into`.

    In the run itself nothing that is stored is replaced by something else unless `force`, and its
    configuration stays what it is: changes may concern how the work is done, as `verify.workers`.
    Raises ValueError, with the mend, for what needs a branch or `force`.
    """
    source = Run.read(root)
    if into is not None:
        return Run.read(create(source, into, stage, iteration, changes, last))
    run = Run.of(override(source.config, changes), root, stored=True)
    _require_no_change(source, run.config, changes)
    for number in range(iteration, (last or iteration) + 1):
        status = plan.status(run, stage, number)
        if status.standing is Standing.STALE and not force:
            raise ValueError(
                f"{run.paths.stage(stage, number)}: was made from something else "
                f"({status.reason}); add --force to replace it, or --into NAME to have both"
            )
    return run


def _require_no_change(source: Run, config: Config, changes: list[str]) -> None:
    old, new = source.config, config
    same = old.run.seed == new.run.seed and sources(old) == sources(new)
    if same and all(plan.config_slice(old, s) == plan.config_slice(new, s) for s in STAGES):
        return
    raise ValueError(
        f"-o {' -o '.join(changes)}: gives other results than those of {source.paths.root}; add "
        "--into NAME to have them in a branch that shares what is stored"
    )


def _shared(branch: Run, stage: str, iteration: int, changes: list[str]) -> tuple[str, ...]:
    """Stages of the branching iteration that are the same work in the branch.

    Raises ValueError if one that `stage` reads is not.
    """
    before = plan.before(branch, stage, iteration)
    for each in before:
        status = plan.status(branch, each, iteration)
        if status.standing is Standing.STALE:
            options = " ".join(f"-o {shlex.quote(change)}" for change in changes)
            raise ValueError(
                f"{stage} reads {each}, which the change makes another ({status.reason}): branch "
                f"where it begins, with `icpo stage {each} {branch.paths.root} --iteration "
                f"{iteration} {options} --into {branch.config.run.name}`"
            )
        if not status.done:
            raise ValueError(
                f"{branch.paths.root}: {stage} of iteration {iteration} needs {each}, which is "
                f"{status.standing} ({status.reason}): make it first"
            )
    ends = plan.leaves(branch, iteration)
    beside = set(ends) - {stage} if stage in ends else set()
    also = tuple(each for each in beside if plan.status(branch, each, iteration).done)
    return (*before, *also)


def _link_stage(source: RunPaths, target: RunPaths, stage: str, iteration: int) -> None:
    here, there = source.stage(stage, iteration), target.stage(stage, iteration)
    there.mkdir(parents=True)
    inside = [path for path in sorted(here.rglob("*")) if path.is_file()]
    # Marks last: what retention removes of the source meanwhile is then said to be gone.
    for path in sorted(inside, key=lambda path: (path.name in MARKS, path.name == MANIFEST)):
        if path.name.endswith(files.TEMPORARY_SUFFIX):
            continue
        try:
            files.link_or_copy(path, there / path.relative_to(here))
        except FileNotFoundError:
            name = path.relative_to(here).as_posix()
            if name not in Marks(source).pruned(stage, iteration):
                raise


def _require_same_branch(paths: RunPaths, origin: Mapping[str, object]) -> None:
    found = (run_record.read(paths) or {}).get("branch")
    if found != origin:
        what = f"a branch of {found['run']} at {found['at']}" if found else "a run of its own"
        raise ValueError(
            f"{paths.root}: is there already, {what}"
            f"{' with other changes' if found and found['at'] == origin['at'] else ''}; choose "
            "another --into NAME"
        )
