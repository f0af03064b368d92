"""A first run without a configuration: of a data set and a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import stub_worker
from places import SMALL

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
