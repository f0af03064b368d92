"""Recipes: every known shape of data set becomes the same rows, through the real readers."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icpo.data.recipes import FIELDS, RECIPES, gold_of
from icpo.data.sources import from_file, from_hub
from icpo_core.method.problems import problem_id

DAPO_PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'

# One row of each data set on the hub, in its own shape, with a problem of ours.
SHAPES = {
    "openr1-46k": {
        "data_source": "default",
        "prompt": [
            {"role": "system", "content": "You think first."},
            {"role": "user", "content": "What is 1 + 2?"},
        ],
        "target": [{"role": "assistant", "content": "<think>1 + 2 = 3</think> \\boxed{3}"}],
        "ability": "math",
        "reward_model": {"ground_truth": "3", "style": "rule"},
    },
    "math": {
        "problem": "What is 1 + 2?",
        "level": "Level 1",
        "type": "Algebra",
        "solution": "We add, and get $\\boxed{3}$.",
    },
    "gsm8k": {"question": "What is 1 + 2?", "answer": "Add: 1+2=<<1+2=3>>3.\n#### 3"},
    "dapo-17k": {
        "data_source": "math_dapo",
        "prompt": [{"content": f"{DAPO_PREFIX}What is 1 + 2?{DAPO_SUFFIX}", "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": "3", "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "9a9b6eb4"},
    },
    "deepscaler": {"problem": "What is 1 + 2?", "answer": "3", "solution": "One, two, three."},
    "skywork-or1": {
        "data_source": "train-math-deepscaler",
        "prompt": [{"content": "What is 1 + 2?", "role": "user"}],
        "ability": "math",
        "reward_model": {"ground_truth": '["3"]', "style": "rule"},
        "extra_info": {"index": 0, "model_difficulty": {"DeepSeek-R1-Distill-Qwen-7B": 0}},
    },
    "mathinstruct-pot": {
        "source": "data/PoT/numglue.json",
        "instruction": "What is 1 + 2? Let's write a Python program to solve it.",
        "output": "print(1 + 2)",
    },
    "columns": {"problem": "What is 1 + 2?", "answer": 3, "solution": None, "extra": {"a": [1]}},
}
SOLUTIONS = {
    "openr1-46k": "<think>1 + 2 = 3</think> \\boxed{3}",
    "math": "We add, and get $\\boxed{3}$.",
    "gsm8k": "Add: 1+2=3.\nThe answer is \\boxed{3}.",
    "dapo-17k": None,
    "deepscaler": "One, two, three.",
    "skywork-or1": None,
    "mathinstruct-pot": "print(1 + 2)",
    "columns": None,
}


def test_every_recipe_has_a_shape_here() -> None:
    assert set(SHAPES) == set(SOLUTIONS) == set(RECIPES)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_row_of_each_data_set(tmp_path: Path, name: str, ending: str) -> None:
    file = tmp_path / f"set.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([SHAPES[name]]), file)
    else:
        file.write_text(json.dumps(SHAPES[name]) + "\n", "utf-8")
    source = from_file(file)
    (row,) = RECIPES[name].rows(source.rows, source.name)
    answer = None if RECIPES[name].programs else "3"
    assert (row.row, row.problem, row.answer) == (1, "What is 1 + 2?", answer)
    assert row.solution == SOLUTIONS[name]
    assert row.id == problem_id("What is 1 + 2?")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["openr1-46k", "dapo-17k", "gsm8k"])
def test_through_load_dataset(
    tmp_path: Path, name: str, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder laid out like a hub repository goes through `datasets` itself."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    rows = [SHAPES[name]] * 3
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    source = from_hub(str(folder), None, "train", None, streaming)
    found = list(RECIPES[name].rows(source.rows, source.name))
    assert [row.answer for row in found] == ["3"] * 3
    assert [row.problem for row in found] == ["What is 1 + 2?"] * 3
    assert source.name == "repository"
    assert source.origin["streaming"] is streaming
    assert source.origin["fingerprint"]


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([SHAPES["math"]]), folder / "train.parquet")
    with pytest.raises(ValueError, match=r"--split"):
        list(from_hub(str(folder), None, "validation", None, False).rows)


def test_columns_by_name_and_by_path() -> None:
    raw = [{"q": {"text": "1+2?"}, "gold": [3], "steps": ["a", "b"], "s": 0.5}]
    recipe = RECIPES["columns"].with_columns(
        {"problem": "q.text", "answer": "gold.0", "solution": "steps", "score": "s"}
    )
    (row,) = recipe.rows(raw, "mine")
    assert (row.problem, row.answer, row.solution, row.score) == ("1+2?", "3", "a, b", 0.5)
    assert row.source == "mine"


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"problem": "q"}, "no column q, found problem, answer"),
        ({"answer": "gold"}, "no column gold"),
        ({"prob": "problem"}, "choose one of " + ", ".join(FIELDS)),
    ],
)
def test_a_wrong_column_is_named(columns: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        list(RECIPES["columns"].with_columns(columns).rows([{"problem": "p", "answer": "a"}], "s"))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"problem": {"a": 1}, "answer": "1"}, "row 1, problem"),
        ({"problem": "p", "answer": True}, "row 1, answer"),
        ({"problem": "p", "answer": "1", "score": "good"}, "row 1, score: 'good' is no number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(row: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        list(RECIPES["columns"].rows([row], "s"))


def test_what_is_missing_is_none_and_not_an_error() -> None:
    rows = [{"problem": "p", "answer": "1"}, {"problem": " ", "answer": None}, {"answer": "2"}]
    found = list(RECIPES["columns"].rows(rows, "s"))
    assert [(row.problem, row.answer) for row in found] == [("p", "1"), (None, None), (None, "2")]
    assert len({row.id for row in found}) == 3


def test_the_gold_of_a_solution() -> None:
    assert gold_of("so\n#### 1,234") == "1,234"
    assert gold_of(r"first \boxed{1}, then $\boxed{\frac{1}{2}}$.") == r"\frac{1}{2}"
    assert gold_of("no answer") is None


def test_wrappers_go_and_the_problem_stays() -> None:
    def problem(text: str) -> str | None:
        raw = [{"prompt": [{"content": text}], "reward_model": {"ground_truth": "1"}}]
        return next(iter(RECIPES["dapo-17k"].rows(raw, "s"))).problem

    body = "Solve the following equation: x = 1.\n\nRemember that x is real."
    assert problem(DAPO_PREFIX + body + DAPO_SUFFIX) == body
    assert problem(body) == body
