"""Problems of reasoning-gym: prepared, repeated, and scored by their own scorers in real judges."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import stubs

from icpo.data.preparation import Order, again, prepare
from icpo_core.evaluation import benchmarks
from icpo_core.grading.grade import GradingRules, Question
from icpo_core.grading.pool import Judges
from icpo_core.method import gym
from icpo_core.method.problems import read_problems
from icpo_core.run.run import Run
from icpo_core.run.sources import require

needs_gym = pytest.mark.usefixtures("_gym")


@pytest.fixture
def _gym() -> None:
    pytest.importorskip("reasoning_gym", reason="icpo[gym] is not installed")


@needs_gym
def test_a_family_is_a_problem_set_with_its_scorer(tmp_path: Path) -> None:
    source = "reasoning-gym:chain_sum?size=20&seed=3&min_terms=3&max_terms=3"
    made = prepare(Order(source=source), tmp_path / "sums.parquet", workers=1)
    problems = read_problems(str(made.problems)).to_pylist()
    assert len(problems) == made.manifest["rows"]["kept"] > 10
    entries = [json.loads(row["extra"]) for row in problems]
    assert {entry["metadata"]["num_terms"] for entry in entries} == {3}
    assert all(
        row["problem"] == entry["question"] for row, entry in zip(problems, entries, strict=True)
    )
    assert again(made.manifest_file, None, 1).manifest["outputs"] == made.manifest["outputs"]

    right = [f"\\boxed{{{entry['answer']}}}" for entry in entries]
    rows = [{"extra": entry} for entry in entries]
    questions = [Question("", text, False, row) for text, row in zip(right, rows, strict=True)]
    questions += [Question("", "\\boxed{x}", False, rows[0]), Question("", "none", False, rows[0])]
    questions += [Question("", "\\boxed{1}", False, {"extra": {}})]
    with Judges(1, 10.0, 1024, GradingRules(), "reasoning-gym") as judges:
        found = judges.judge(questions)
    statuses = [str(one.status) for one in found]
    assert statuses == ["correct"] * len(right) + ["wrong", "no_answer", "error"]
    assert "make the problem set with `icpo data prepare" in found[-1].detail


@needs_gym
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reasoning-gym:chain_sums", "no family 'chain_sums'; there is chain_sum"),
        ("reasoning-gym:rearc", "needs tuples, which no column holds"),
        ("reasoning-gym:chain_sum?terms=3", "write FAMILY.size=1000&seed=1&KEY=VALUE"),
        ("reasoning-gym:chain_sum?min_terms=0", "write FAMILY.size=1000&seed=1&KEY=VALUE"),
    ],
)
def test_mistakes(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as said:
        prepare(Order(source=name), tmp_path / "out.parquet", workers=1)
    assert "\n" not in str(said.value)


@needs_gym
def test_a_family_in_the_toml_file_is_prompted_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = (
        "reasoning-gym:chain_sum?size=12&seed=3&min_terms=2&max_terms=2&min_digits=1&max_digits=1"
    )
    asked = family.replace("seed=3", "seed=4")
    changes = (f"prompts.problems={family}", "preset=grpo", "rollout.on_policy=4")
    changes += ("rollout.expert=0", "run.iterations=1", "rollout.shards=1", "prompts.exclude=[]")
    changes += (f'evaluate.benchmarks=[{{name="heldout", problems="{asked}"}}]',)
    with pytest.raises(ValueError, match=r"set verify.verifier = 'reasoning-gym'"):
        require(Run.of(stubs.configuration(tmp_path, "plain", *changes)))

    def sums(problem: str) -> int:
        """The stand-in's answers: right for every problem."""
        return eval(re.search(r": ([\d +-]+)", problem)[1])  # type: ignore[index]

    monkeypatch.setattr(stubs, "_solve", sums)
    config = stubs.configuration(tmp_path, "run", *changes, "verify.verifier=reasoning-gym")
    run = Run.of(config)
    require(run)
    with stubs.stubbed(run) as session:
        stubs.train(session)
    problems = {row["id"]: row for row in read_problems(family).to_pylist()}
    assert len(problems) > 8
    verdicts = run.store.table("verify", 1, "verdicts").to_pylist()
    assert {row["prompt_id"] for row in verdicts} <= set(problems)
    assert {row["status"] for row in verdicts} >= {"correct"}
    inputs = run.store.finished("prompts", 1).inputs
    assert inputs["prompts.problems"] == gym.digest(family) != gym.digest(asked)
    assert len(benchmarks.read("heldout", asked).problems) > 8


def test_a_family_without_the_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match=r"install icpo\[gym\]"):
        read_problems("reasoning-gym:chain_sum?size=7&seed=99")
