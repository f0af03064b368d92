"""What an iteration costs as a run grows: iterations, rollouts, tokens.

    python -m benchmarks.growth [--iterations 400] [--json FILE]

Iterations: the demo without evaluation through Prefect, at a learning rate that leaves the policy
where it is, so that every iteration has the same work. Seconds an iteration are medians of a window
of 20; memory is the proportional set size of the process of the flow, whose slope is fitted from
the 20th iteration on. Rollouts and tokens: the store's bookkeeping with synthetic rollouts
(`benchmarks/bookkeeping.py`), seconds an iteration.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from icpo_core.common.console import Console, Table
from icpo_core.store.manifest import read
from icpo_core.store.paths import RunPaths

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "configs" / "demo.toml"
WINDOW = 20
ROLLOUTS = (128, 1024, 4096, 16_000)
TOKENS = (40, 256, 1024, 4096)


def over_iterations(count: int) -> dict[str, Any]:
    """Train; seconds of each iteration, and the flow's memory while it went on."""
    with tempfile.TemporaryDirectory() as folder:
        changes = [
            f"run.iterations={count}", "evaluate.every=0", f"run.directory={folder}",
            "update.learning_rate=1e-12",
        ]  # fmt: skip
        words = [sys.executable, "-m", "icpo", "train", str(DEMO), "--run", "growth"]
        for change in changes:
            words += ["-o", change]
        environment = {**os.environ, "PREFECT_HOME": f"{folder}/prefect"}
        process = psutil.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        paths = RunPaths(Path(folder) / "growth")
        memory: list[tuple[int, float]] = []
        at = 1
        while process.poll() is None:
            while paths.manifest("checkpoint", at).is_file():
                at += 1
            try:
                memory.append((at - 1, process.memory_full_info().pss / 2**20))
            except psutil.Error:
                break
            time.sleep(0.5)
        if process.wait():
            sys.exit("the run failed")
        ends = []
        for iteration in range(1, count + 1):
            found = read(paths.manifest("checkpoint", iteration))
            assert found is not None
            ends.append(found.started + found.seconds)
    seconds = np.diff(ends).tolist()  # of iterations 2 and on
    steady = np.array([pair for pair in memory if pair[0] >= WINDOW])
    slope = float(np.polyfit(steady[:, 0], steady[:, 1], 1)[0])
    first, last = median(seconds[8 : 8 + WINDOW]), median(seconds[-WINDOW:])
    return {
        "iterations": count, "seconds_early": first, "seconds_late": last,
        "ratio": last / first, "memory_mb_an_iteration": slope, "seconds": seconds,
        "memory_mb": [memory[0][1], memory[-1][1]],
    }  # fmt: skip


def over_sizes() -> dict[str, dict[str, float]]:
    """Median bookkeeping of an iteration, seconds, by rollouts and by tokens a rollout."""
    found: dict[str, dict[str, float]] = {"rollouts": {}, "tokens": {}}
    sizes = [("rollouts", count, count, 40) for count in ROLLOUTS]
    sizes += [("tokens", count, 1024, count) for count in TOKENS]
    for kind, value, rollouts, tokens in sizes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "found.json"
            words = [sys.executable, "-m", "benchmarks.bookkeeping", "--iterations", "4"]
            words += ["--rollouts", str(rollouts), "--tokens", str(tokens), "--shards", "4"]
            words += ["--json", str(file)]
            subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            found[kind][str(value)] = json.loads(file.read_text())["median"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sizes = over_sizes()
    run = over_iterations(arguments.iterations)
    table = Table("", "", title="growth")
    table.add_row("an iteration, about the 20th", f"{run['seconds_early']:.3f} s")
    table.add_row(f"an iteration, about the {run['iterations']}th", f"{run['seconds_late']:.3f} s")
    table.add_row("the flow's memory", f"{run['memory_mb_an_iteration']:+.3f} MiB an iteration")
    for kind, values in sizes.items():
        table.add_section()
        for value, seconds in values.items():
            fixed = "40 tokens" if kind == "rollouts" else "1,024 rollouts"
            table.add_row(f"bookkeeping, {fixed}, {int(value):,} {kind}", f"{seconds:.3f} s")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({**run, "bookkeeping": sizes}, indent=2) + "\n")


if __name__ == "__main__":
    main()
