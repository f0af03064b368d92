"""A trainer of two ranks, by DeepSpeed's launcher: one is killed, one hangs, and it goes on."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from lessons import asked, lessons
from network import family, heard
from transformers import AutoModelForCausalLM
from two_ranks import gone, job, ranks_of

from icpo_core.config import load
from icpo_core.store import tables
from icpo_core.workers.errors import WorkerError
from icpo_core.workers.pool import WorkerPool

SECONDS = 20.0


@pytest.fixture
def workers(root: Path, small: Path, tmp_path: Path) -> Iterator[WorkerPool]:
    changes = ["update.ranks=2", f"update.seconds={SECONDS}", "update.threads=1"]
    config = load(root / "configs" / "demo.toml", changes)
    with WorkerPool(config, small / "base", tmp_path / "logs") as opened:
        yield opened


def require_taught(workers: WorkerPool, tmp_path: Path) -> None:
    """Each rank speaks on its share of the rollouts, and the first writes them all."""
    batch = tables.read("batch", tmp_path / "batch.parquet")
    wide, left_out = lessons(batch, tmp_path)
    said = tmp_path / "said.parquet"
    workers.train(asked(tmp_path, said, "one"))
    found = {
        (row["prompt_id"], row["sample_index"]): row["logprobs"]
        for row in tables.read("teacher", said).to_pylist()
    }
    taught = [row for row in batch.to_pylist() if row["prompt_id"] != left_out]
    assert len(found) == len(taught) == 3
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype=torch.float32)
    for row in taught:
        prompt, response = wide[row["prompt_id"]], row["response_ids"]
        with torch.no_grad():
            logits = policy(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        plain = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        assert found[row["prompt_id"], row["sample_index"]] == pytest.approx(
            plain.tolist(), abs=1e-3
        )


def test_a_rank_that_dies_and_one_that_hangs(
    workers: WorkerPool, small: Path, tmp_path: Path
) -> None:
    task = job(small, tmp_path)
    second = task.model_copy(update={"state_id": "two"})
    first = workers.train(task).policy_version
    require_taught(workers, tmp_path)
    logs = tmp_path / "logs" / "trainer-1"
    assert len(list(logs.glob("*_rank*.log"))) == 2

    # Stopped, so that it dies amidst the job; restored from the base model, so that there is one.
    ranks = ranks_of(tmp_path)
    assert sorted(ranks) == [0, 1]
    assert heard(family(os.getpid())) == set()
    port = ranks[1].environ()["MASTER_PORT"]  # memory that they share has no name any more
    assert not list(Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{port}_*"))
    ranks[1].suspend()
    with ThreadPoolExecutor() as pool:
        doomed = pool.submit(workers.train, second)
        leader = next(logs.glob("*_rank0.log"))
        deadline = time.monotonic() + SECONDS
        while leader.read_text().count("rank 0 begins Update") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(ranks[1].pid, signal.SIGKILL)
        with pytest.raises(WorkerError) as caught:
            doomed.result()
    said = str(caught.value)
    assert "trainer" in said
    # Its own last lines, not those of the rank that missed it.
    assert "rank 1 ended:" in said
    assert "rank 1 begins Update" in said
    assert "rank 0" not in said
    assert gone(tmp_path)

    # A rerun starts anew from the same state and comes to the same weights.
    assert workers.train(task).policy_version == first
    ranks_of(tmp_path)[1].suspend()
    started = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        workers.train(second)
    said = str(caught.value)
    assert time.monotonic() - started < SECONDS + 10
    assert f"Update took longer than its limit of {SECONDS:g} s and was ended" in said
    assert "rank 0 said last:" in said
    assert "rank 1 said last:" in said
    assert gone(tmp_path)
