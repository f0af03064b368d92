"""A first run without a configuration: of a data set and a model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stub_worker
from hub import hub
from places import ROOT, SMALL

from icpo.flows import cli
from icpo_core.config import load
from icpo_core.method.problems import read_problems
from icpo_core.run.run import Run

PUT = ["prompts.format=raw", 'prompts.question_template="Q:{problem}\\nA:"']
"""As the stand-in for the engine reads a question."""
MODEL = str(SMALL / "base")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data set of somebody's own."""
    monkeypatch.chdir(tmp_path)
    rows = read_problems(str(SMALL / "train.parquet")).to_pylist()[:120]
    file = tmp_path / "mine.jsonl"
    names = {"question": "problem", "gold": "answer", "solution": "solution"}
    lines = [json.dumps({name: row[key] for name, key in names.items()}) for row in rows]
    file.write_text("\n".join(lines) + "\n")
    return file


def train(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *words, "--plain"])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_file_and_a_model_are_enough(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["run.iterations=2", *PUT, *stub_worker.changes(mine.parent)]
    options = [word for change in small for word in ("-o", change)]
    assert train("mine.jsonl", "--model", MODEL, *options) == 0
    said = capsys.readouterr().err
    assert "108 problems, 108 with a solution, 12 held out" in said
    root = mine.parent / "runs" / "mine"
    config = load(root / "start" / "icpo.toml")
    assert config.preset == "icpo"
    trained = read_problems(config.prompts.problems)["id"].to_pylist()
    [bench] = config.evaluate.benchmarks
    held = read_problems(bench.problems)["id"].to_pylist()
    assert len(trained) == 108
    assert len(held) == 12
    assert not set(trained) & set(held)
    assert config.prompts.exclude == [bench.problems]
    # Long enough for this data set's solutions, and not for the paper's.
    assert 40 < config.rollout.max_tokens <= 128
    assert Run.read(root).config.run.name == "mine"
    # Again: what is there is gone on with, as by the folder.
    times = {path: path.stat().st_mtime_ns for path in root.glob("**/manifest.json")}
    assert times
    assert train("mine.jsonl", "--model", MODEL, *options) == 0
    assert train("runs/mine") == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_without_solutions_it_is_grpo(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in mine.read_text().splitlines()]
    file = mine.with_name("bare.jsonl")
    file.write_text("\n".join(json.dumps({k: r[k] for k in ("question", "gold")}) for r in rows))
    small = ["run.iterations=1", "evaluate.every=0", *stub_worker.changes(mine.parent)]
    options = [word for change in small for word in ("-o", change)]
    assert train("bare.jsonl", "--model", MODEL, "--run", "first", *options) == 0
    assert "has no solutions to show, so this is GRPO" in capsys.readouterr().err
    config = load(mine.parent / "runs" / "first" / "start" / "icpo.toml")
    assert (config.preset, config.rollout.expert, config.run.name) == ("grpo", 0, "first")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["configs/demo.toml", "--model", MODEL], "is no data set; --model is for icpo train DATA"),
        (["nothing.jsonl", "--model", MODEL], "nothing.jsonl: is no data set"),
        (["mine.jsonl", "--model", "./away"], "away"),
        (["mine.jsonl"], "mine.jsonl"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], line: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*words) == 2
    errors = [one for one in capsys.readouterr().err.splitlines() if one.startswith("icpo train: ")]
    assert len(errors) == 1
    assert line in errors[0]
    assert not list(mine.parent.glob("runs/*/config.json"))


def test_a_run_of_that_name_is_not_taken_for_another(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["run.iterations=1", "evaluate.every=0", *PUT, *stub_worker.changes(mine.parent)]
    options = [word for change in small for word in ("-o", change)]
    assert train("mine.jsonl", "--model", MODEL, *options) == 0
    other = mine.parent / "other"
    shutil.copytree(MODEL, other)
    assert train("mine.jsonl", "--model", "./other", *options) == 2
    assert f"is a run of model {MODEL}; give this one another --run NAME" in capsys.readouterr().err
    shutil.copy(mine, mine.with_name("yours.jsonl"))
    assert train("yours.jsonl", "--model", MODEL, "--run", "mine", *options) == 2
    assert "is a run of data set mine.jsonl; give this one" in capsys.readouterr().err


def test_a_configuration_that_lies_in_the_folder_is_not_followed(mine: Path) -> None:
    """Of a run that is none yet: it may be somebody else's, and choose what is executed."""
    mark, evil = mine.parent / "ran", mine.parent / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {mark}\n")
    evil.chmod(0o755)
    place = mine.parent / "runs" / "mine" / "start"
    place.mkdir(parents=True)
    (place / "icpo.toml").write_text(f'[rollout]\npython = "{evil}"\n')
    small = ["run.iterations=1", "evaluate.every=0", *PUT, *stub_worker.changes(mine.parent)]
    changes = [one for one in small if not one.startswith("rollout.python")]
    changes += ["rollout.start_seconds=0.01"]  # the real engine need not start for this
    options = [word for change in changes for word in ("-o", change)]
    assert train("mine.jsonl", "--model", MODEL, *options) != 0
    assert not mark.exists()
    assert str(evil) not in (place / "icpo.toml").read_text()


README = b"""---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
---
"""


def test_a_data_set_and_a_model_of_the_hub(tmp_path: Path) -> None:
    """By the real `datasets` and `huggingface_hub`, from a hub on this machine."""
    rows = read_problems(str(SMALL / "train.parquet")).to_pylist()

    def parquet(some: list[dict[str, str]]) -> bytes:
        texts = [f"{row['solution']}\n#### {row['answer']}" for row in some]
        sink = pa.BufferOutputStream()
        questions = [row["problem"] for row in some]
        pq.write_table(pa.table({"question": questions, "answer": texts}), sink)
        return bytes(sink.getvalue())

    files = {
        "README.md": README,
        "main/train-0.parquet": parquet(rows[:120]),
        "main/test-0.parquet": parquet(rows[-1319:]),
    }
    model = {one.name: one.read_bytes() for one in (SMALL / "base").iterdir() if one.is_file()}
    small = ["run.iterations=1", "evaluate.every=0", *PUT, *stub_worker.changes(tmp_path)]
    words = ["--plain", *[word for change in small for word in ("-o", change)]]
    with hub("openai/gsm8k", files, "me/small", model) as address:
        environment = os.environ | {
            "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "icpo", "train", "gsm8k", "--model", "me/small", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = load(tmp_path / "runs" / "gsm8k" / "start" / "icpo.toml")
    assert config.model.path == "me/small"
    assert read_problems(config.prompts.problems).num_rows > 100
    assert read_problems(config.evaluate.benchmarks[0].problems).num_rows == 200
    assert Run.read(tmp_path / "runs" / "gsm8k").config.preset == "icpo"
