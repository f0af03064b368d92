"""Rounds: who is sampled next hangs on verdicts, and comes out the same however often it is killed.

Runs of the stand-ins, whose bare rollouts are right half the time.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import stubs
from killing import Zygote
from whole import Whole, lines, never_killed, require_whole

from icpo.flows import cli
from icpo_core.common.seeds import generator
from icpo_core.config import Config, override
from icpo_core.method import rounds
from icpo_core.run import metrics, plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.store import tables
from icpo_core.store.batch import order
from icpo_core.store.work import Standing
from icpo_core.trainer import microbatches
from icpo_core.views import rollouts

STEER = ["rollout.steer=failed", "rollout.steer_below=0.4", "rollout.expert_tries=3"]
FILL = ["prompts.fill=2"]


def ran(folder: Path, *changes: str) -> Run:
    run = Run.of(stubs.configuration(folder, "run", "evaluate.every=0", *changes))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    return run


def groups(run: Run, iteration: int) -> dict[str, list[dict[str, Any]]]:
    """Rollouts with their rewards, by problem, in the order in which they were sampled."""
    sampled = run.store.table("rollout", iteration, "rollout").to_pylist()
    verdicts = run.store.table("verify", iteration, "verdicts")["reward"].to_pylist()
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row, reward in zip(sampled, verdicts, strict=True):
        found[row["prompt_id"]].append(row | {"reward": reward})
    return {name: sorted(rows, key=lambda r: r["sample_index"]) for name, rows in found.items()}


def carries_signal(rows: list[dict[str, Any]]) -> bool:
    """Whether those who take part have different rewards: of expert rollouts the accepted ones."""
    taking_part = [row for row in rows if row["origin"] == "on_policy" or row["reward"] >= 1.0]
    return len({row["reward"] for row in taking_part}) > 1


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(tmp_path_factory.mktemp("steered"), *STEER, "prompts.batch_size=8")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(tmp_path_factory.mktemp("filled"), *FILL)


def test_only_groups_that_fail_are_steered_until_one_is_accepted(steered: Run) -> None:
    tried = set()
    for iteration in (1, 2, 3):
        found = groups(steered, iteration)
        assert len(found) == 8
        for rows in found.values():
            bare, experts = rows[:3], rows[3:]
            assert {row["origin"] for row in bare} == {"on_policy"}
            assert {row["origin"] for row in experts} <= {"expert"}
            if sum(row["reward"] for row in bare) > 0.4 * 3:
                assert not experts
                continue
            assert 1 <= len(experts) <= 3
            assert all(row["reward"] == 0.0 for row in experts[:-1])
            assert experts[-1]["reward"] == 1.0 or len(experts) == 3
            # Every row says its round.
            assert [row["round"] for row in rows] == [0, 0, 0, *range(1, 1 + len(experts))]
            tried.add(len(experts))
        rejects = steered.store.table("select", iteration, "rejects")
        batch = steered.store.table("select", iteration, "batch")
        assert rejects.num_rows + batch.num_rows == sum(map(len, found.values()))
    assert {1, 2} <= tried, "the test has no group that took two tries"


def test_each_try_shows_other_examples(steered: Run) -> None:
    for iteration in (1, 2, 3):
        for row in steered.store.table("prompts", iteration, "prompts").to_pylist():
            shown = [row["demo_ids"], *(one["demo_ids"] for one in row[tables.TRIES])]
            assert len(shown) == 3
            names = [name for ids in shown for name in ids]
            assert len(set(names)) == len(names)
            prompts = [row["expert_prompt"], *(one["expert_prompt"] for one in row[tables.TRIES])]
            assert len(set(prompts)) == 3


@pytest.mark.parametrize("context", ["bare", "shown"])
def test_what_an_expert_rollout_is_learned_under(
    context: str, steered: Run, tmp_path: Path
) -> None:
    """`bare`: the problem alone, and by the expert's terms; `shown`: the prompt of its try, and as
    on-policy rollouts."""
    shutil.copytree(steered.paths.root, tmp_path / "copy")
    run = Run.named(tmp_path / "copy", [f"loss.expert_context={context}"])
    experts = 0
    with stubs.stubbed(run) as session:
        for iteration in (1, 2, 3):
            perform(session, "select", iteration)
            prompts = {
                row["prompt_id"]: row
                for row in run.store.table("prompts", iteration, "prompts").to_pylist()
            }
            batch = run.store.table("select", iteration, "batch")
            batch = batch.take(order(batch))
            rows = microbatches.rows_of(batch, context)
            for row, learned in zip(batch.to_pylist(), rows, strict=True):
                prompt = prompts[row["prompt_id"]]
                wanted = prompt["policy_prompt_ids"]
                if row["origin"] == "expert":
                    experts += 1
                    attempt = row["sample_index"] - 3
                    shown = [prompt, *prompt[tables.TRIES]][attempt]["expert_prompt_ids"]
                    wanted = wanted if context == "bare" else shown
                assert row["prompt_ids"] == wanted
                assert learned.expert == (row["origin"] == "expert" and context == "bare")
    assert experts >= 5


def test_figures_of_steering(steered: Run) -> None:
    rows = metrics.read(steered.paths)
    for row in rows[1:]:
        found = groups(steered, int(row["iteration"]))
        share = sum(len(rows) > 3 for rows in found.values()) / len(found)
        assert row["steer/share"] == share
        last = max(one["round"] for rows in found.values() for one in rows)
        assert row["rollout/rounds"] == last + 1


def test_a_batch_is_filled_with_groups_that_carry_signal(filled: Run) -> None:
    cursor, seen = 0, list[str]()
    left_out: set[str] = set()
    for iteration in (1, 2, 3):
        prompts = filled.store.table("prompts", iteration, "prompts")
        assert len(prompts["prompt_id"].unique()) == prompts.num_rows == 12
        found, manifest = groups(filled, iteration), filled.store.manifest("rollout", iteration)
        assert manifest is not None
        batches = manifest.facts["batches"]
        asked = prompts.filter(pc.less(prompts[tables.BATCH], batches))["prompt_id"].to_pylist()
        assert set(found) == set(asked)
        seen += asked
        cursor += batches
        assert manifest.facts["cursor"] == cursor
        carries = [name for name in asked if carries_signal(found[name])]
        batch = filled.store.table("select", iteration, "batch")
        assert set(batch["prompt_id"].to_pylist()) == set(carries[:4])
        rejects = filled.store.table("select", iteration, "rejects").to_pylist()
        for row in rejects:
            if row["origin"] == "expert" and row["reward"] < 1.0:
                assert row["reason"] == "below_delta"
            elif row["prompt_id"] in carries:
                assert (row["reason"], row["prompt_id"] in carries[:4]) == ("surplus", False)
            else:
                assert row["reason"] == "no_signal"
        left_out |= {row["reason"] for row in rejects}
        # It asked for no batch more than it had to, and for all that it might.
        before = [name for name in carries if name in asked[: (batches - 1) * 4]]
        assert len(before) < 4
        assert len(carries) >= 4 or batches == 3
    assert left_out == {"below_delta", "no_signal", "surplus"}
    assert cursor > 3
    # The cursor goes on where it stood: nothing is skipped, nothing comes twice.
    with stubs.stubbed(Run.read(filled.paths.root)) as session:
        maker = session.tools(1).prompt_maker
        places = [place for at in range(cursor) for place in maker.places(at + 1)]
    ids = tables.read("problems", Path(filled.config.prompts.problems))["id"].to_pylist()
    assert seen == [ids[place] for place in places]


@pytest.mark.parametrize("changes", [STEER, FILL, [*STEER, *FILL]], ids=["steer", "fill", "both"])
def test_the_number_of_parts_changes_no_row(changes: list[str], tmp_path: Path) -> None:
    one, two = (ran(tmp_path / n, *changes, f"rollout.shards={n}") for n in ("1", "3"))
    for iteration in (1, 2, 3):
        for stage, table in (("rollout", "rollout"), ("verify", "verdicts")):
            rows = [
                run.store.table(stage, iteration, table)
                .sort_by([("prompt_id", "ascending"), ("sample_index", "ascending")])
                .drop_columns(["policy_version" if stage == "rollout" else "seconds"])
                for run in (one, two)
            ]
            assert rows[0].equals(rows[1])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_share_of_steered_groups_fades(schedule: str, tmp_path: Path) -> None:
    """3,000 groups: within five standard deviations of what is asked for, at every iteration."""
    end = [] if schedule == "constant" else ["rollout.steer_horizon=4"]
    config = stubs.configuration(
        tmp_path, "run", "rollout.steer_share=0.8", f"rollout.steer_schedule={schedule}", *end
    )
    count = 3000
    names = [f"p{number}" for number in range(count)]
    prompts = pa.table({"prompt_id": names, "expert_prompt_ids": [[1]] * count})
    wanted = {
        "constant": [0.8, 0.8, 0.8, 0.8, 0.8, 0.8],
        "linear": [0.8, 0.6, 0.4, 0.2, 0.0, 0.0],
        "cosine": [0.8, 0.8 * 0.8535534, 0.4, 0.8 * 0.1464466, 0.0, 0.0],
    }[schedule]
    drawn = []
    for iteration, share in enumerate(wanted, 1):
        assert rounds.share(config, iteration) == pytest.approx(share, abs=1e-6)
        first = rounds.Rounds(config, prompts, iteration).first()
        assert first.groups == list(range(count))
        assert first == rounds.Rounds(config, prompts, iteration).first()
        spread = (share * (1 - share) / count) ** 0.5
        assert abs(len(first.steered) / count - share) <= 5 * spread + 1e-9
        drawn.append(first.steered)
    assert drawn[0] != drawn[1]


def test_a_share_of_groups_stays_with_its_bare_rollouts(tmp_path: Path) -> None:
    run = ran(tmp_path, "rollout.steer_share=0.5")
    sizes = Counter(
        tuple(row["origin"] for row in rows)
        for iteration in (1, 2, 3)
        for rows in groups(run, iteration).values()
    )
    assert set(sizes) == {("on_policy",) * 3, (*("on_policy",) * 3, "expert")}
    assert "round" not in run.store.table("rollout", 1, "rollout").column_names


BY_RATE = [
    "rollout.steer_schedule=pass_rate", "rollout.steer_share=0.9", "prompts.batch_size=15",
]  # fmt: skip
"""Of 30 problems, so that the third iteration has those of the first again."""


def test_the_share_hangs_on_how_often_the_problem_was_solved(tmp_path: Path) -> None:
    run = ran(tmp_path, *BY_RATE, "run.iterations=5")
    rates: dict[str, float] = {}
    seen = Counter[bool]()
    for iteration in range(1, 6):
        for name, rows in groups(run, iteration).items():
            draw = generator(run.seed, "steer", iteration, name).random()
            steered = len(rows) > 3
            assert steered == (draw < 0.9 * (1 - rates.get(name, 0.0))), (iteration, name)
            seen[steered and iteration > 2] += 1
        for name, rows in groups(run, iteration).items():
            right = sum(row["reward"] for row in rows[:3]) / 3
            rates[name] = (rates[name] + right) / 2 if name in rates else right
    assert seen[True] > 3
    assert len(set(rates.values())) > 3
    # Other verdicts on what was sampled long before make other rollouts.
    other = Run.of(override(run.config, ["verify.seconds=9"]), run.paths.root)
    with stubs.stubbed(other) as session:
        perform(session, "verify", 1, force=True)
    assert plan.status(other, "rollout", 2).standing is Standing.DONE  # they came out the same
    shutil.rmtree(run.paths.stage("verify", 1))
    assert plan.status(Run.read(run.paths.root), "rollout", 2).standing is not Standing.DONE


def test_killed_it_asks_the_stored_verdicts_again(zygote: Zygote, tmp_path: Path) -> None:
    whole = never_killed(zygote, tmp_path / "whole", BY_RATE)
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "data").symlink_to(whole.folder / "data")
    part = "it-0003/rollout/part-0000{}-of-00002.parquet"
    for mark, count in (
        ("after verify 2", 1),
        ("sampled", 5),
        (f"after replace {part.format(0)}", 1),
        (f"after replace {part.format(1)}", 1),
    ):
        assert zygote.run(folder, BY_RATE, kill=mark, count=count).killed, mark
    assert zygote.run(folder, BY_RATE).words == ""
    require_whole(whole, folder)


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return never_killed(zygote, tmp_path_factory.mktemp("whole"), [*STEER, *FILL])


def test_killed_after_each_part_it_comes_to_the_same_rounds(
    zygote: Zygote, whole: Whole, tmp_path: Path
) -> None:
    """One run, killed after every part of every round, again and again: nothing is made twice."""
    (tmp_path / "data").symlink_to(whole.folder / "data")
    changes = [*STEER, *FILL]
    run = whole.folder / "runs/run"
    kills = 0
    for iteration in (1, 2, 3):
        parts = (run / f"it-{iteration:04d}/rollout").glob("part-*.parquet")
        for name in sorted(
            (path.name for path in parts), key=lambda one: (one[19:].removesuffix(".parquet"), one)
        ):
            mark = f"after replace it-{iteration:04d}/rollout/{name}"
            death = zygote.run(tmp_path, changes, kill=mark, count=1)
            assert death.killed, (mark, death.words)
            kills += 1
    assert kills >= 9
    assert zygote.run(tmp_path, changes).words == ""
    require_whole(whole, tmp_path)
    made = lines(tmp_path, "sample")
    assert made.keys() == whole.samples.keys()
    assert set(made.values()) == {1}


def test_rounds_come_again_from_stored_verdicts_changed_rules_make_them_anew(
    steered: Run, tmp_path: Path
) -> None:
    """The rollouts hang on who judges, and on who is accepted, only where they come in rounds."""
    config = steered.config

    def read(config: Config) -> dict[str, Any]:
        return plan.config_slice(config, "rollout")

    assert {"verify", "select.errs", "select.delta"} <= read(config).keys()
    plain = stubs.configuration(tmp_path)
    assert "verify" not in read(plain)
    shutil.copytree(steered.paths.root, tmp_path / "copy")
    again = Run.read(tmp_path / "copy")
    with stubs.stubbed(again) as session:
        before = groups(again, 2)
        assert perform(session, "rollout", 2, force=True).made
        perform(session, "verify", 2)
        assert groups(again, 2) == before


@pytest.mark.parametrize(
    ("name", "change", "stale"),
    [
        ("steered", "rollout.steer_below=0.2", {"rollout"}),
        ("steered", "rollout.expert_tries=2", {"prompts", "rollout"}),
        ("steered", "prompts.k_growth=1", {"prompts"}),
        ("steered", "verify.rules.evaluated=false", {"rollout", "verify"}),
        ("steered", "verify.verifier=choice", {"rollout", "verify"}),
        ("steered", "select.delta=0.5", {"rollout", "select"}),
        ("steered", "select.advantage=rloo", {"select"}),
        ("steered", "rollout.steer_schedule=linear", {"rollout"}),
        ("filled", "prompts.fill=1", {"prompts"}),
        ("filled", "prompts.fill=0", {"prompts", "rollout", "select"}),
        ("filled", "select.errs=off", {"rollout", "select"}),
        ("filled", "verify.seconds=9", {"rollout", "verify"}),
    ],
)
def test_who_reads_what_makes_rounds(
    name: str, change: str, stale: set[str], request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(name)
    other = Run.of(override(run.config, [change]), run.paths.root)
    steps = [step for step in plan.plan(other, last=1) if step.iteration == 1]
    found = {step.stage for step in steps if step.status.standing is Standing.STALE}
    assert found == stale


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["rollout.expert_tries=2"], "rollout.expert_tries is for rollout.steer = failed"),
        (["rollout.steer_below=0.5"], "rollout.steer_below is for rollout.steer = failed"),
        (["prompts.k_growth=1"], "set rollout.expert_tries >= 2"),
        (["rollout.steer=failed", "rollout.on_policy=0"], "set rollout.on_policy >= 1"),
        (["rollout.steer_share=0.5", "rollout.expert=0"], "set rollout.expert >= 1"),
        (["rollout.steer_horizon=5"], "steer_schedule that is not constant"),
        (["rollout.steer_horizon=5", BY_RATE[0]], "leave it out"),
        (
            [*STEER, "rollout.expert_source=traces"],
            "rollout.expert_source = traces has one trace a problem",
        ),
    ],
)
def test_settings_that_nothing_would_come_of(
    changes: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        stubs.configuration(tmp_path, "run", *changes)


def test_a_person_is_shown_rounds_and_tries(
    steered: Run, filled: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rollouts.read(steered, 1)
    assert {one.round for group in found for one in group.rollouts} >= {0, 1}
    assert all(len(group.tries) == 2 for group in found)
    with pytest.raises(SystemExit):
        cli.main(["show", str(steered.paths.root), "--iteration", "1", "--prompt", "1"])
    said = capsys.readouterr().out
    assert "round 0" in said
    assert f"of try 2: {found[0].tries[0]['demo_ids'][0]}" in said
    # Problems that were drawn and not needed are not shown.
    facts = filled.store.manifest("rollout", 1).facts  # type: ignore[union-attr]
    assert len(rollouts.read(filled, 1)) == 4 * facts["batches"]


@pytest.mark.parametrize("stage", ["rollout", "verify"])
def test_a_copy_of_a_part_is_not_counted_twice(stage: str, steered: Run, tmp_path: Path) -> None:
    """The stage has lost its manifest, so nobody else can tell the copy from its parts."""
    shutil.copytree(steered.paths.root, tmp_path / "copy")
    run = Run.read(tmp_path / "copy")
    folder = run.paths.stage(stage, 3)
    before = sorted(path.name for path in folder.iterdir())
    (folder / "manifest.json").unlink()
    parts = sorted(folder.glob("part-*.parquet"))
    shutil.copy(parts[0], folder / "part-00099-of-00100.parquet")
    with stubs.stubbed(run) as session:
        stubs.train(session)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert stubs.digests(run.paths.root) == stubs.digests(steered.paths.root)
