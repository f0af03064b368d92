"""Work done ahead of its stage: that it is, in which order, and that nothing else changes by it."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import stub_worker
import stubs

from icpo.tasks.stages import may_pass
from icpo_core.grading.grade import Question
from icpo_core.grading.pool import Judges
from icpo_core.method import verdicts
from icpo_core.method.prompts import PromptMaker
from icpo_core.run import checkpoints, loop, perform, plan
from icpo_core.run.prefetch import Ahead
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.run.stages import verify
from icpo_core.workers.errors import EndedError

PATIENCE = 60.0
"""Seconds after which a test gives up on what never comes."""


OFF_POLICY = ["rollout.off_policy_steps=1", "update.old_logprobs=engine"]


def opened(folder: Path, *changes: str) -> Run:
    return Run.of(stubs.configuration(folder, "run", "evaluate.every=0", *changes))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Is set when a part has been judged ahead."""
    event, judge = threading.Event(), verify.Chain._judge

    def noted(*given: Any) -> Any:
        try:
            return judge(*given)
        finally:
            event.set()

    monkeypatch.setattr(verify.Chain, "_judge", noted)
    return event


def test_a_shard_is_judged_while_another_is_sampled(tmp_path, judged):
    """The second shard's first sample is not given out before the first shard's verdicts are."""
    sampled = 0

    def hook(mark: str) -> None:
        nonlocal sampled
        sampled += mark == "sampled"
        if sampled == 8 + 1:
            assert judged.wait(PATIENCE), "nobody judged the first shard while the second ran"

    with stubs.stubbed(opened(tmp_path), tmp_path / "ledger", hook) as session:
        for stage in ("prompts", "rollout", "verify"):
            perform.perform(session, stage, 1)
        facts = session.run.store.manifest("verify", 1).facts
        assert facts["parts_ahead"] == 2
        [first, second] = [one for one in facts["spans"] if one["lane"] == "judges"]
        assert first["name"] == "part-00000-of-00002.parquet ahead"
        rollout = session.run.store.manifest("rollout", 1).facts["spans"]
        sampling = [one for one in rollout if one["lane"].startswith("engine ")]
        assert [one["name"] for one in sampling] == ["part 0", "part 1"]
        assert first["started"] < sampling[1]["started"] + sampling[1]["seconds"]
        assert second["started"] >= first["started"]


def test_the_next_prompts_are_made_while_the_trainer_works(tmp_path, monkeypatch):
    """The step of an iteration does not end before the prompts of the next are there."""
    made: dict[int, threading.Event] = {number: threading.Event() for number in range(1, 5)}
    batch = PromptMaker.batch
    asked: list[int] = []

    def noted(self: PromptMaker, iteration: int, *more: Any) -> Any:
        table = batch(self, iteration, *more)
        asked.append(iteration)
        made[iteration].set()
        return table

    monkeypatch.setattr(PromptMaker, "batch", noted)
    steps = 0

    def hook(mark: str) -> None:
        nonlocal steps
        steps += mark == "mid step"
        if mark == "mid step" and steps < 3:
            assert made[steps + 1].wait(PATIENCE), "the next prompts are not there"

    with stubs.stubbed(opened(tmp_path), tmp_path / "ledger", hook) as session:
        stubs.train(session)
        assert asked == [1, 2, 3]  # none twice, and none of an iteration that does not come
        names = [
            [one["name"] for one in session.run.store.manifest("prompts", number).facts["spans"]]
            for number in (1, 2, 3)
        ]
        assert names == [[], ["made ahead"], ["made ahead"]]


