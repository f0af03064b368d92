"""Problems of reasoning-gym: prepared, repeated, and scored by their own scorers in real judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icpo.data.preparation import Order, again, prepare
from icpo_core.grading.grade import GradingRules, Question
from icpo_core.grading.pool import Judges
from icpo_core.method.problems import read_problems

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
