"""A pool that grows: who joins, who is never shown, and that a killed run shows the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import stubs
from killing import Zygote
from whole import never_killed, require_whole

from icpo_core.config import override
from icpo_core.run import metrics, plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.store import tables
from icpo_core.store.work import Standing

GROWS = [
    "prompts.pool=all", "prompts.pool_age=2", "prompts.batch_size=10", "rollout.shards=1",
    "run.iterations=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of 30 problems, so that each comes again in the fourth iteration; six are asked in the
    evaluation, too."""
    folder = tmp_path_factory.mktemp("grown")
    stubs.problem_sets(folder / "data")
    asked = folder / "asked.parquet"
    tables.write("problems", tables.read("problems", folder / "data" / "train.parquet")[:6], asked)
    bench = f'evaluate.benchmarks=[{{name="asked", problems="{asked}"}}]'
    run = Run.of(stubs.configuration(folder, "run", *GROWS, bench, "evaluate.every=0"))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    return run


def prompts(run: Run, iteration: int) -> list[dict[str, object]]:
    return run.store.table("prompts", iteration, "prompts").to_pylist()


def shown(run: Run, iteration: int) -> list[tuple[str, str]]:
    """Problem and what joined the pool and is shown with it."""
    return [
        (str(row["prompt_id"]), name)
        for row in prompts(run, iteration)
        for name in row["demo_ids"]  # type: ignore[attr-defined]
        if "@it-" in name
    ]


def test_what_joins_is_right_young_and_of_other_problems(grown: Run) -> None:
    assert shown(grown, 1) == []
    problems = tables.read("problems", Path(grown.config.prompts.problems)).to_pylist()
    asked = {row["id"] for row in problems[:6]}
    origins, seen = Counter[str](), set[str]()
    for iteration in (2, 3, 4):
        for problem, name in shown(grown, iteration):
            source, _, place = name.partition("@it-")
            born, index = map(int, place.split("/"))
            assert source != problem
            assert source not in asked
            assert iteration - 2 <= born < iteration
            rows = grown.store.table("rollout", born, "rollout").to_pylist()
            (row,) = (r for r in rows if (r["prompt_id"], r["sample_index"]) == (source, index))
            said = grown.store.table("verify", born, "verdicts").to_pylist()
            (verdict,) = (v for v in said if (v["prompt_id"], v["sample_index"]) == (source, index))
            assert verdict["status"] == "correct"
            origins[row["origin"]] += 1
            seen.add(name)
            text = next(p for p in prompts(grown, iteration) if p["prompt_id"] == problem)
            one = next(p for p in problems if p["id"] == source)
            example = f"Q:{one['problem']}\nA:{row['response'].strip()}\n\n"
            assert example in str(text["expert_prompt"])
    assert min(origins["expert"], origins["on_policy"]) > 2
    assert len(seen) > 8
    figures = {row["iteration"]: row["pool/shown"] for row in metrics.read(grown.paths)}
    assert figures[1] == 0.0
    for iteration in (2, 3, 4):
        assert figures[iteration] == len(shown(grown, iteration)) / 10


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ("prompts.pool=expert", {"prompts"}),
        ("prompts.pool_age=1", {"prompts"}),
        ("verify.seconds=9", {"verify"}),
        ("select.advantage=rloo", {"select"}),
    ],
)
def test_what_is_made_again(change: str, stale: set[str], grown: Run) -> None:
    other = Run.of(override(grown.config, [change]), grown.paths.root)
    steps = [step for step in plan.plan(other, last=3) if step.iteration == 3]
    assert {s.stage for s in steps if s.status.standing is Standing.STALE} == stale


def test_it_is_made_of_what_is_stored(grown: Run) -> None:
    before = prompts(grown, 4)
    with stubs.stubbed(Run.read(grown.paths.root)) as session:
        assert perform(session, "prompts", 4, force=True).made
    assert prompts(grown, 4) == before


def test_killed_while_it_grows_it_shows_the_same(zygote: Zygote, tmp_path: Path) -> None:
    changes = [*GROWS, "run.iterations=3"]
    whole = never_killed(zygote, tmp_path / "whole", changes)
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "data").symlink_to(whole.folder / "data")
    for mark in (
        "after rollout 1",
        "before replace it-0001/verify/manifest.json",
        "after update 1",
        "before replace it-0002/prompts/manifest.json",
        "after prompts 2",
        "after verify 2",
    ):
        assert zygote.run(folder, changes, kill=mark).killed, mark
    assert zygote.run(folder, changes).words == ""
    require_whole(whole, folder)
    assert shown(Run.read(folder / "runs" / "run"), 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["prompts.pool=all", "rollout.expert=0"], "set rollout.expert >= 1"),
        (["prompts.pool=expert", "prompts.selection=best"], "set random or similar"),
        (["prompts.pool=bare", "rollout.on_policy=0"], "set rollout.on_policy >= 1"),
        (
            [
                "prompts.pool=bare",
                "rollout.off_policy_steps=2",
                "update.old_logprobs=engine",
            ],
            "set rollout.off_policy_steps = 1, or leave prompts.pool out",
        ),
    ],
)
def test_settings_that_nothing_would_come_of(
    changes: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        stubs.configuration(tmp_path, "run", *changes)
