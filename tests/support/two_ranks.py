"""A trainer of two ranks: its job and its processes."""

import os
import time
from pathlib import Path

import psutil
from transformers import AutoTokenizer

from icpo_core.common.files import model_digest
from icpo_core.store import tables
from icpo_core.workers.jobs import Restore, Update


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
    path = folder / "batch.parquet"
    tables.write("batch", tables.table("batch", rows), path)
    return path


def job(small: Path, tmp_path: Path) -> Update:
    return Update(
        iteration=1,
        batch=[batch(small, tmp_path)],
        parent=model_digest(small / "base"),
        restore=Restore(folder=None, replay=[]),
        state_id="one",
        out=tmp_path / "out",
    )


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


def gone(tmp_path: Path) -> bool:
    deadline = time.monotonic() + 5
    while ranks_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not ranks_of(tmp_path)
