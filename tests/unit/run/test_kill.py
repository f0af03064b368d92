"""Killed at any point, gone on with, and whole: as if nothing had happened.

A run with the stand-ins of `stubs` is killed (SIGKILL, its whole process group) at one point after
another; the run that goes on must come to the content digests, weights and trainer state of a run
that nobody killed, without a step or a sample twice.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import stubs
from killing import Zygote
from whole import OFF_POLICY, TWO_STEPS, Whole, lines, never_killed, require_whole

from icpo_core.run import integrity
from icpo_core.store import tables
from icpo_core.store.paths import RunPaths

PART = "it-0002/{stage}/part-0000{part}-of-00002.parquet"

# Mark and the how-manieth coming to it. Iteration 2 of 3 has all stages, saves a state, and its
# checkpoint pushes the first one out.
POINTS = {
    # at every stage boundary
    "before anything": ("before replace run.json", 1),
    "after prompts": ("after prompts 2", 1),
    "after rollout": ("after rollout 2", 1),
    "after verify": ("after verify 2", 1),
    "after select": ("after select 2", 1),
    "after update": ("after update 2", 1),
    "after evaluate": ("after evaluate 2", 1),
    "after checkpoint": ("after checkpoint 2", 1),
    "after the iteration": ("settled 2", 1),
    # in the middle of a shard, and between shards
    "in the first shard": ("sampled", 6 + 16 + 3),
    "in the second shard": ("sampled", 6 + 16 + 12),
    "between shards": (f"after replace {PART.format(stage='rollout', part=0)}", 1),
    "between verdicts": (f"after replace {PART.format(stage='verify', part=0)}", 1),
    "the last part judged": (f"after replace {PART.format(stage='verify', part=1)}", 1),
    "in an evaluation": ("sampled", 6 + 16 + 16 + 4),
    # between file and manifest
    "rollouts without manifest": ("before replace it-0002/rollout/manifest.json", 1),
    "verdicts without manifest": ("before replace it-0002/verify/manifest.json", 1),
    "batch without rejects": ("after replace it-0002/select/batch-00000-of-00002.parquet", 1),
    "between batches": ("after replace it-0002/select/rejects-00000-of-00002.parquet", 1),
    "weights without manifest": ("before replace it-0002/update/manifest.json", 1),
    "checkpoint without manifest": ("before replace it-0002/checkpoint/manifest.json", 1),
    "state saved, its last iteration too": ("before replace it-0003/checkpoint/manifest.json", 1),
    # during the optimizer step
    "in the first step": ("mid step", 1),
    "in a step": ("mid step", 2),
    "stepped, nothing written": ("stepped", 2),
    "weights half published": ("weights written", 2),
    # during checkpoint publication, LATEST and retention
    "one file published": ("after link it-0002/checkpoint/model/config.json", 1),
    "weights published, no state": ("before mkdir it-0002/checkpoint/state", 1),
    "state half written": ("state written", 1),
    "LATEST about to move": ("before replace LATEST", 2),
    "LATEST moved": ("after replace LATEST", 2),
    "said to be gone, still there": ("after replace it-0001/update/pruned.json", 1),
    "half gone": ("after unlink it-0001/update/model/model.safetensors", 1),
    "metrics about to be there": ("before replace metrics.parquet", 3),
}  # fmt: skip


AT_ONCE = {
    "about to sample ahead": ("before rollout 3", 1),
    "sampled ahead": ("after rollout 3", 1),
    "between shards": (f"after replace {PART.format(stage='rollout', part=0)}", 1),
    "in the first shard": ("sampled", 6 + 16 + 16 + 3),
    "a part judged": ("after replace it-0003/verify/part-00000-of-00002.parquet", 1),
    "rollouts without manifest": ("before replace it-0003/rollout/manifest.json", 1),
    "in a step": ("mid step", 2),
    "stepped, nothing written": ("stepped", 2),
    "weights without manifest": ("before replace it-0002/update/manifest.json", 1),
    "after update": ("after update 2", 1),
    "in an evaluation": ("sampled", 6 + 16 + 16 + 16 + 4),
    "after the iteration": ("settled 2", 1),
}

# Two steps off-policy, five iterations: iteration 4 is sampled from the weights of update 1, which
# its rollouts keep from retention, and may be at work while the flow evaluates and checkpoints.
FURTHER = {
    "two ahead": ("before rollout 4", 1),
    "sampled two ahead": ("after rollout 4", 1),
    "a part judged": ("after replace it-0004/verify/part-00000-of-00002.parquet", 1),
    "rollouts without manifest": ("before replace it-0004/rollout/manifest.json", 1),
    "in a step": ("mid step", 3),
    "weights that were sampled from": ("after replace it-0001/update/pruned.json", 1),
    "in the last one": ("after replace it-0005/rollout/part-00001-of-00002.parquet", 1),
    "after the iteration": ("settled 2", 1),
}

OTHER = ["update.learning_rate=0.05"]


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return never_killed(zygote, tmp_path_factory.mktemp("whole"), [])


@pytest.fixture(scope="module")
def off_policy(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return never_killed(zygote, tmp_path_factory.mktemp("off-policy"), OFF_POLICY)


@pytest.fixture(scope="module")
def two_steps(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return never_killed(zygote, tmp_path_factory.mktemp("two-steps"), TWO_STEPS)


def finished_samples(paths: RunPaths) -> set[str]:
    """Seed and policy of the samples in whole parts, whether or not their stage is finished."""
    found: set[str] = set()
    for stage in ("rollout", "evaluate"):
        for path in paths.root.glob(f"it-*/{stage}/*.parquet"):
            table = tables.table_name(path)
            if table in ("rollout", "generations", "samples"):
                columns = tables.read(table, path).select(["seed", "policy_version"])
                found |= {f"{one['seed']} {one['policy_version']}" for one in columns.to_pylist()}
    return found


@pytest.fixture(scope="module")
def other(zygote: Zygote, whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of a run that had another learning rate from the beginning."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "data").symlink_to(whole.folder / "data")
    assert zygote.run(folder, OTHER).words == ""
    return stubs.digests(folder / "runs" / "run")


@pytest.fixture
def folder(whole: Whole, tmp_path: Path) -> Path:
    """A folder with the same problem sets."""
    (tmp_path / "data").symlink_to(whole.folder / "data")
    return tmp_path


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed_is_not_to_be_told_from_never_killed(
    point: str, zygote: Zygote, whole: Whole, folder: Path
) -> None:
    require_resumed(zygote, whole, folder, *POINTS[point], [])


@pytest.mark.parametrize("point", AT_ONCE)
def test_killed_while_it_samples_and_trains_at_once(
    point: str, zygote: Zygote, off_policy: Whole, folder: Path
) -> None:
    """One-step off-policy: iteration 3 is sampled while update 2 is made."""
    require_resumed(zygote, off_policy, folder, *AT_ONCE[point], OFF_POLICY)


@pytest.mark.parametrize("point", FURTHER)
def test_killed_while_the_engines_are_two_iterations_ahead(
    point: str, zygote: Zygote, two_steps: Whole, folder: Path
) -> None:
    require_resumed(zygote, two_steps, folder, *FURTHER[point], TWO_STEPS)


def require_resumed(
    zygote: Zygote, whole: Whole, folder: Path, mark: str, count: int, changes: list[str]
) -> None:
    """Killed at a mark and gone on with, the run comes to what it would have without."""
    death = zygote.run(folder, changes, kill=mark, count=count)
    assert death.killed, death.words
    paths = RunPaths(folder / "runs" / "run")
    kept = finished_samples(paths)
    sampled, stepped = lines(folder, "sample"), lines(folder, "step")
    manifests = set(paths.root.glob("it-*/*/manifest.json"))
    times = {path: path.stat().st_mtime_ns for path in manifests}

    again = zygote.run(folder, changes)
    assert again.words == ""
    assert not again.killed
    require_whole(whole, folder)
    # Nothing that was finished is made again.
    assert {path: path.stat().st_mtime_ns for path in manifests} == times
    made = lines(folder, "sample")
    assert made.keys() == whole.samples.keys()
    assert {made[sample] for sample in kept} <= {1}
    # What was in flight is made once more, and everything else once.
    twice = {sample for sample, times_made in made.items() if times_made > 1}
    assert twice <= sampled.keys() - kept
    assert len(twice) <= 8
    for number, times_taken in lines(folder, "step").items():
        in_flight = stepped[number] and paths.manifest("update", int(number)) not in manifests
        assert times_taken == (2 if in_flight else 1)


def test_killed_over_and_over(zygote: Zygote, whole: Whole, tmp_path: Path) -> None:
    """Eight times in one run, at changes to the file system drawn from all along its way."""
    draw = random.Random(4)
    for name in ("recorded", "often"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").symlink_to(whole.folder / "data")
    marks = zygote.run(tmp_path / "recorded", record=True).marks
    ways = [mark for mark in marks if "it-000" in mark and "mkdir" not in mark]
    folder = tmp_path / "often"
    for part in range(8):
        mark = draw.choice(ways[part * len(ways) // 8 : (part + 1) * len(ways) // 8])
        assert zygote.run(folder, kill=mark).killed, mark
    assert zygote.run(folder).words == ""
    require_whole(whole, folder)


@pytest.mark.parametrize(
    ("mark", "count"),
    [
        ("after unlink it-0001/update/manifest.json", 1),
        ("mid step", 1),
        ("after replace LATEST", 1),
        ("settled 1", 1),
        ("after replace it-0003/rollout/part-00000-of-00002.parquet", 1),
    ],
)
def test_killed_while_it_is_made_again_with_another_setting(
    mark: str, count: int, zygote: Zygote, whole: Whole, other: dict[str, str], tmp_path: Path
) -> None:
    """`--rerun` in place, killed: the run ends as one that had the setting from the beginning."""
    folder = tmp_path / "changed"
    shutil.copytree(whole.folder, folder, symlinks=True)
    refused = zygote.run(folder, OTHER)
    assert "update.learning_rate 0.0003 -> 0.05" in refused.words
    assert "--rerun" in refused.words
    death = zygote.run(folder, OTHER, kill=mark, count=count, rerun=True)
    assert death.killed, death.words
    assert zygote.run(folder, OTHER, rerun=True).words == ""
    assert stubs.digests(folder / "runs" / "run") == other
    assert integrity.check(RunPaths(folder / "runs" / "run")) == []
