"""The run that nobody killed, which killed ones must come to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import stubs
from killing import Zygote
from safetensors.numpy import load_file

from icpo_core.run import integrity, metrics
from icpo_core.run.run import Run
from icpo_core.store.paths import RunPaths

OFF_POLICY = ["rollout.off_policy_steps=1", "update.old_logprobs=engine"]
TWO_STEPS = ["rollout.off_policy_steps=2", "update.old_logprobs=engine", "run.iterations=5"]


@dataclass(frozen=True)
class Whole:
    """The run that nobody killed."""

    folder: Path
    digests: dict[str, str]
    samples: Counter[str]
    """How often each was made, by seed and policy."""


def never_killed(zygote: Zygote, folder: Path, changes: list[str]) -> Whole:
    assert zygote.run(folder, changes).words == ""
    return Whole(folder, stubs.digests(folder / "runs" / "run"), lines(folder, "sample"))


def lines(folder: Path, kind: str) -> Counter[str]:
    """What the ledger says was done, by what it was done to."""
    ledger = (folder / "ledger").read_text().splitlines() if (folder / "ledger").exists() else []
    return Counter(line.partition(" ")[2] for line in ledger if line.startswith(kind))


def require_whole(whole: Whole, folder: Path) -> None:
    """The run in `folder` is the one that nobody killed, and nothing in it is damaged."""
    paths = RunPaths(folder / "runs" / "run")
    assert stubs.digests(paths.root) == whole.digests
    state = load_file(paths.latest / "state" / "deepspeed" / "state.safetensors")
    run = Run.read(paths.root)
    last = run.config.run.iterations
    assert state["steps"].item() == last
    assert integrity.check(paths) == []
    assert [row["iteration"] for row in metrics.read(paths)] == list(range(last + 1))
    assert not list(paths.root.rglob("*.partial"))
    # What retention removed is gone, also where a kill came between saying and doing.
    for stage in ("update", "checkpoint"):
        for name in run.store.marks.pruned(stage, 1):
            assert not (paths.stage(stage, 1) / name).exists()
