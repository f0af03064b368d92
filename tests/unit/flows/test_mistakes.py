"""Mistakes as people type them: one line, status 2, and the line names the fix."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from console_lines import without_waiting
from places import DEMO

from icpo.flows.cli import main

MISTAKES = {
    "trian DEMO": "did you mean train?",
    "mirror runs/x": "`icpo --help` lists all",
    "train DEMO --rn x": "did you mean --run?",
    "train DEMO --reruns": "did you mean --rerun?",
    "train": "icpo init NAME",
    "train demo.tml": "no such configuration file",
    "train runs/nothing": "no such configuration file",
    "train DEMO -o": "expected one argument",
    "train DEMO --run ''": "give the run a name",
    "train DEMO --run a/b": "should match pattern",
    "train DEMO -o seed=1": "did you mean run.seed?",
    "train DEMO -o batch_size=4": "did you mean prompts.batch_size?",
    "train DEMO -o update.lr=1e-5": "did you mean learning_rate?",
    "train DEMO -o update.learning_rte=1e-5": "did you mean learning_rate?",
    "train DEMO -o Run.seed=1": "did you mean run?",
    "train DEMO -o update.mini_batches=7": "did you mean mini_batch?",
    "train DEMO -o update.learning_rate=fast": "valid number",
    "train DEMO -o update.learning_rate=-1": "greater than 0",
    "train DEMO -o run.iterations": "write section.key=value",
    "train DEMO -o run.iterations=0": "greater than or equal to 1",
    "train DEMO -o run.iterations=ten": "valid integer",
    "train DEMO -o run.seed=1.5": "valid integer",
    "train DEMO -o preset=gpro": "there are cispo",
    "train DEMO -o select.advantage=grpo2": "did you mean group?",
    "train DEMO -o loss.policy=ppoo": "did you mean ppo?",
    "train DEMO -o verify.verifier=maths": "did you mean math?",
    "train DEMO -o rollout.engine.dtype=float8": "'float32', 'bfloat16' or 'float16'",
    "train DEMO -o rollout.engine.max_model_len=16": "raise it or shorten them",
    "train DEMO -o rollout.max_tokens=1000000": "raise it or shorten them",
    "train DEMO -o update.deepspeed=zero9.json": "no such file",
    "train DEMO -o model.path=./nowhere": "give a folder with config.json",
    "train DEMO -o prompts.batch_size=100000": "lower it, or give more problems",
    "train DEMO -o run.directory=/dev/null": "name another place",
    "plan runs/nothing": "`icpo ls` lists runs",
    "show runs/nothing": "`icpo ls` lists runs",
    "ls nowhere": "name the folder of the runs",
    "diff runs/a runs/b": "`icpo ls` lists runs",
    "check runs/nothing": "`icpo ls` lists runs",
    "plot runs/nothing": "`icpo ls` lists runs",
    "report runs/nothing": "`icpo ls` lists runs",
    "lineage runs/nothing": "no such file or folder",
    "eval nowhere": "give a folder with config.json",
    "eval DEMO --benchmark gsm9k": "no such option",
    "data prepare nowhere.jsonl --out x.parquet": "check the path",
    "data prepare a.jsonl --outt x.parquet": "did you mean --out?",
    "stage rolout runs/x --iteration 1": "give one of prompts, rollout",
    "stage select runs/x": "--iteration --iterations is required",
    "init": "name",
    "up --port 99999": "give a number from 1 to 65535",
    "up --port web": "give a number from 1 to 65535",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line(
    line: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(DEMO) if word == "DEMO" else word for word in shlex.split(line)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = without_waiting(capsys.readouterr().err)
    assert ended.value.code == 2, said
    assert said.count("\n") == 1
    assert said.startswith("icpo")
    assert MISTAKES[line] in said
    assert not list(tmp_path.iterdir())


def test_help_of_a_command_with_options_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "--help"])
    assert ended.value.code == 0
    assert "prepare" in capsys.readouterr().out