@pytest.mark.parametrize("more", [[], ["prompts.fill=2"]], ids=["", "rounds"])
def test_two_steps_off_policy_the_engines_go_on(tmp_path, more):
    """Iteration 4 is there before the step of iteration 2 ends, though retention keeps one
    checkpoint; and the flow goes on to a checkpoint while iteration 5 is sampled. What is sampled
    is that of any other timing."""
    changes = ["rollout.off_policy_steps=2", "update.old_logprobs=engine", "run.iterations=5"]
    first = opened(tmp_path / "slow", *changes, *more)
    steps = 0

    def hook(mark: str) -> None:
        nonlocal steps
        steps += mark == "mid step"
        if mark == "mid step" and steps <= 2:
            require(first.paths.manifest("rollout", steps + 2))
        elif mark == "sampled" and first.paths.stage("rollout", 5).is_dir():
            require(first.paths.manifest("checkpoint", 3))

    def require(wanted: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while not wanted.is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert wanted.is_file(), "one waits for the other"

    with stubs.stubbed(first, tmp_path / "ledger", hook) as session:
        stubs.train(session)
        assert first.has_weights(5)
        assert not any(first.has_weights(number) for number in (1, 2, 3))
    for number in range(1, 6):
        found, facts = first.store.manifest("rollout", number), min(number - 1, 2)
        assert found.facts["off_policy_steps"] == facts
        versions = first.store.table("rollout", number, "rollout", ["policy_version"])
        assert set(versions["policy_version"].to_pylist()) == {found.inputs["policy"]}
    second = opened(tmp_path / "fast", *changes, *more)
    with stubs.stubbed(second, tmp_path / "steps") as session:
        for number in loop.iterations(session):  # nobody samples ahead
            for stage in plan.stages_of(second.config, number):
                perform.perform(session, stage, number)
            checkpoints.settle(session)
    assert stubs.digests(first.paths.root) == stubs.digests(second.paths.root)
    # Weights that are sampled from two iterations later were kept, and not made again.
    steps_taken = [one for one in (tmp_path / "steps").read_text().splitlines() if "step" in one]
    assert steps_taken == [f"step {number}" for number in range(1, 6)]


def test_it_comes_to_the_same_without(tmp_path, monkeypatch):
    with stubs.stubbed(opened(tmp_path / "ahead")) as session:
        stubs.train(session)
    monkeypatch.setattr(Ahead, "start", lambda *_: None)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "data").symlink_to(tmp_path / "ahead" / "data")
    with stubs.stubbed(opened(tmp_path / "plain")) as session:
        stubs.train(session)
        assert session.run.store.manifest("verify", 1).facts["parts_ahead"] == 0
    # The problem sets stand at another path, which no digest knows.
    roots = [tmp_path / name / "runs" / "run" for name in ("ahead", "plain")]
    assert stubs.digests(roots[0]) == stubs.digests(roots[1])


def test_a_part_that_is_judged_is_judged_once(tmp_path, monkeypatch):
    """Verdicts lie on disk before their stage: a run that died goes on with them, and rollouts that
    come out the same leave a finished stage alone."""
    asked: list[int] = []
    judge = verdicts.verdicts

    def counted(prompts: pa.Table, rollouts: pa.Table, *more: Any) -> pa.Table:
        asked.append(rollouts.num_rows)
        return judge(prompts, rollouts, *more)

    monkeypatch.setattr(verdicts, "verdicts", counted)
    with stubs.stubbed(opened(tmp_path)) as session:
        perform.perform(session, "prompts", 1)
        perform.perform(session, "rollout", 1)
        session.ahead.settle("verify", 1)
        assert len(asked) == 2
    with stubs.stubbed(opened(tmp_path)) as session:
        assert plan.status(session.run, "verify", 1).reason == "not finished, 2 parts of it there"
        perform.perform(session, "verify", 1)
        assert len(asked) == 2
        perform.perform(session, "rollout", 1, force=True)
        session.ahead.settle("verify", 1)
        assert plan.status(session.run, "verify", 1).done
        assert len(asked) == 2


def test_verdicts_of_other_rows_or_rules_are_not_kept(tmp_path, judged):
    with stubs.stubbed(opened(tmp_path)) as session:
        perform.perform(session, "prompts", 1)
        perform.perform(session, "rollout", 1)
        session.ahead.settle("verify", 1)
        first, second = (session.run.paths.part("verify", 1, part, 2) for part in (0, 1))
        shutil.copy(second, first)  # verdicts on other rows
        perform.perform(session, "verify", 1)
        assert session.run.store.manifest("verify", 1).facts["parts_ahead"] == 1
        right = session.run.store.table("verify", 1, "verdicts")
        perform.perform(session, "verify", 1, force=True)  # nothing is ahead any more
        assert session.run.store.manifest("verify", 1).facts["parts_ahead"] == 0
        assert verdicts.changed(right, session.run.store.table("verify", 1, "verdicts")) == []
        perform.perform(session, "rollout", 1, force=True)
        session.ahead.settle("verify", 1)
    with stubs.stubbed(opened(tmp_path, "verify.seconds=7")) as session:
        perform.perform(session, "rollout", 1, force=True)
        session.ahead.settle("verify", 1)
        assert plan.status(session.run, "verify", 1).reason == "not finished, 2 parts of it there"
    held = Ahead()
    held.start("verify", 1, "part", "these rules", lambda: 1)
    assert held.take("verify", 1, "part", "other rules") is None
    assert held.take("verify", 1, "part", "these rules") is None  # it is gone
    held.start("verify", 1, "part", "these rules", lambda: 1)
    held.start("verify", 2, "part", "these rules", lambda: 2)
    assert held.take("verify", 1, "part", "these rules") is None  # of an iteration that is over
    assert held.take("verify", 2, "part", "these rules").value == 2
    held.close()
    held = Ahead(1)  # two steps off-policy: an iteration and the one before it
    for number in (1, 2, 3):
        held.start("verify", number, "part", "these rules", partial(int, number))
    taken = [held.take("verify", number, "part", "these rules") for number in (1, 2, 3)]
    assert [one and one.value for one in taken] == [None, 2, 3]
    held.close()


