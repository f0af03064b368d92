"""Partial rollouts: a response that is cut goes on in the next iteration, and nothing is lost.

Runs of the stand-ins, whose answers are longer than an iteration samples of them.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import stubs
from killing import Zygote
from whole import Whole, never_killed, require_whole

from icpo_core.config import override
from icpo_core.engine import partial
from icpo_core.run import branch, integrity, metrics, plan
from icpo_core.run.run import Run
from icpo_core.store import tables
from icpo_core.store.paths import UNFINISHED
from icpo_core.store.work import Standing
from icpo_core.views import rollouts
from icpo_core.workers.jobs import Rollout

PARTIAL = ["rollout.partial_tokens=4", "rollout.max_tokens=12", "update.old_logprobs=engine"]
LONG = [*PARTIAL, "run.iterations=5"]
Rows = list[dict[str, Any]]


def ran(folder: Path, *changes: str) -> Run:
    run = Run.of(stubs.configuration(folder, "run", "evaluate.every=0", *LONG, *changes))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    return run


def ended(run: Run, iteration: int) -> Rows:
    rows = run.store.table("rollout", iteration, "rollout").to_pylist()
    return sorted(rows, key=lambda row: (row["prompt_id"], row["sample_index"]))


def version(run: Run, iteration: int) -> str | None:
    found = run.store.manifest("update", iteration)
    return found.policy_version if found else run.base_version


def left(run: Run, iteration: int) -> Rows:
    return run.store.table("rollout", iteration, UNFINISHED).to_pylist()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(tmp_path_factory.mktemp("partial"))


def test_every_group_ends_once_or_goes_on(run: Run) -> None:
    seen: Counter[tuple[str, int]] = Counter()
    carried = 0
    for iteration in range(1, 6):
        prompts = run.store.table("prompts", iteration, "prompts").to_pylist()
        before = {row["prompt_id"] for row in left(run, iteration - 1)} if iteration > 1 else set()
        assert {row["prompt_id"] for row in prompts if row["begun"] < iteration} == before
        assert sum(row["begun"] == iteration for row in prompts) == 4
        rows, open_ = ended(run, iteration), left(run, iteration)
        asked = {row["prompt_id"] for row in prompts}
        assert {row["prompt_id"] for row in rows} | {row["prompt_id"] for row in open_} == asked
        assert not {row["prompt_id"] for row in rows} & {row["prompt_id"] for row in open_}
        # A group goes on as long as one of it does, and then all of its rows wait.
        for name in {row["prompt_id"] for row in open_}:
            group = [row["finish_reason"] for row in open_ if row["prompt_id"] == name]
            assert len(group) == 4
            assert UNFINISHED in group
        begun = {row["prompt_id"]: row["begun"] for row in prompts}
        for row in rows:
            seen[begun[row["prompt_id"]], row["prompt_id"], row["sample_index"]] += 1
            carried += begun[row["prompt_id"]] < iteration
    assert set(seen.values()) == {1}
    assert carried >= 8
    assert sum(seen.values()) + len(left(run, 5)) == 5 * 4 * 4


def test_every_token_says_who_sampled_it(run: Run) -> None:
    lengths = set()
    for iteration in range(1, 6):
        begun = {
            row["prompt_id"]: row["begun"]
            for row in run.store.table("prompts", iteration, "prompts").to_pylist()
        }
        for row in ended(run, iteration) + left(run, iteration):
            segments = row["segments"]
            first = begun[row["prompt_id"]]
            numbers = [one["iteration"] for one in segments]
            assert numbers == list(range(first, first + len(segments)))
            assert numbers[-1] <= iteration
            assert [one["policy"] for one in segments] == [number - 1 for number in numbers]
            tokens = [one["tokens"] for one in segments]
            assert sum(tokens) == len(row["response_ids"]) == len(row["logprobs"])
            assert all(count == 4 for count in tokens[:-1])
            assert tokens[-1] <= 4
            assert row["policy_version"] == version(run, numbers[-1] - 1)
            if row["finish_reason"] == UNFINISHED:
                assert numbers[-1] == iteration
                assert sum(tokens) in (4, 8)
            elif row["finish_reason"] == "length":
                assert sum(tokens) == 12
            lengths.add(len(segments))
    assert lengths == {1, 2, 3}


def test_what_was_there_stays(run: Run) -> None:
    """What an iteration left is the beginning of what the next one has."""
    went_on = 0
    for iteration in range(1, 5):
        after = {
            (row["prompt_id"], row["sample_index"]): row
            for row in ended(run, iteration + 1) + left(run, iteration + 1)
        }
        for old in left(run, iteration):
            new = after[old["prompt_id"], old["sample_index"]]
            for key in ("response_ids", "logprobs"):
                assert new[key][: len(old[key])] == old[key]
            if old["finish_reason"] == UNFINISHED:
                went_on += 1
            else:
                assert new == old
    assert went_on >= 8


def test_figures_say_what_goes_on(run: Run) -> None:
    rows = {int(row["iteration"]): row for row in metrics.read(run.paths)}
    for iteration in range(1, 6):
        open_ = {row["prompt_id"] for row in left(run, iteration)}
        assert rows[iteration]["rollout/unfinished"] == len(open_)
        segments = [one for row in ended(run, iteration) for one in row["segments"]]
        tokens = sum(one["tokens"] for one in segments)
        old = sum(one["tokens"] for one in segments if one["iteration"] < iteration)
        assert rows[iteration]["rollout/carried_tokens"] == (old / tokens if tokens else 0.0)
        now = [one for row in left(run, iteration) for one in row["segments"]] + segments
        sampled = sum(one["tokens"] for one in now if one["iteration"] == iteration)
        assert rows[iteration]["rollout/tokens"] == sampled
    assert max(row.get("rollout/carried_tokens", 0.0) for row in rows.values()) > 0.0


def test_show_has_the_groups_that_ended(run: Run) -> None:
    for iteration in range(1, 6):
        shown = rollouts.read(run, iteration)
        there = {row["prompt_id"] for row in ended(run, iteration)}
        assert {group.prompt_id for group in shown} == there
        assert all(len(group.rollouts) == 4 for group in shown)
        for group in shown:  # by the number that it is shown with
            [one] = rollouts.read(run, iteration, str(group.number))
            assert one == group
        for row in left(run, iteration)[:1]:
            with pytest.raises(ValueError, match="goes on in a later one"):
                rollouts.read(run, iteration, row["prompt_id"])
    assert integrity.check(run.paths) == []


def test_the_number_of_parts_changes_no_row(run: Run, tmp_path: Path) -> None:
    other = ran(tmp_path, "rollout.shards=1")
    for iteration in range(1, 6):
        assert ended(other, iteration) == ended(run, iteration)
    assert version(other, 5) == version(run, 5)


def test_two_updates_behind_beside(tmp_path: Path) -> None:
    run = ran(tmp_path, "rollout.off_policy_steps=2")
    for iteration in range(1, 6):
        for row in ended(run, iteration):
            for one in row["segments"]:
                assert one["policy"] == max(0, one["iteration"] - 3)


def test_another_cut_makes_prompts_and_rollouts_again(run: Run) -> None:
    other = Run.of(override(run.config, ["rollout.partial_tokens=6"]), run.paths.root)
    stale = [step for step in plan.plan(other) if step.status.standing is Standing.STALE]
    assert {step.stage for step in stale} == {"prompts", "rollout"}
    assert {step.status.reason for step in stale} == {"rollout.partial_tokens 4 -> 6"}


def test_a_branch_that_cuts_elsewhere_leaves_what_went_on(run: Run, tmp_path: Path) -> None:
    assert left(run, 3)
    shutil.copytree(run.paths.root, tmp_path / "run")
    source = Run.read(tmp_path / "run")
    made = Run.read(branch.create(source, "other", "prompts", 4, ["rollout.partial_tokens=6"]))
    with stubs.stubbed(made) as session:
        stubs.train(session)
    for iteration in (4, 5):
        for row in ended(made, iteration) + left(made, iteration):
            assert len(row["response_ids"]) <= 12
            assert row["segments"][0]["iteration"] >= 4


@pytest.mark.parametrize("what", ["logprobs", "segments", "tokens", "column"])
def test_what_no_iteration_leaves_is_one_line(what: str, run: Run, tmp_path: Path) -> None:
    """Somebody else's run: every digest fits, and the rows do not."""
    [path, *_] = run.store.table_files("rollout", 1, UNFINISHED)
    data = tables.read(UNFINISHED, path)
    rows = data.to_pylist()
    row = next(row for row in rows if row["finish_reason"] == UNFINISHED)
    row |= {
        "logprobs": {"logprobs": None}, "segments": {"segments": []}, "column": {},
        "tokens": {"response_ids": [5] * 99, "logprobs": [0.0] * 99},
    }[what]  # fmt: skip
    table = partial.table(UNFINISHED, rows)
    table = table.drop_columns(["segments"]) if what == "column" else table
    tables.write(UNFINISHED, table, tmp_path / "unfinished.parquet")
    job = Rollout(
        prompts=tmp_path, shard=0, shards=1, on_policy=3, expert=1, expert_source="in_context",
        temperature=1.0, max_tokens=12, partial_tokens=4, begun=[tmp_path / "unfinished.parquet"],
        seed=0, iteration=2, policy_version="", out=tmp_path / "part.parquet", fingerprint="",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"is not as an iteration leaves it; make that .* again"):
        partial.begun(job, [row["prompt_id"]])


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return never_killed(zygote, tmp_path_factory.mktemp("whole"), PARTIAL)


