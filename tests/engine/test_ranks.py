"""A trainer of two ranks, by DeepSpeed's launcher: one is killed, one hangs, and it goes on."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoTokenizer

from icpo_core.common.files import model_digest
from icpo_core.config import load
from icpo_core.store import tables
from icpo_core.workers.launcher import slots
from icpo_core.workers.pool import Workers
from icpo_core.workers.process import WorkerError

SECONDS = 20.0


def test_a_hostfile(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# two machines\nworker-1 slots=8\n\nworker-2 slots=4 # half\n")
    assert slots(file) == {"worker-1": 8, "worker-2": 4}
    for text, words in (("worker-1 8", "slots=8"), ("a slots=1\na slots=1", "line 2"), ("", "no ")):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            slots(file)
    with pytest.raises(ValueError, match="No such file"):
        slots(tmp_path / "gone")


def batch(small: Path, folder: Path) -> Path:
    """Right and wrong answers to two problems."""
    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    rows = []
    for problem in ("Q:1+2\nA:", "Q:3+4\nA:"):
        for index, answer in enumerate((r"\boxed{3}", r"\boxed{7}", r"\boxed{1}")):
            rows.append(
                {
                    "prompt_id": problem,
                    "sample_index": index,
                    "origin": "on_policy",
                    "prompt_ids": tokenizer(problem)["input_ids"],
                    "response_ids": tokenizer(answer)["input_ids"],
                    "behaviour_logprobs": None,
                    "reward": float(index == 0),
                    "bonus": 0.0,
                    "shaped_reward": float(index == 0),
                    "advantage": 1.0 if index == 0 else -0.5,
                }
            )
    return tables.write("batch", tables.table("batch", rows), folder / "batch.parquet")


def job(small: Path, tmp_path: Path) -> dict[str, Any]:
    base = model_digest(small / "base")
    return {
        "job": "update", "iteration": 1, "batch": str(batch(small, tmp_path)), "parent": base,
        "restore": {"folder": None, "replay": []}, "state_id": "one", "out": str(tmp_path / "out"),
    }  # fmt: skip


@pytest.fixture
def workers(root: Path, small: Path, tmp_path: Path) -> Iterator[Workers]:
    changes = ["update.ranks=2", f"update.seconds={SECONDS}", "update.threads=1"]
    config = load(root / "configs" / "demo.toml", changes)
    with Workers(config, small / "base", tmp_path / "logs") as opened:
        yield opened


def ranks_of(tmp_path: Path) -> dict[int, psutil.Process]:
    """By what they were started for, whoever their parent is now."""
    found = {}
    for process in psutil.process_iter():
        try:
            words, environment = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        ours = "icpo_core.trainer.process" in words and "RANK" in environment
        if ours and str(tmp_path) in os.readlink(f"/proc/{process.pid}/fd/1"):
            found[int(environment["RANK"])] = process
    return found


@pytest.mark.engine
def test_a_rank_that_dies_and_one_that_hangs(workers: Workers, small: Path, tmp_path: Path) -> None:
    task = job(small, tmp_path)
    first = workers.train(task)["policy_version"]
    logs = tmp_path / "logs" / "trainer-1"
    assert len(list(logs.glob("*_rank*.log"))) == 2

    # Stopped, so that it dies amidst the job; restored from the base model, so that there is one.
    ranks = ranks_of(tmp_path)
    assert sorted(ranks) == [0, 1]
    ranks[1].suspend()
    with ThreadPoolExecutor() as pool:
        doomed = pool.submit(workers.train, {**task, "state_id": "two"})
        leader = next(logs.glob("*_rank0.log"))
        deadline = time.monotonic() + SECONDS
        while leader.read_text().count("rank 0 begins update") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(ranks[1].pid, signal.SIGKILL)
        with pytest.raises(WorkerError) as caught:
            doomed.result()
    said = str(caught.value)
    assert "trainer" in said
    # Its own last lines, not those of the rank that missed it.
    assert "rank 1 ended:" in said
    assert "rank 1 begins update" in said
    assert "rank 0" not in said
    assert gone(tmp_path)

    # A rerun starts anew from the same state and comes to the same weights.
    assert workers.train(task)["policy_version"] == first
    ranks_of(tmp_path)[1].suspend()
    started = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        workers.train({**task, "state_id": "two"})
    said = str(caught.value)
    assert time.monotonic() - started < SECONDS + 10
    assert f"update took longer than its limit of {SECONDS:g} s and was ended" in said
    assert "rank 0 said last:" in said
    assert "rank 1 said last:" in said
    assert gone(tmp_path)


def gone(tmp_path: Path) -> bool:
    deadline = time.monotonic() + 5
    while ranks_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not ranks_of(tmp_path)


PDSH = '''#!{python}
"""Stands in for pdsh: every host is this machine, each with its number in place of %n."""
import subprocess, sys
words = sys.argv[1:]
hosts = words[words.index("-w") + 1].split(",")
start = next(i for i, word in enumerate(words) if word.startswith("export"))
text = " ".join(words[start:])
running = [subprocess.Popen(["bash", "-c", text.replace("%n", str(n))]) for n in range(len(hosts))]
sys.exit(max(process.wait() for process in running))
'''
SSH = "#!/bin/sh\necho 127.0.0.1\n"


@pytest.mark.engine
@pytest.mark.slow
def test_two_machines_of_a_hostfile(
    root: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed's own way to several machines, with this one in the place of both."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("pdsh", PDSH.format(python=sys.executable)), ("ssh", SSH)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    hostfile = tmp_path / "hosts"
    hostfile.write_text("one slots=1\ntwo slots=1\n")
    changes = ["update.ranks=0", f"update.hostfile={hostfile}", "update.threads=1"]
    config = load(root / "configs" / "demo.toml", changes)
    with Workers(config, small / "base", tmp_path / "logs") as opened:
        reply = opened.train(job(small, tmp_path))
    assert reply["metrics"]["rows"] == 6.0
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert gone(tmp_path)
