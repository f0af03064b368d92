"""`icpo train` as a person runs it: real Prefect, vLLM, math-verify and DeepSpeed.

One run is killed in its second iteration and gone on with; then everything it left is looked at.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from icpo_core.run.run import Run
from icpo_core.run.stages import STAGES
from icpo_core.store import tables
from icpo_core.store.manifest import Manifest, read
from icpo_core.store.paths import RunPaths
from icpo_core.store.store import Store

ITERATIONS = 3
SECONDS = 400
CHANGES = [
    f"run.iterations={ITERATIONS}", "prompts.batch_size=6", "rollout.shards=2",
    "evaluate.every=2", "checkpoint.state_every=2", "checkpoint.keep_every=0",
    "update.learning_rate=1e-3",
]  # fmt: skip


@dataclass
class Trained:
    paths: RunPaths
    before: dict[str, Manifest]
    """Manifests at the kill, by folder."""
    orphans: list[int]
    """Workers that outlived the killed process."""
    second: subprocess.CompletedProcess[str]

    def manifest(self, stage: str, iteration: int) -> Manifest:
        found = read(self.paths.manifest(stage, iteration))
        assert found is not None, (stage, iteration)
        return found


def command(root: Path, runs: Path) -> list[str]:
    words = [sys.executable, "-m", "icpo", "train", str(root / "configs" / "demo.toml")]
    words += ["--run", "e2e", "--json"]
    for change in [*CHANGES, f"run.directory={runs}"]:
        words += ["-o", change]
    return words


def workers_of(runs: Path) -> list[int]:
    """Processes of engines and trainers, and what they spawned, that belong to these runs."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"E2E_RUNS={runs}".encode() in environment.split(b"\0") and state != "Z":
            found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("e2e")
    runs = folder / "runs"
    environment = {
        **os.environ,
        "E2E_RUNS": str(runs),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    environment.pop("PREFECT_API_URL", None)
    paths = RunPaths(runs / "e2e")
    log = folder / "first.log"
    with log.open("w") as sink:
        first = subprocess.Popen(
            command(root, runs), env=environment, cwd=folder, stdout=sink, stderr=sink,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + SECONDS
        while not paths.manifest("rollout", 2).is_file():
            assert first.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    before = {
        str(path.parent.relative_to(paths.root)): found
        for path in sorted(paths.root.glob("it-*/*/manifest.json"))
        if (found := read(path)) is not None
    }
    deadline = time.monotonic() + 10
    while (orphans := workers_of(runs)) and time.monotonic() < deadline:
        # The embedded Prefect server notices within some seconds that its parent is gone.
        orphans = [pid for pid in orphans if b"icpo_core" in command_line(pid)]
        if not orphans:
            break
        time.sleep(0.1)
    second = subprocess.run(
        command(root, runs), env=environment, cwd=folder, capture_output=True, text=True,
        timeout=SECONDS, start_new_session=True,
    )  # fmt: skip
    yield Trained(paths, before, orphans, second)
    for pid in workers_of(runs):
        os.kill(pid, signal.SIGKILL)


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_the_run_ends_and_says_what_happened(trained: Trained) -> None:
    assert trained.second.returncode == 0, trained.second.stderr
    said = json.loads(trained.second.stdout)
    assert list(said["accuracy"]["heldout"]) == ["0", "2", "3"]
    config = Run.read(trained.paths.root).config
    assert said["seconds"].keys() == {name for name, one in STAGES.items() if one.wanted(config)}
    assert "Traceback" not in trained.second.stderr


def test_workers_die_with_a_killed_run(trained: Trained) -> None:
    assert trained.orphans == []


def test_nothing_finished_is_made_again(trained: Trained) -> None:
    assert {"it-0000/evaluate", "it-0001/checkpoint", "it-0002/rollout"} <= trained.before.keys()
    for folder, old in trained.before.items():
        new = read(trained.paths.root / folder / "manifest.json")
        assert new is not None
        assert new.started == old.started, folder
        assert new.content() == old.content()


def test_the_trainer_replays_what_no_state_was_saved_for(trained: Trained) -> None:
    """Killed in iteration 2 with states saved every 2: iteration 1 is replayed, not sampled."""
    assert trained.manifest("update", 2).facts["replayed"] == [1]
    assert trained.manifest("update", 3).facts["replayed"] == []


def test_every_stage_names_what_it_was_made_from(trained: Trained) -> None:
    for iteration in range(1, ITERATIONS + 1):
        rollout = trained.manifest("rollout", iteration)
        before = None if iteration == 1 else trained.manifest("update", iteration - 1)
        if before is not None:
            assert rollout.policy_version == before.policy_version
            assert before.fingerprint in rollout.parents
            assert rollout.facts["probe_gap"] < 1e-4
        assert len(rollout.files) == 2
        assert rollout.prefect["task_run"]
    versions = [trained.manifest("update", i).policy_version for i in range(1, ITERATIONS + 1)]
    assert len(set(versions)) == ITERATIONS


def test_expert_rollouts_stand_behind_the_bare_prompt(trained: Trained, small: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    for iteration in range(1, ITERATIONS + 1):
        stage = trained.paths.stage
        prompts = tables.read("prompts", stage("prompts", iteration) / "prompts.parquet")
        bare = dict(
            zip(
                prompts["prompt_id"].to_pylist(),
                prompts["policy_prompt_ids"].to_pylist(),
                strict=True,
            )
        )
        store = Store(trained.paths)
        batch = store.table("select", iteration, "batch")
        rejects = store.table("select", iteration, "rejects")
        assert batch.num_rows + rejects.num_rows == 6 * 8
        for row in batch.to_pylist():
            assert row["prompt_ids"] == bare[row["prompt_id"]]
        experts = batch.filter(pc.equal(batch["origin"], "expert"))
        assert experts.num_rows >= 4
        assert set(experts["reward"].to_pylist()) == {1.0}
        worked = tokenizer.decode(experts["response_ids"][0].as_py())
        assert worked.endswith("}<eos>")


def test_latest_is_a_model_that_transformers_loads(trained: Trained) -> None:
    assert os.readlink(trained.paths.latest) == f"it-{ITERATIONS:04d}/checkpoint"
    folder = trained.paths.latest / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    probe = tables.read("probe", folder / "probe.parquet").to_pylist()[0]
    ids = torch.tensor([probe["token_ids"]])
    with torch.inference_mode():
        logprobs = model(ids).logits[:, :-1].log_softmax(-1)
    theirs = logprobs.gather(-1, ids[:, 1:, None])[0, :, 0]
    torch.testing.assert_close(theirs, torch.tensor(probe["logprobs"]), atol=1e-4, rtol=0)
    AutoTokenizer.from_pretrained(folder)
    # Of the three checkpoints the first is past retention, and says so.
    assert not (trained.paths.stage("checkpoint", 1) / "model").exists()
    assert trained.paths.pruned("checkpoint", 1).is_file()