def test_parts_of_an_earlier_attempt_are_judged_ahead_too(tmp_path, judged):
    def die(mark: str) -> None:
        nonlocal left
        left -= mark == "sampled"
        if not left:
            raise KeyboardInterrupt

    left = 12
    with stubs.stubbed(opened(tmp_path), None, die) as session:
        perform.perform(session, "prompts", 1)
        with pytest.raises(KeyboardInterrupt):
            perform.perform(session, "rollout", 1)
    shutil.rmtree(session.run.paths.stage("verify", 1), ignore_errors=True)  # not judged yet
    with stubs.stubbed(opened(tmp_path)) as session:
        perform.perform(session, "rollout", 1)
        assert session.run.store.manifest("rollout", 1).facts["kept_parts"] == 1
        perform.perform(session, "verify", 1)
        assert session.run.store.manifest("verify", 1).facts["parts_ahead"] == 2


def test_an_error_ahead_is_the_stage_s_own(tmp_path, monkeypatch):
    def broken(*_: Any) -> Any:
        raise RuntimeError("the judges cannot be started: no math-verify")

    with stubs.stubbed(opened(tmp_path)) as session:
        with monkeypatch.context() as patch:
            patch.setattr(Judges, "judge", broken)
            perform.perform(session, "prompts", 1)
            perform.perform(session, "rollout", 1)
            with pytest.raises(RuntimeError, match="cannot be started"):
                perform.perform(session, "verify", 1)
        assert plan.status(session.run, "rollout", 1).done
        perform.perform(session, "verify", 1)  # once it is mended, another try goes well
        assert plan.status(session.run, "verify", 1).done


def test_one_shard_is_judged_by_its_stage(tmp_path, monkeypatch):
    def never(*_: Any) -> Any:
        raise AssertionError("there was nothing to judge it beside")

    monkeypatch.setattr(verify.Chain, "_judge", never)
    with stubs.stubbed(opened(tmp_path, "rollout.shards=1")) as session:
        for stage in ("prompts", "rollout", "verify"):
            perform.perform(session, stage, 1)


def test_closing_a_run_does_not_wait_for_a_hard_verdict(tmp_path):
    """A judge at work is ended, not waited for: its limit here is an hour."""
    endless = Question(r"\int_0^1 x^{x^{x^x}} dx", r"\boxed{\int_0^1 x^{x^x} dx}")
    with stubs.stubbed(opened(tmp_path, "verify.seconds=3600")) as session:
        judges = session.tools(1).judges("verify")
        session.ahead.start("verify", 1, "part", "", lambda: judges.judge([endless]))
        for _ in range(int(PATIENCE / 0.1)):
            if any(one.pairs for one in judges._judges):
                break
            threading.Event().wait(0.1)
        assert any(one.pairs for one in judges._judges)
    assert judges._nursery is None
    assert not [one for one in threading.enumerate() if one.name.startswith("ahead")]


def test_a_run_that_ends_does_not_wait_for_its_rollouts(tmp_path):
    """What another thread samples ends with the engine, and is not tried again."""
    changes = [*OFF_POLICY, *stub_worker.changes(tmp_path, seconds=60.0)]
    with Session(opened(tmp_path, *changes)) as session, ThreadPoolExecutor(1) as pool:
        perform.perform(session, "prompts", 1)
        rollouts = pool.submit(perform.perform, session, "rollout", 1)
        deadline = time.monotonic() + PATIENCE
        while not list(session.logs.glob("engine.log")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        clock = time.monotonic()
        session.interrupt()
        with pytest.raises(EndedError) as ended:
            rollouts.result(PATIENCE)
        assert time.monotonic() - clock < PATIENCE / 2
        assert not may_pass(ended.value)
        with pytest.raises(EndedError, match="is being ended"):
            perform.perform(session, "rollout", 1)
    # Opened again it goes on.
    with stubs.stubbed(opened(tmp_path, *OFF_POLICY)) as session:
        assert len(stubs.train(session)) == 3 * 6 + 2 * 2
