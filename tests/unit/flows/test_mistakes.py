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
    "TRAIN DEMO": "did you mean train?",
    "train DEMO --dry-run": "`icpo plan RUN` says",
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
    "train DEMO -o run.iterations =3": "one word too many",
    "train DEMO -o =3": "write section.key=value",
    "train DEMO -o run=3": "set a key of it, as run.KEY=value",
    "train DEMO -o update.lora=true": "set a key of it, as update.lora.KEY=value",
    "train DEMO -o update.betas=0.9,0.95": 'write it in brackets, as ["0.9", "0.95"]',
    "train DEMO -o run.trackers=wandb": 'write it in brackets, as ["wandb"]',
    "train DEMO -o rollout.endpoints=host:8000": 'as ["host:8000"]',
    "train DEMO -o loss.kl=true": "'off', 'k1', 'k2'",
    "train DEMO -o prompts.question_template=Q": "must contain {problem}",
    "train DEMO -o rollout.on_policy=0 -o rollout.expert=0": "nothing to sample",
    "train DEMO -o model.path=/etc/passwd": "give a folder with config.json",
    "train DEMO -o model.path=": "has no value",
    """train DEMO -o model.path='""'""": "check model.path",
    "train DEMO -o run.name=../x": "should match pattern",
    "train DEMO -o rollout.engine.kind=sglang": "none of server, vllm",
    "train DEMO -o select.advantage=./no.py:x": "check the path",
    "train DEMO -o select.advantage=nomodule:x": "or name a file",
    "train DEMO -o verify.verifier=./x.py": "path/to/file.py:name",
    "train DEMO -o rollout.engine.tensor_parallel=999": "lower it",
    "train DEMO -o update.hostfile=./nothing": "No such file",
    "train DEMO -o update.python=/usr/bin/nothing": "give its whole path",
    "train DEMO -o rollout.python=python9": "give its whole path",
    "train DEMO -o prompts.k=5000": "or give a larger pool",
    "train DEMO -o run.trackers=[wandb]": "keep its quotes from the shell",
    "train DEMO --resume": "the same command again goes on with a run",
    "train --config DEMO": "the file stands by itself",
    "train DEMO --seed 1": "-o run.seed=VALUE",
    "train DEMO --batch-size 4": "-o prompts.batch_size=VALUE",
    "train DEMO second.toml": "one word too many",
    "train DEMO --run": "expected one argument",
    "train gsm8k": "icpo train gsm8k --model",
    "train gsm8kk --model Qwen/Qwen3-0.6B": "one of dapo-17k, deepscaler, gsm8k",
    "train DEMO --model Qwen/Qwen3-0.6B": "-o model.path=MODEL",
    "train /dev": "is a folder; name the TOML file",
    "help": "did you mean --help?",
    "version": "did you mean --version?",
    "show DEMO": "name a run's folder",
    "plan DEMO": "name a run's folder",
    "doctor DEMO -o x.y=1": "known here: preset, run",
    "eval --list --after 2025-13": "write the month",
    "probe DEMO --shots -1": "give numbers of examples",
    "sweep DEMO": "nothing varies",
    "sweep DEMO --vary preset=icpo,icpo": "stands twice",
    "sweep DEMO --vary preset=icpo,grpo --seeds 0": "give 1 or more",
    "init ''": "give the folder a name",
    "data prepare a.jsonl --out x.doc": "must end in .parquet",
    "data prep a.jsonl": "did you mean prepare?",
    "completion fish": "`icpo completion --help`",
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
    "train DEMO -o select.delta=2": "set select.delta = 1",
    "train DEMO -o rollout.on_policy=1 -o rollout.expert=0": "set rollout.on_policy >= 2",
    "train DEMO -o rollout.on_policy=0 -o rollout.expert=1": "groups of one",
    "train DEMO -o preset=icpo-rs -o select.alpha=0": "set select.bonus = off",
    "train DEMO -o update.learning_rate=1e5": "lower it, as to 1e-6",
    "train DEMO -o update.betas=[0.9,1.0]": "less than 1",
    "data prepare gsm8kk --out x.parquet": "--recipe gsm8k",
    "data prepare --recipe gsm8k --out /proc/x.parquet": "name another place",
    "plot runs/x --out /dev/null/x.svg": "name another place",
    "report runs/x --out /proc/x.html": "name another place",
    "eval x --out /proc/x": "name another place",
    "up": "icpo init NAME",
    "init /proc/x": "name another place",
    "init 'my run'": "letters, digits",
    "train DEMO -o update.deepspeed=": "has no value",
    """train DEMO -o update.deepspeed='""'""": "name a JSON file",
    "train DEMO -o run.directory=": "has no value",
    "train DEMO -o rollout.engine.max_model_len=10000000": "positions of",
    "train DEMO -o rollout.engine.cpu_kv_cache_gib=1000": "lower it",
    "train DEMO -o update.ranks=6400": "lower it",
    "train DEMO -o rollout.engines=6400": "lower it",
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
