"""The plan by an index: what it says is what `run.plan.plan` says, whatever happens to the run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import stubs

from icpo_core.config import override
from icpo_core.run import plan
from icpo_core.run.run import Run
from icpo_core.store.paths import RunPaths
from icpo_core.views import cost, standings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run = Run.of(stubs.configuration(folder, "run", "evaluate.every=0"))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    return run.paths.root


def said(steps: list[plan.Step]) -> list[tuple[object, ...]]:
    return [(s.stage, s.iteration, s.status.standing, s.status.reason, s.after) for s in steps]


def grow(path: Path) -> None:
    with path.open("ab") as sink:
        sink.write(b"x")


def damaged(paths: RunPaths) -> None:
    Run.read(paths.root).store.marks.set_damaged("verify", 2, {"part": "has other contents"})


def replaced(paths: RunPaths) -> None:
    """By a folder elsewhere, which nobody looks into for a mark."""
    folder, other = paths.stage("select", 2), paths.root / "elsewhere"
    shutil.move(folder, other)
    folder.symlink_to(other)
    standings.plan_of(Run.read(paths.root))
    (other / "batch-00000-of-00002.parquet").unlink()


CHANGES: list[Callable[[RunPaths], object]] = [
    lambda paths: grow(next(paths.stage("update", 3).glob("model/*.safetensors"))),
    lambda paths: next(paths.stage("rollout", 1).glob("*.parquet")).unlink(),
    lambda paths: shutil.rmtree(paths.iteration(1)),
    lambda paths: paths.manifest("prompts", 3).unlink(),
    damaged,
    replaced,
]


@pytest.mark.parametrize("change", CHANGES)
def test_it_says_what_the_plan_says(
    trained: Path, tmp_path: Path, change: Callable[[RunPaths], object]
) -> None:
    root = tmp_path / "runs" / "run"
    shutil.copytree(trained, root, symlinks=True)
    first = standings.plan_of(Run.read(root))
    assert said(first) == said(plan.plan(Run.read(root)))
    change(RunPaths(root))
    again = said(standings.plan_of(Run.read(root)))
    assert again != said(first)
    assert again == said(standings.plan_of(Run.read(root))) == said(plan.plan(Run.read(root)))


def test_a_second_look_reads_what_changed_and_what_comes_after(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    shutil.copytree(trained, root, symlinks=True)
    standings.plan_of(Run.read(root))
    seen: list[int] = []
    status = plan.status

    def noted(run: Run, stage: str, iteration: int) -> plan.Status:
        seen.append(iteration)
        return status(run, stage, iteration)

    monkeypatch.setattr(plan, "status", noted)
    standings.plan_of(Run.read(root))
    assert not seen
    os.utime(RunPaths(root).manifest("verify", 2))
    standings.plan_of(Run.read(root))
    assert set(seen) == {2, 3}
    seen.clear()
    other = override(Run.read(root).config, ["select.alpha=0.5"])
    changed = standings.plan_of(Run.of(other, root))
    assert set(seen) == {1, 2, 3}
    assert said(changed) == said(plan.plan(Run.of(other, root)))


def test_cost_by_the_index_is_that_of_the_manifests(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    shutil.copytree(trained, root, symlinks=True)
    whole = cost.of_run(Run.read(root))
    assert cost.of_run(Run.read(root)) == whole
    shutil.rmtree(RunPaths(root).stage("rollout", 2))
    less = cost.of_run(Run.read(root))
    assert less[-1].times == whole[-1].times - 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert cost.of_run(Run.read(root)) == less


@pytest.mark.parametrize("rubbish", ["", "[]", '{"of": 1}', "x", "entries"])
def test_an_index_of_rubbish_is_made_anew(
    rubbish: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    wanted = said(standings.plan_of(Run.read(trained)))
    [file] = (tmp_path / "caches").rglob("plan-*.json")
    stored = json.loads(file.read_text())
    for entries in ([], {"0": 5}, {"0": []}, {"0": ["a", "b", "c"]}, {"0": None}):
        text = json.dumps(stored | {"entries": entries}) if rubbish == "entries" else rubbish
        file.write_text(text)
        assert said(standings.plan_of(Run.read(trained))) == wanted
