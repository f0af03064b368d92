"""The registry, reading benchmarks, protocols, and questions made of them."""

import json
from pathlib import Path

import pytest
from places import REAL
from transformers import AutoTokenizer

from icpo.data.benchmarks import fetch, gather
from icpo_core import config
from icpo_core.evaluation import benchmarks, protocol
from icpo_core.evaluation.benchmarks import LETTERS, read
from icpo_core.evaluation.questions import questions
from icpo_core.evaluation.registry import ENTRIES, GROUPS

FILES = {
    "aime2024": "aime2024_test", "aime2025": "aime2025_test", "amc2023": "amc2023_test",
    "math500": "math500_test", "minerva": "minerva_math_test",
    "olympiadbench": "olympiadbench_oe_to_maths_en_test", "gsm8k": "gsm8k_test",
}  # fmt: skip
needs_shared = pytest.mark.skipif(not REAL.is_dir(), reason="the shared data sets are not here")

ROWS = {
    "mmlu-pro": {
        "question_id": 70, "question": "Which is even?", "options": ["one", "two", "three"],
        "answer": "B", "answer_index": 1, "cot_content": "", "category": "math", "src": "x",
    },
    "gpqa-diamond": {
        "Record ID": "rec0", "Question": "Which is odd?", "Correct Answer": "3\n",
        "Incorrect Answer 1": "2", "Incorrect Answer 2": "4", "Incorrect Answer 3": "6",
        "High-level domain": "Physics", "Subdomain": "Optics",
    },
    "arc-c": {
        "id": "Mercury_1", "question": "Which is a star?",
        "choices": {"text": ["Moon", "Sun", "Mars", "Io"], "label": ["1", "2", "3", "4"]},
        "answerKey": "2",
    },
}  # fmt: skip
"""Rows of the hub's columns, with questions of our own."""
RIGHT = {"mmlu-pro": "two", "gpqa-diamond": "3", "arc-c": "Sun"}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def many(name: str) -> list[dict]:
    """As many rows as the benchmark has, with ids that differ."""
    key = ENTRIES[name].id[-1] if name != "gpqa-diamond" else "Record ID"
    return [{**ROWS[name], key: f"{at}"} for at in range(ENTRIES[name].sizes[0])]


@needs_shared
@pytest.mark.parametrize("name", FILES)
def test_published_files_are_read(name):
    found = read(name, str(REAL / f"{FILES[name]}.jsonl"))
    assert len(found.problems) in ENTRIES[name].sizes
    assert found.kind == "math"
    assert all(one.answer.strip() and one.problem.strip() for one in found.problems)
    if name == "math500":
        assert {one.level for one in found.problems} == set("12345")
        assert len({one.subject for one in found.problems}) == 7


def test_the_paper_s_columns_are_all_there():
    assert GROUPS["paper"] == GROUPS["math"] + GROUPS["ood"]
    assert len(GROUPS["paper"]) == 9
    rules = protocol.load("paper")
    assert {name: rules.samples(name) for name in GROUPS["paper"] if rules.samples(name) > 1} == {
        "aime2024": 32, "aime2025": 32, "amc2023": 32,
    }  # fmt: skip
    sampling = rules.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.6, 1.0, 8192)
    assert all(ENTRIES[name].hub and ENTRIES[name].sizes for name in GROUPS["paper"])


@pytest.mark.parametrize("name", ROWS)
def test_options_are_shuffled_by_seed_and_the_letter_goes_with_them(tmp_path, name):
    path = write(tmp_path / f"{name}.jsonl", many(name))
    found = read(name, path)
    assert found.kind == "choice"
    right = [one.options[LETTERS.index(one.answer)] for one in found.problems]
    assert set(right) == {RIGHT[name]}
    counts = [sum(one.answer == letter for one in found.problems) for letter in LETTERS]
    options = len(found.problems[0].options)
    mean = len(found.problems) / options
    assert all(abs(count - mean) < 5 * mean**0.5 for count in counts[:options])
    assert read(name, path) == found
    assert read(name, path, option_seed=1) != found
    given = read(name, path, option_seed=None)
    assert len({one.answer for one in given.problems}) == 1
    lines = found.problems[0].text.splitlines()
    assert lines[0] == given.problems[0].problem
    assert lines[2] == f"A. {found.problems[0].options[0]}"
    if name == "mmlu-pro":
        assert found.problems[0].subject == "math"
    assert found.private is (name == "gpqa-diamond")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gpqa-diamond", {"Correct Answer": ""}, "row 1 has no answer"),
        ("gpqa-diamond", {"Question": None}, "row 1 has no problem"),
        ("arc-c", {"answerKey": "9"}, "the answer is none of the 4 options"),
    ],
)
def test_a_damaged_benchmark_is_one_line_without_its_text(tmp_path, name, change, message):
    rows = many(name)
    rows[0] |= change
    with pytest.raises(ValueError, match=message) as error:
        read(name, write(tmp_path / "x.jsonl", rows))
    assert "Which" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_part_of_a_known_benchmark_is_refused_by_its_name(tmp_path):
    path = write(tmp_path / "x.jsonl", many("arc-c")[:10])
    with pytest.raises(ValueError, match="arc-c has 1172 problems, this file 10"):
        read("arc-c", path)
    assert len(read("mine", path).problems) == 10


