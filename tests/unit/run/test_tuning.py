"""Fine-tuning between steps of RL (ReLIFT): its buffer is stored, and a killed run comes to the
same. Runs of the stand-ins, whose updates hang on the rows of each step."""

from __future__ import annotations

from pathlib import Path

import pytest
import stubs
from killing import Zygote
from whole import Whole, never_killed, require_whole

from icpo_core.common.lock import RefusedError
from icpo_core.config import override
from icpo_core.run import metrics, plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.store import tables
from icpo_core.store.work import Standing

TUNED = ["preset=relift", "rollout.on_policy=1", "select.tuning_buffer=1"]


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return never_killed(zygote, tmp_path_factory.mktemp("whole"), TUNED)


@pytest.fixture(scope="module")
def tuned(whole: Whole) -> Run:
    return Run.read(whole.folder / "runs" / "run")


def rows(run: Run, iteration: int, name: str) -> list[tuple[int, str]]:
    table = tables.read("tuning", run.store.file("select", iteration, f"{name}.parquet"))
    return list(zip(table["iteration"].to_pylist(), table["prompt_id"].to_pylist(), strict=True))


def test_what_nobody_solved_waits_from_iteration_to_iteration(tuned: Run) -> None:
    expected: list[tuple[int, str]] = []
    steps = 0
    figures = {row["iteration"]: row for row in metrics.read(tuned.paths)}
    for iteration in (1, 2, 3):
        verdicts = tuned.store.table("verify", iteration, "verdicts").to_pylist()
        right = {r["prompt_id"] for r in verdicts if r["origin"] == "on_policy" and r["reward"]}
        names = tuned.store.table("prompts", iteration, "prompts")["prompt_id"].to_pylist()
        expected += [(iteration, name) for name in names if name not in right]
        taken = expected[:1]
        expected = expected[len(taken) :]
        assert rows(tuned, iteration, "tuning") == taken
        assert rows(tuned, iteration, "waiting") == expected
        assert figures[iteration]["tuning/waiting"] == len(expected)
        steps += bool(taken)
    assert steps >= 1
    assert any(born < 3 for born, _ in rows(tuned, 3, "tuning") + rows(tuned, 3, "waiting"))


def test_killed_anywhere_it_comes_to_the_same(zygote: Zygote, whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(whole.folder / "data")
    for iteration in (1, 2, 3):
        place = f"it-{iteration:04d}/select"
        for mark in (
            f"after replace {place}/tuning.parquet",
            f"before replace {place}/manifest.json",
            f"after select {iteration}",
            "mid step",
            "weights written",
        ):
            death = zygote.run(tmp_path, TUNED, kill=mark, count=1)
            assert death.killed, (iteration, mark, death.words)
    assert zygote.run(tmp_path, TUNED).words == ""
    require_whole(whole, tmp_path)


def test_a_replayed_update_takes_its_step_of_fine_tuning_too(tuned: Run) -> None:
    """No state is saved before iteration 2's: the first update is replayed from what is stored."""
    assert rows(tuned, 1, "tuning")
    before = stubs.digests_of(tuned)["it-0002/update"]
    with stubs.stubbed(tuned) as session:
        made = perform(session, "update", 2, force=True)
    assert made.manifest.facts["replayed"] == [1]
    assert stubs.digests_of(Run.read(tuned.paths.root))["it-0002/update"] == before


@pytest.mark.parametrize(
    ("change", "stale"),
    [("select.tuning_buffer=3", {"select"}), ("update.learning_rate=0.1", {"update"})],
)
def test_what_is_made_again(change: str, stale: set[str], tuned: Run) -> None:
    other = Run.of(override(tuned.config, [change]), tuned.paths.root)
    steps = [step for step in plan.plan(other, last=2) if step.iteration == 2]
    assert {s.stage for s in steps if s.status.standing is Standing.STALE} == stale


def test_a_run_that_had_none_does_not_get_one_unasked(tmp_path: Path) -> None:
    changes = [*TUNED, "select.tuning_buffer=0", "run.iterations=1", "evaluate.every=0"]
    run = Run.of(stubs.configuration(tmp_path, "run", *changes))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    assert not (run.paths.stage("select", 1) / "tuning.parquet").exists()
    asked = Run.of(override(run.config, ["select.tuning_buffer=1"]), run.paths.root)
    with pytest.raises(RefusedError, match=r"select of iteration 1 .*tuning_buffer"):
        plan.require_same(asked, plan.plan(asked))
    with stubs.stubbed(asked) as session:
        outcomes = stubs.train(session, rerun=True)
    assert stubs.made(outcomes) == ["it-0001/select", "it-0001/update", "it-0001/checkpoint"]
    assert len(rows(asked, 1, "tuning")) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["rollout.expert=0"], "set rollout.expert >= 1"),
        (["rollout.on_policy=0"], "rollout.on_policy >= 1"),
        (["select.errs=mask"], "set select.errs = drop or off"),
        (["select.bonus=linear"], "select.bonus = off"),
        (
            ["rollout.expert_source=in_context", "prompts.k=1", "loss.expert_context=shown"],
            "loss.expert_context = bare",
        ),
    ],
)
def test_settings_that_nothing_would_come_of(
    changes: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        stubs.configuration(tmp_path, "run", *TUNED, *changes)
