"""`icpo data prepare`, whole: on the real data in place, from the command line, and once again."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from places import REAL, ROOT, SMALL

from icpo.data.preparation import Order, again, prepare
from icpo.data.prepare import main
from icpo_core.common.files import sha256_file
from icpo_core.config import load
from icpo_core.method.problems import read_problems
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Session

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real data (../shared) is not here")
EVALUATIONS = (
    "math500_test", "aime2024_test", "aime2025_test", "amc2023_test", "minerva_math_test",
    "olympiadbench_oe_to_maths_en_test", "gsm8k_test",
)  # fmt: skip

ROWS = [
    {"id": "a", "problem": "What is 1 + 2?", "answer": "3", "solution": "so \\boxed{3}"},
    {"id": "b", "problem": "What is 2 + 2?", "answer": "4", "solution": None},
    {"id": "c", "problem": "what is 1+2 ?", "answer": "3.0", "solution": "s"},
    {"id": "d", "problem": "求 1+1", "answer": "2", "solution": "s"},
    {"id": "e", "problem": "What is 5 + 5?", "answer": None, "solution": "I do not know"},
]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return file


def overlapping(train: str) -> set[str]:
    """Ids of training problems that stand in an evaluation set word for word."""
    overlap = json.loads((REAL / "overlap_train_vs_eval.json").read_text("utf-8"))["overlap"]
    return {train_id for pairs in overlap[train].values() for _, train_id in pairs}


def real(name: str, recipe: str, purpose: str, out: Path, evaluations=EVALUATIONS):
    order = Order(
        source=str(REAL / f"{name}.jsonl"),
        recipe=recipe,
        purpose=purpose,
        evaluations=tuple(str(REAL / f"{evaluation}.jsonl") for evaluation in evaluations),
    )
    return prepare(order, out, workers=2)


@needs_real
def test_dapo_has_no_evaluation_problem_left(tmp_path: Path) -> None:
    made = real("dapo_math_17k_train", "dapo-17k", "training", tmp_path / "dapo.parquet")
    kept = read_problems(str(made.problems))
    removed = pq.read_table(made.removed).to_pylist()
    reasons = {row["id"]: row["reason"] for row in removed}
    known = overlapping("dapo_math_17k_train")
    assert len(known) == 31
    assert known & set(kept.column("id").to_pylist()) == set()
    assert {reasons[train_id] for train_id in known} <= {"contamination", "conflict", "duplicate"}
    counts = made.manifest["rows"]["removed"]
    assert counts["language"] == 3_432  # as the data's own notes say
    assert 50 <= counts["conflict"] <= 80
    assert kept.num_rows + len(removed) == made.manifest["rows"]["read"] == 17_917
    # The same problem never stands twice, and nothing else was lost.
    problems = kept.column("problem").to_pylist()
    assert len(set(problems)) == len(problems)
    assert kept.num_rows > 13_000


@needs_real
@pytest.mark.parametrize(
    ("name", "recipe", "purpose", "evaluations"),
    [
        ("math_train_7500", "math", "demonstrations", ("math500_test", EVALUATIONS[5])),
        ("gsm8k_train", "gsm8k", "training", ("gsm8k_test",)),
    ],
)
def test_real_sets(
    tmp_path: Path, name: str, recipe: str, purpose: str, evaluations: tuple[str, ...]
) -> None:
    made = real(name, recipe, purpose, tmp_path / "out.parquet", evaluations)
    kept = read_problems(str(made.problems))
    assert overlapping(name) & set(kept.column("id").to_pylist()) == set()
    assert kept.num_rows > 7_400
    solutions = kept.column("solution").to_pylist()
    assert all(solution and "<<" not in solution for solution in solutions)
    assert all("\\boxed" in solution for solution in solutions)


@needs_real
def test_an_evaluation_set_stays_as_it_is(tmp_path: Path) -> None:
    order = Order(source=str(REAL / "math500_test.jsonl"), purpose="evaluation")
    made = prepare(order, tmp_path / "math500.parquet")
    before = read_problems(str(REAL / "math500_test.jsonl"))
    after = read_problems(str(made.problems))
    assert after.select(["id", "problem", "answer"]) == before.select(["id", "problem", "answer"])


def test_our_own_small_data(tmp_path: Path) -> None:
    order = Order(
        source=str(SMALL / "train.parquet"), evaluations=(str(SMALL / "heldout.parquet"),)
    )
    made = prepare(order, tmp_path / "train.parquet")
    assert made.manifest["rows"] == {"read": 2_000, "kept": 2_000, "removed": {}}
    tokenizer = str(SMALL / "base")
    limited = order.model_copy(
        update={
            "tokenizer": tokenizer,
            "prompts": order.prompts.model_copy(update={"max_tokens": 4}),
        }
    )
    with pytest.raises(ValueError, match=r"no row of 2000 is left.*prompt_length"):
        prepare(limited, tmp_path / "none.parquet")


def test_a_run_s_configuration_names_benchmarks_and_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f"""
        [model]
        path = "{SMALL / "base"}"
        [prompts]
        problems = "{SMALL / "train.parquet"}"
        format = "raw"
        max_tokens = 64
        [rollout]
        expert = 0
        [[evaluate.benchmarks]]
        name = "mine"
        problems = "{SMALL / "heldout.parquet"}"
        """,
        "utf-8",
    )
    out = str(tmp_path / "out.parquet")
    assert main([str(SMALL / "train.parquet"), "--config", str(config), "--out", out]) == 0
    assert "No evaluation set" not in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out.manifest.json").read_text("utf-8"))
    (evaluation,) = manifest["evaluations"]
    assert (Path(evaluation["file"]).name, evaluation["rows"]) == ("heldout.parquet", 300)
    assert manifest["order"]["tokenizer"] == str(SMALL / "base")
    assert manifest["rows"]["kept"] == 2_000
    assert main([str(SMALL / "heldout.parquet"), "--config", str(config), "--out", out]) == 2
    assert "contamination" in capsys.readouterr().err  # every row is one of the benchmark
    tight = ["--max-prompt-tokens", "5"]
    found = main([str(SMALL / "train.parquet"), "--config", str(config), "--out", out, *tight])
    assert found == 2
    assert "prompt_length" in capsys.readouterr().err


def test_every_removed_row_has_a_reason(mine: Path, tmp_path: Path) -> None:
    evaluation = tmp_path / "bench.csv"
    with evaluation.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["problem", "answer"], ["What is 2+2?", "4"]])
    made = prepare(
        Order(source=str(mine), evaluations=(str(evaluation),)), tmp_path / "out.parquet"
    )
    removed = pq.read_table(made.removed).to_pylist()
    assert [(row["row"], row["id"], row["reason"]) for row in removed] == [
        (2, "b", "contamination"),
        (3, "c", "duplicate"),
        (4, "d", "language"),
        (5, "e", "no_answer"),
    ]
    assert read_problems(str(made.problems)).column("id").to_pylist() == ["a"]
    assert made.manifest["rows"]["removed"] == {
        "no_answer": 1, "language": 1, "duplicate": 1, "contamination": 1,
    }  # fmt: skip


def test_again_makes_the_same_rows(mine: Path, tmp_path: Path) -> None:
    first = prepare(Order(source=str(mine)), tmp_path / "out.parquet")
    digests = [sha256_file(file) for file in (first.problems, first.removed)]
    second = again(first.manifest_file, tmp_path / "second" / "out.parquet")
    assert second.manifest["outputs"] == first.manifest["outputs"]
    assert [sha256_file(file) for file in (second.problems, second.removed)] == digests
    # In place as well, wherever it is called from.
    assert again(first.manifest_file, None).problems == first.problems


def test_again_refuses_other_inputs_and_other_results(mine: Path, tmp_path: Path) -> None:
    made = prepare(Order(source=str(mine)), tmp_path / "out.parquet")
    before = sha256_file(made.problems)
    manifest = json.loads(made.manifest_file.read_text("utf-8"))
    manifest["outputs"]["out.parquet"]["content"] = "0" * 64
    other = tmp_path / "other.manifest.json"
    other.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(ValueError, match=r"not those of the manifest.*nothing was written"):
        again(other, tmp_path / "nothing.parquet")
    assert not (tmp_path / "nothing.parquet").exists()
    mine.write_text(mine.read_text("utf-8") + "\n", "utf-8")
    with pytest.raises(ValueError, match=r"is not what out\.manifest\.json was made from"):
        again(made.manifest_file, None)
    assert sha256_file(made.problems) == before
    (tmp_path / "no.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match="not a manifest"):
        again(tmp_path / "no.json", None)


def test_scores_and_colliding_ids(tmp_path: Path) -> None:
    file = tmp_path / "scored.jsonl"
    rows = [
        {"id": "x", "problem": f"What is {n} + 1?", "answer": n + 1, "score": n} for n in (1, 2)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    made = read_problems(str(prepare(Order(source=str(file)), tmp_path / "out.parquet").problems))
    assert made.column("id").to_pylist() == ["x", "x-2"]
    assert made.column("score").to_pylist() == [1.0, 2.0]


# Bad input: exit status 2 and one line that names the mend.


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "cut.jsonl",
            '{"problem": "p", "answer": "1"}\n{"problem": "p", "ans',
            "line 2 is not valid",
        ),
        ("list.jsonl", '["p"]\n', "line 1 must be a JSON object"),
        ("cut.json", '[{"problem": "p"', "not valid JSON"),
        ("short.csv", "problem,answer\np\n", "line 2 has 1 fields, the header 2"),
        ("quote.csv", 'problem,answer\n"p,1\n', "not valid CSV"),
        ("bytes.jsonl", b"\xff\xfe\x00", "not UTF-8"),
        ("cut.parquet", b"PAR1 and no more", "not a whole Parquet file"),
        ("empty.jsonl", "", "has no rows"),
        (
            "other.jsonl",
            '{"ask": "p", "reply": "1"}\n',
            "no column problem, found ask, reply",
        ),
        ("kind.jsonl", '{"problem": "p", "answer": {"a": 1}}\n', "row 1, answer"),
        ("mine.txt", "p", "cannot be had|no such file|must end in"),
    ],
)
def test_bad_input_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    name: str, content: str | bytes, complaint: str,
) -> None:  # fmt: skip
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content, "utf-8")
    assert main([str(file), "--out", str(tmp_path / "out.parquet")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("icpo data prepare: ")
    assert re.search(complaint, line)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--recipe", "columns"], "name the file to write with --out"),
        (["--out", "out.parquet"], "name a file or a hub id"),
        (["none.jsonl", "--out", "out.parquet"], "no such file"),
        (["FILE", "--out", "out.csv"], "must end in .parquet"),
        (["FILE", "--recipe", "no", "--out", "out.parquet"], "choose one of columns"),
        (["FILE", "--language", "xx", "--out", "out.parquet"], "choose one of"),
        (["FILE", "--column", "problem", "--out", "out.parquet"], "write FIELD=NAME"),
        (["FILE", "--evaluation", "none.csv", "--out", "out.parquet"], "no such file"),
        (["FILE", "--max-prompt-tokens", "9", "--out", "out.parquet"], "needs --tokenizer"),
        (["FILE", "--limit", "0", "--out", "out.parquet"], "at least 1"),
        (["FILE", "--tokenizer", "none/of", "--out", "out.parquet"], "--tokenizer none/of"),
        (["--again", "none.json"], "no such file"),
        (["FILE", "--language", "zh", "--as", "demonstrations", "--out", "o.parquet"], None),
    ],
)
def test_bad_arguments(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str | None,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = main([str(mine) if argument == "FILE" else argument for argument in arguments])
    if complaint is None:
        assert found == 0
        return
    assert found == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert complaint in line


def test_the_table_says_what_went_and_why(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(mine), "--out", str(tmp_path / "out.parquet")]) == 0
    printed = capsys.readouterr().out
    for word in ("read", "language", "duplicate", "no_answer", "kept", "d: zh", "c: of a"):
        assert word in printed
    assert "No evaluation set was named" in printed
    assert main([str(mine), "--out", str(tmp_path / "out.parquet"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["kept"] == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, ""),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "(http://127.0.0.1:9 does not answer: "),
    ],
)
def test_as_a_module_and_a_hub_id_without_a_hub(
    given: dict[str, str], words: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "out.parquet")
    ran = subprocess.run(
        [sys.executable, "-m", "icpo.data.prepare", "nobody/nothing", "--out", out],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={"PATH": "", "HF_HOME": str(tmp_path), **given},
    )  # fmt: skip
    assert ran.returncode == 2, ran.stderr
    line = ran.stderr.strip().splitlines()[-1]
    assert line.startswith("icpo data prepare: nobody/nothing (train): cannot be had from the hub")
    assert words in line
    assert "Retrying" not in ran.stderr


def test_what_is_for_the_verifier_goes_along(tmp_path: Path) -> None:
    """Column `extra`, or another that is named; where it is there, an answer is no must."""
    rows = [
        {"problem": f"Print twice the number {n}.", "tests": {"inputs": [str(n)]}, "answer": given}
        for n, given in enumerate([None, None, "4"])
    ]
    file = tmp_path / "code.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    order = Order(source=str(file), columns={"extra": "tests"})
    made = prepare(order, tmp_path / "out.parquet", workers=1)
    kept = read_problems(str(made.problems))
    assert [json.loads(one)["inputs"] for one in kept["extra"].to_pylist()] == [["0"], ["1"], ["2"]]
    assert kept["answer"].to_pylist() == ["", "", "4"]
    assert made.manifest["taken_for"][-1] == "extra     from tests (as you say)"
    assert again(made.manifest_file, None, 1).manifest["rows"]["kept"] == 3
    with pytest.raises(ValueError, match="most common reason: no_answer"):
        prepare(Order(source=str(file), limit=2), tmp_path / "none.parquet", workers=1)


def test_programs_are_demonstrations_and_nothing_else(root: Path, tmp_path: Path) -> None:
    """Programs of thought (PoT), from rows of MathInstruct's shape to a run's expert prompt."""
    rows = [
        ("PoT", f"What is {at} + 2? Let's write a Python program to solve it.", f"print({at} + 2)")
        for at in (1, 2, 2)
    ]
    rows.append(("CoT", "What is 9 + 9?", "The answer is 18"))
    file, out = tmp_path / "instruct.jsonl", tmp_path / "pot.parquet"
    names = ("source", "instruction", "output")
    file.write_text(
        "".join(
            json.dumps(dict(zip(names, (f"data/{kind}/set.json", *texts), strict=True))) + "\n"
            for kind, *texts in rows
        )
    )
    order = Order(source=str(file), recipe="mathinstruct-pot", purpose="demonstrations")
    prepare(order, out, workers=1)
    kept = read_problems(str(out))
    assert kept["problem"].to_pylist() == ["What is 1 + 2?", "What is 2 + 2?"]
    assert kept["solution"].to_pylist() == ["print(1 + 2)", "print(2 + 2)"]
    changes = [f"prompts.demonstrations={out}", f"run.directory={tmp_path}", "run.trackers=[]"]
    with Session(Run.of(load(root / "configs" / "demo.toml", changes, "pot"))) as session:
        session.keep_config()
        perform(session, "prompts", 1)
        made = session.run.store.table("prompts", 1, "prompts").to_pylist()
    assert all("print(" in row["expert_prompt"] for row in made)
    training = Order(source=str(file), recipe="mathinstruct-pot")
    with pytest.raises(ValueError, match=r"no row of 3 is left .*no_answer"):
        prepare(training, tmp_path / "training.parquet", workers=1)
