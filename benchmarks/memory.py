"""Memory and disk of a short run beside the estimate of `icpo doctor`, on the CPU.

    python -m benchmarks.memory [--iterations 4] [-o section.key=value ...] [--json FILE]

`icpo train configs/demo.toml` with an embedded Prefect server; twice a second the proportional set
size (what a process has to itself, and its part of what it shares) of every process of the run, by
kind. The highest sum of a kind counts: the whole is an upper bound of what was in use at one time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

from icpo_core.capacity import machine
from icpo_core.capacity.forecast import forecast, measured
from icpo_core.common.console import Console, Table
from icpo_core.config import Config, load

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "configs" / "demo.toml"
KINDS = {
    "icpo_core.engine.process": "engine",
    "icpo_core.trainer.process": "trainer",
    "icpo_core.grading.process": "judges",
    "prefect.server": "flow and Prefect",
    "uvicorn": "flow and Prefect",
    " -m icpo ": "flow and Prefect",
}


def watch(process: psutil.Popen) -> dict[str, float]:
    """Highest bytes by kind until the process ends."""
    highest: dict[str, float] = defaultdict(float)
    while process.poll() is None:
        now: dict[str, float] = defaultdict(float)
        for one in [process, *process.children(recursive=True)]:
            try:
                words = " ".join(one.cmdline())
                now[next((k for m, k in KINDS.items() if m in words), "other")] += (
                    one.memory_full_info().pss
                )
            except psutil.Error:
                continue
        for kind, value in now.items():
            highest[kind] = max(highest[kind], value)
        time.sleep(0.5)
    return dict(highest)


def train(changes: list[str], folder: str) -> dict[str, float]:
    """Run the demo; highest bytes by kind."""
    words = [sys.executable, "-m", "icpo", "train", str(DEMO), "--run", "bench"]
    for change in changes:
        words += ["-o", change]
    environment = {**os.environ, "PREFECT_HOME": f"{folder}/prefect"}
    with (Path(folder) / "log").open("w") as sink:
        process = psutil.Popen(
            words, cwd=ROOT, env=environment, stdout=sink, stderr=subprocess.STDOUT
        )
        found = watch(process)
    if process.returncode:
        sys.exit((Path(folder) / "log").read_text())
    return found


def stored(root: Path) -> int:
    """Bytes of a run's folder; a file with two names counts once."""
    facts = {(s.st_dev, s.st_ino): s.st_size for s in map(Path.stat, root.rglob("*")) if s.st_size}
    return sum(facts.values())


def estimated(config: Config) -> dict[str, float]:
    """The same kinds by `icpo_core.capacity.memory`."""
    found = forecast(config, machine.here(Path(config.run.directory)))
    (whole,) = found.loads
    by: dict[str, float] = defaultdict(float)
    for name, value in whole.parts.items():
        kind = next((k for k in ("engine", "trainer", "judges") if name.startswith(k)), name)
        by[kind] += value
    return dict(by) | {"disk": sum(found.disk.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("-o", dest="changes", action="append", default=[])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"run.iterations={arguments.iterations}", f"run.directory={folder}"]
        changes += arguments.changes
        highest = train(changes, folder)
        highest["disk"] = stored(Path(folder) / "bench")
        config = load(DEMO, changes, "bench")
        rates = measured(Path(folder) / "bench", 1)
    expected = estimated(config)
    rows: dict[str, Any] = {
        kind: {"measured": value, "estimated": expected.get(kind, 0.0)}
        for kind, value in highest.items()
    }
    table = Table("MiB", "measured", "estimated", "ratio", title="highest of each kind")
    for kind, pair in rows.items():
        values = [f"{value / 2**20:.1f}" for value in pair.values()]
        table.add_row(kind, *values, f"{pair['estimated'] / pair['measured']:.2f}")
    console = Console()
    console.print(table)
    console.print(f"rates: {rates}", highlight=False, soft_wrap=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