@pytest.mark.parametrize(
    "mark",
    [
        "after replace it-{}/rollout/unfinished-00000-of-00002.parquet",
        "after replace it-{}/rollout/part-00000-of-00002.parquet",
        "before replace it-{}/rollout/part-00001-of-00002.parquet",
        "before replace it-{}/rollout/manifest.json",
        "after replace it-{}/prompts/prompts.parquet",
        "before replace it-{}/verify/manifest.json",
    ],
)
def test_killed_it_comes_to_the_same(
    mark: str, zygote: Zygote, whole: Whole, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(whole.folder / "data")
    for iteration in (1, 2, 3):
        death = zygote.run(tmp_path, PARTIAL, kill=mark.format(f"{iteration:04d}"), count=1)
        assert death.killed, (iteration, mark, death.words)
    assert zygote.run(tmp_path, PARTIAL).words == ""
    require_whole(whole, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["rollout.partial_tokens=5"], "must divide rollout.max_tokens = 12: set 4"),
        (["rollout.partial_tokens=12"], "must divide rollout.max_tokens = 12: set 6"),
        (["update.old_logprobs=trainer"], "partial_tokens = 4 learns from rollouts of weights"),
        (["prompts.fill=1"], "prompts.fill goes by the verdicts on whole groups"),
        (["rollout.steer=failed"], "rollout.steer = failed goes by the verdicts on whole groups"),
    ],
)
def test_what_cannot_be(changes: list[str], words: str, run: Run) -> None:
    with pytest.raises(ValueError, match=words):
        override(run.config, changes)
