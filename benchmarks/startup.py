"""Start-up of the whole demo, from the first command to the first stored rollout.

    python -m benchmarks.startup [--json FILE]

`icpo up` in a new project folder with a database of its own (server, work pool, deployments,
worker), then `icpo train configs/demo.toml` until `it-0001/rollout` has its manifest. Caches are as
they are: run it twice, and the second one is warm.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from icpo_core.common.console import Console, Table
from icpo_core.store.paths import RunPaths
from icpo_core.workers.launcher import free_port

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("prefect.yaml", "flows", "tasks", "icpo_core", "configs", "data")
ICPO = [sys.executable, "-m", "icpo"]
LIMIT_SECONDS = 60.0
PATIENCE_SECONDS = 300.0


def measure(folder: Path) -> dict[str, float]:
    """Seconds of `icpo up`, and of `icpo train` until the first rollouts are stored."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "PYTHONPATH": str(ROOT)}
    quiet = {"cwd": folder, "env": environment, "stdout": subprocess.DEVNULL}
    started = time.perf_counter()
    subprocess.run([*ICPO, "up", "--port", str(free_port())], check=True, **quiet)  # type: ignore[call-overload]
    up = time.perf_counter() - started
    try:
        train = [*ICPO, "train", "configs/demo.toml", "-o", "evaluate.every=0"]
        process = subprocess.Popen(train, stderr=subprocess.DEVNULL, **quiet)  # type: ignore[call-overload]
        manifest = RunPaths(folder / "runs" / "demo").manifest("rollout", 1)
        while not manifest.is_file():
            assert process.poll() is None, "icpo train ended before its first rollouts"
            assert time.perf_counter() - started < PATIENCE_SECONDS
            time.sleep(0.05)
        whole = time.perf_counter() - started
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        subprocess.run([*ICPO, "down"], check=True, **quiet)  # type: ignore[call-overload]
    return {"up": up, "train until the first rollouts": whole - up, "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    table = Table("", "seconds", title="start-up of the demo")
    for name, seconds in found.items():
        table.add_row(name, f"{seconds:.1f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found | {"limit": LIMIT_SECONDS}, indent=2) + "\n")


if __name__ == "__main__":
    main()