def test_any_local_file_serves(tmp_path, small):
    heldout = read("heldout", str(small / "heldout.parquet"))
    assert (len(heldout.problems), heldout.kind, heldout.private) == (300, "math", False)
    rows = [{"problem": "Which?", "choices": ["x", "y"], "answer": "y"}]
    chosen = read("own", write(tmp_path / "own.jsonl", rows), option_seed=None)
    assert (chosen.kind, chosen.problems[0].answer) == ("choice", "B")
    gold = [{"question": "How many?", "answer": "Twelve hundred.\n#### 1,200"}]
    assert read("own", write(tmp_path / "g.jsonl", gold)).problems[0].answer == "1200"


def test_names_groups_and_files_are_told_apart(tmp_path, small, monkeypatch):
    path = write(tmp_path / "own.jsonl", [{"problem": "p", "answer": "1"}])
    assert [one.name for one in gather([path, f"again={path}"], tmp_path)] == ["own", "again"]
    with pytest.raises(ValueError, match="no such file or benchmark; there are aime2024"):
        gather(["aime"], tmp_path)
    with pytest.raises(ValueError, match="a plain name"):
        gather([f"a/b={path}"], tmp_path)
    # Offline: the hub's entry is asked for, and the line names the mend.
    with pytest.raises(ValueError, match=r"math-ai/aime25 .*give the file"):
        fetch("aime2025", tmp_path)
    write(tmp_path / "amc2023.jsonl", [{"question": f"{at}", "answer": at} for at in range(40)])
    assert len(gather([f"amc2023={tmp_path / 'amc2023.jsonl'}"], tmp_path)[0].problems) == 40


def test_every_protocol_loads():
    for path in protocol.PROTOCOLS.glob("*.toml"):
        assert protocol.load(path.stem).name == path.stem
    assert protocol.load("greedy").samples("aime2024") == 1
    changed = protocol.load("paper", ["sampling.samples=4", "benchmarks.math500.samples=2"])
    assert (changed.samples("aime2024"), changed.samples("math500")) == (4, 2)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("papers", [], "protocol papers: no such file; give a TOML file, or one of"),
        ("run", [], "this is a model"),
        ("paper", ["sampling.temprature=1"], "did you mean temperature"),
        ("paper", ["sampling.max_tokens=20000"], "leaves no room for a prompt"),
        ("paper", ["prompting.shots=2"], "needs prompting.demonstrations"),
        ("paper", ["benchmarks.math500.sample=2"], "did you mean samples"),
    ],
)
def test_mistakes_in_a_protocol_name_the_mend(name, changes, message):
    with pytest.raises(ValueError, match=message):
        protocol.load(name, changes)


def test_a_run_is_evaluated_as_it_was_trained(root):
    run = config.load(root / "configs" / "demo.toml")
    own = protocol.load("run", run=run)
    assert own.sampling.temperature == run.evaluate.temperature
    assert own.prompting.question_template == run.prompts.question_template
    assert own.engine == run.rollout.engine
    changes = ["sampling.max_tokens=64", "engine.max_model_len=256"]
    other = protocol.load("paper", changes, run)
    assert (other.sampling.temperature, other.prompting.format) == (0.6, "raw")
    assert other.fleet().engine.max_model_len == 256


def test_questions_hold_prompts_examples_and_golds(root, small):
    run = config.load(root / "configs" / "demo.toml")
    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    heldout = read("heldout", str(small / "heldout.parquet"))
    rules = protocol.load("run", run=run)
    bare = questions(heldout, tokenizer, rules.prompts("math"))
    first = heldout.problems[0]
    assert bare["prompt"][0].as_py() == f"Q:{first.problem}\nA:"
    assert bare["gold"].to_pylist() == [one.answer for one in heldout.problems]
    assert tokenizer.decode(bare["prompt_ids"][0].as_py()) == bare["prompt"][0].as_py()

    from icpo_core.method.problems import read_problems

    pool = read_problems(str(small / "demonstrations.parquet"))
    shots = rules.prompts("math").model_copy(update={"k": 2})
    shown = questions(heldout, tokenizer, shots, pool, seed=3)
    assert shown["prompt_id"].to_pylist() == bare["prompt_id"].to_pylist()
    assert {len(ids) for ids in shown["demo_ids"].to_pylist()} <= {1, 2}
    assert all(prompt.count("Q:") > 1 for prompt in shown["prompt"].to_pylist())
    assert all(
        prompt.endswith(alone)
        for prompt, alone in zip(
            shown["prompt"].to_pylist(), bare["prompt"].to_pylist(), strict=True
        )
    )
    tight = rules.prompts("math").model_copy(update={"max_tokens": 10})
    with pytest.raises(ValueError, match="300 of 300 prompts are longer than the 10 tokens"):
        questions(heldout, tokenizer, tight)


def test_a_drawn_part_keeps_order_and_seed(small):
    heldout = benchmarks.read("heldout", str(small / "heldout.parquet"))
    part = heldout.drawn(20, 0)
    ids = [one.id for one in heldout.problems]
    places = [ids.index(one.id) for one in part.problems]
    assert places == sorted(places)
    assert len(places) == 20
    assert part == heldout.drawn(20, 0) != heldout.drawn(20, 1)
    assert heldout.drawn(1000, 0) is heldout
