"""Self-distillation: who teaches what is stored, and comes out the same however often it is killed.

Runs of the stand-ins, whose teacher's logprobs hang on its weights, its prompt and the response.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import stubs
from killing import Zygote
from whole import Whole, lines, never_killed, require_whole

from icpo_core.common.lock import RefusedError
from icpo_core.config import override
from icpo_core.run import plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.stages import STAGES
from icpo_core.store import tables
from icpo_core.store.work import Standing

TAUGHT = ["loss.distill.coefficient=0.5"]
ALONE = [*TAUGHT, "loss.policy_coefficient=0", "rollout.expert=0"]


def ran(folder: Path, *changes: str) -> Run:
    run = Run.of(stubs.configuration(folder, "run", "evaluate.every=0", *changes))
    with stubs.stubbed(run, folder / "ledger") as session:
        stubs.train(session)
    return run


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(tmp_path_factory.mktemp("taught"), *TAUGHT)


def spoken(run: Run, iteration: int) -> list[tuple[str, int, int]]:
    """Problem, number and tokens of what the teacher has spoken on."""
    said = run.store.table("teach", iteration, "teacher").to_pylist()
    return sorted((row["prompt_id"], row["sample_index"], len(row["logprobs"])) for row in said)


def test_every_bare_rollout_is_spoken_on_token_by_token(taught: Run) -> None:
    for iteration in (1, 2, 3):
        rollouts = taught.store.table("rollout", iteration, "rollout").to_pylist()
        assert spoken(taught, iteration) == sorted(
            (row["prompt_id"], row["sample_index"], len(row["response_ids"]))
            for row in rollouts
            if row["origin"] == "on_policy"
        )
        shown = taught.store.table("teach", iteration, "lessons").to_pylist()
        prompts = taught.store.table("prompts", iteration, "prompts").to_pylist()
        # Demonstrations are those of the expert prompt.
        assert {row["prompt_id"]: row["prompt"] for row in shown} == {
            row["prompt_id"]: row["expert_prompt"] for row in prompts
        }


def test_alone_it_needs_no_expert_and_its_own_solution_no_demonstrations(tmp_path: Path) -> None:
    shows = [*ALONE, "run.iterations=1"]
    run = ran(tmp_path / "shown", *shows)
    assert set(run.store.table("prompts", 1, "prompts")["expert_prompt"].to_pylist()) == {None}
    assert len(spoken(run, 1)) == 12
    own = ran(tmp_path / "own", *shows, "loss.distill.context=solution", "prompts.k=0")
    lessons = own.store.table("teach", 1, "lessons").to_pylist()
    problems = tables.read("problems", Path(own.config.prompts.problems)).to_pylist()
    by_id = {row["id"]: row for row in problems}
    for row in lessons:
        one = by_id[row["prompt_id"]]
        solved = f"Q:{one['problem']}\nA:{one['solution']}\n\n"
        assert row["prompt"] == f"{solved}Q:{one['problem']}\nA:"


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ("loss.distill.coefficient=1", {"update"}),
        ("loss.distill.schedule=cosine", {"update"}),
        ("loss.policy_coefficient=0.5", {"update"}),
        ("loss.distill.teacher=start", {"teach", "update"}),
        ("loss.distill.teacher=average", {"teach", "update"}),
        ("loss.distill.context=solution", {"teach", "update"}),
        ("loss.distill.top_k=5", {"teach", "update"}),
        ("update.learning_rate=0.1", {"update"}),
        ("select.advantage=rloo", {"select"}),
        ("loss.distill.coefficient=0", {"update"}),
    ],
)
def test_what_is_made_again(change: str, stale: set[str], taught: Run) -> None:
    """The term's weight reruns the update alone; the teacher speaks again where who it is, what it
    is shown, or what it is asked for changes."""
    other = Run.of(override(taught.config, [change]), taught.paths.root)
    steps = [step for step in plan.plan(other, last=1) if step.iteration == 1]
    assert {s.stage for s in steps if s.status.standing is Standing.STALE} == stale


def test_a_teacher_that_fades_is_asked_no_more(tmp_path: Path) -> None:
    """Its weight is 0.5 and 0.25, and then there is no such stage."""
    run = ran(tmp_path, *TAUGHT, "loss.distill.schedule=linear", "loss.distill.horizon=2")
    loss = run.config.loss
    assert [loss.at(number).distill.coefficient for number in (1, 2, 3)] == [0.5, 0.25, 0.0]
    assert [run.paths.stage("teach", number).exists() for number in (1, 2, 3)] == [1, 1, 0]
    assert all(step.status.done for step in plan.plan(run))
    unset = override(run.config, ["loss.distill.horizon=none"])
    assert unset.loss.distill.horizon == 3  # as many as the run has iterations
    with pytest.raises(ValueError, match="horizon"):
        override(run.config, ["loss.distill.horizon=0"])


def test_a_run_that_gets_longer_fades_as_it_began(tmp_path: Path) -> None:
    fades = [*TAUGHT, "loss.distill.schedule=linear", "run.iterations=2"]
    run = ran(tmp_path, *fades)
    again = Run.named(str(run.paths.root), ["run.iterations=4"])
    assert again.config.loss.distill.horizon == 2
    assert all(step.status.done for step in plan.plan(again, last=2)), run


def test_a_run_that_had_no_teacher_does_not_get_one_unasked(tmp_path: Path) -> None:
    run = ran(tmp_path, "run.iterations=1")
    assert not run.paths.stage("teach", 1).exists()
    assert "teach" not in plan.stages_of(run.config, 1)
    with stubs.stubbed(run) as session, pytest.raises(ValueError, match="asks for no stage teach"):
        perform(session, "teach", 1)
    asked = Run.of(override(run.config, TAUGHT), run.paths.root)
    with pytest.raises(RefusedError, match=r"update of iteration 1 .*loss\.distill"):
        plan.require_same(asked, plan.plan(asked))
    with stubs.stubbed(asked) as session:
        outcomes = stubs.train(session, rerun=True)
    assert stubs.made(outcomes) == ["it-0001/teach", "it-0001/update", "it-0001/checkpoint"]


def test_its_weights_are_those_of_the_start_or_of_before(tmp_path: Path) -> None:
    runs = {
        teacher: ran(tmp_path / teacher, *TAUGHT, f"loss.distill.teacher={teacher}")
        for teacher in ("policy", "start")
    }

    def inputs(teacher: str, iteration: int) -> set[str]:
        found = runs[teacher].store.manifest("teach", iteration)
        assert found is not None
        return {name for name in found.inputs if name in ("state", "base")}

    assert inputs("policy", 2) == {"state", "base"}
    assert inputs("start", 2) == inputs("policy", 1) == {"base"}
    said = [runs[teacher].store.table("teach", 3, "teacher")["logprobs"] for teacher in runs]
    assert said[0] != said[1]
    for teacher, stage in (("policy", "teach"), ("start", "teach")):
        reads = plan.reads(runs[teacher], stage, 3)
        assert (("update", 2) in reads) == (teacher == "policy")
    assert STAGES["teach"].state(runs["start"], 3) is None


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return never_killed(zygote, tmp_path_factory.mktemp("whole"), TAUGHT)


def test_killed_within_the_pass_it_says_the_same(
    zygote: Zygote, whole: Whole, tmp_path: Path
) -> None:
    """One run, killed before, within, between and behind the parts of each pass: no part twice."""
    (tmp_path / "data").symlink_to(whole.folder / "data")
    kills = 0
    for iteration in (1, 2, 3):
        place = f"it-{iteration:04d}/teach"
        for mark, count in (
            (f"after select {iteration}", 1),
            ("taught", 3),
            (f"after replace {place}/part-00000-of-00002.parquet", 1),
            ("taught", 2),
            (f"before replace {place}/manifest.json", 1),
            (f"after teach {iteration}", 1),
        ):
            death = zygote.run(tmp_path, TAUGHT, kill=mark, count=count)
            assert death.killed, (iteration, mark, death.words)
            kills += 1
    assert kills == 18
    assert zygote.run(tmp_path, TAUGHT).words == ""
    require_whole(whole, tmp_path)
    # Of a part that was killed the first rows were asked for twice; of a whole one none.
    asked = lines(tmp_path, "teach")
    assert asked.keys() == lines(whole.folder, "teach").keys()
    assert sum(asked.values()) <= len(asked) + 3 * (3 + 2)


def test_replayed_updates_learn_from_what_was_said(zygote: Zygote, whole: Whole) -> None:
    """A state that was not saved is replayed from stored batches, and from the teacher's words."""
    root = whole.folder / "runs" / "run"
    run = Run.read(root)
    before = stubs.digests(root)
    with stubs.stubbed(run) as session:
        assert perform(session, "update", 2, force=True).made
        perform(session, "checkpoint", 2, force=True)
    assert (
        stubs.digests_of(Run.read(root)).items()
        >= {key: value for key, value in before.items() if key.startswith("it-0002")}.items()
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["loss.policy_coefficient=0"], "set loss.distill.coefficient"),
        ([*TAUGHT, "rollout.on_policy=0"], "set rollout.on_policy >= 1"),
        ([*ALONE, "prompts.k=0"], "loss.distill.context = solution"),
        (["loss.distill.schedule=linear"], "is about a teacher, and there is none"),
        ([*TAUGHT, "loss.distill.horizon=3"], "horizon is for a schedule that is not constant"),
        ([*ALONE, "loss.distill.schedule=linear"], "fades to nothing"),
    ],
)
def test_settings_that_nothing_would_come_of(
    changes: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        stubs.configuration(tmp_path, "run", *changes)


def test_a_slow_average_is_of_whole_weights(tmp_path: Path) -> None:
    zero = "update.deepspeed.zero_optimization.stage=3"
    asked = [*TAUGHT, "loss.distill.teacher=average"]
    with pytest.raises(ValueError, match="ZeRO-3 has none whole: set stage 2"):
        stubs.configuration(tmp_path, "run", *asked, zero)
    assert stubs.configuration(tmp_path, "run", *asked).loss.teacher == "average"
