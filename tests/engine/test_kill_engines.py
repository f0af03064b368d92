"""Killed with real engines: vLLM in the middle of a shard, DeepSpeed inside the optimizer's step.

One run is killed six times and gone on with each time; another is not. They must come to the same
rollouts, the same weights and the same optimizer state.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import stubs
import torch
from places import ROOT, SUPPORT

from icpo_core.run import integrity
from icpo_core.run.run import Run
from icpo_core.store.paths import RunPaths

CHANGES = [
    "run.iterations=2", "prompts.batch_size=6", "rollout.on_policy=7", "rollout.shards=2",
    "evaluate.every=0", "checkpoint.state_every=1", "update.learning_rate=1e-3",
]  # fmt: skip

# Where each attempt dies: by a mark of `killing`, or inside a worker by `dying`.
DEATHS = {
    "in the middle of a shard": {"key": "rollout.python", "dying": ("in a shard", 45)},
    "between rollouts and manifest": {"kill": "before replace it-0001/rollout/manifest.json"},
    "between batch and rejects": {
        "kill": "after replace it-0001/select/batch-00000-of-00002.parquet"
    },
    "inside the optimizer's step": {"key": "update.python", "dying": ("in a step", 1)},
    "one file of a checkpoint": {"kill": "after link it-0001/checkpoint/model/config.json"},
    "state saved, no manifest": {"kill": "before replace it-0001/checkpoint/manifest.json"},
}


@dataclass(frozen=True)
class Outcome:
    folder: Path
    killed: bool
    words: str


def attempt(folder: Path, death: dict | None = None) -> Outcome:
    """One process that trains with real workers, and dies if it is told to."""
    changes = list(CHANGES)
    if death and "dying" in death:
        point, count = death["dying"]
        wrapper = folder / f"python {point}"
        wrapper.write_text(
            f"#!/bin/sh\nexec '{sys.executable}' '{SUPPORT}/dying.py' '{point}' {count} \"$@\"\n"
        )
        wrapper.chmod(0o755)
        changes.append(f"{death['key']}={wrapper}")
    job = {
        "folder": str(folder), "changes": changes, "kill": (death or {}).get("kill"), "count": 1,
        "record": False, "rerun": False,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "killing.py"), json.dumps(job)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
        start_new_session=True,
    )
    return Outcome(folder, done.returncode == -9, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = attempt(folder)
    assert not done.killed
    assert done.words == "", done.words
    return folder / "runs" / "run"


@pytest.mark.timeout(1200)  # eight processes with engines of their own
def test_six_deaths_leave_the_run_as_it_would_have_been(whole: Path, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "runs" / "run")
    kept: dict[Path, int] = {}
    for name, death in DEATHS.items():
        done = attempt(tmp_path, death)
        assert done.killed, (name, done.words)
        finished = [*paths.root.glob("it-*/*/manifest.json"), *paths.root.glob("it-*/*/part-*")]
        # What an earlier attempt had finished, this one has left alone.
        assert {path: path.stat().st_mtime_ns for path in kept} == kept, name
        kept = {path: path.stat().st_mtime_ns for path in finished if path.suffix != ".partial"}
    done = attempt(tmp_path)
    assert done.words == "", done.words
    assert integrity.check(paths) == []
    assert not list(paths.root.rglob("*.partial"))

    ours, theirs = Run.read(paths.root), Run.read(whole)
    for number in (1, 2):
        first, second = (one.store.table("rollout", number, "rollout") for one in (ours, theirs))
        assert first.num_rows == 48
        assert first["response_ids"].equals(second["response_ids"])
        assert first["seed"].equals(second["seed"])
    assert stubs.digests_of(ours) == stubs.digests_of(theirs)
    assert stubs.digests(paths.root)["weights"] == stubs.digests(whole)["weights"]
    states = [
        torch.load(
            next((one.paths.latest / "state" / "deepspeed").glob("*.pt")),
            map_location="cpu",
            weights_only=False,
        )
        for one in (ours, theirs)
    ]
    moments = [state["optimizer"]["state"] for state in states]
    for place in moments[0]:
        assert float(moments[0][place]["step"]) == 2  # two iterations, two steps
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(moments[0][place][name], moments[1][place][name])
