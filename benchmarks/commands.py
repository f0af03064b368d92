"""What the commands that only look cost when there is much to look at.

    python -m benchmarks.commands [--iterations 2000] [--runs 2000] [--directory FOLDER]
                                  [--json FILE]

A run of many iterations of the demo, made by the stages and the store with engines that hand over
rollouts made beforehand (`benchmarks/bookkeeping.py`), and many runs of one iteration. Each command
is a process, imports included; "first" is without the index that `ls` and `plan` keep in the user's
cache, "again" is with it. `--directory` keeps what was made, and takes what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bookkeeping import DEMO, DEMO_TOKENS, Instant
from icpo_core.common.console import Console, Table
from icpo_core.common.files import link_or_copy
from icpo_core.config import load
from icpo_core.run import loop
from icpo_core.run.run import Run
from icpo_core.run.session import Observer, Session

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"help": 0.3, "ls": 1.0, "plan": 1.0, "report": 3.0, "ls of runs": 2.0}
"""Seconds, with the index where there is one."""


def make(folder: Path, name: str, iterations: int) -> Path:
    """A run of the demo without engines; goes on with one that is there."""
    changes = [
        f"run.iterations={iterations}", f"run.directory={folder}", "run.trackers=[]",
        "evaluate.every=0",
    ]  # fmt: skip
    run = Run.of(load(DEMO, changes, name))
    instant = Instant(128, DEMO_TOKENS, 0.01, run.base_model)
    with Session(run, Observer(), lambda *_: instant) as session:
        loop.train(session)
    return run.paths.root


def multiply(run: Path, folder: Path, count: int) -> None:
    """The same run under many names; a file of it has as many links."""
    for number in range(count):
        copy = folder / f"run-{number:04d}"
        if copy.exists():
            continue
        for source in sorted(run.rglob("*")):
            target = copy / source.relative_to(run)
            if source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                link_or_copy(source, target)


def ask(words: list[str], cache: Path) -> dict[str, float]:
    """Seconds of a command, and of the processor."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "icpo", *words],
        cwd=cache, env=environment, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor": busy}


def measure(folder: Path, iterations: int, runs: int) -> dict[str, Any]:
    one = make(folder / "long", "long", iterations)
    multiply(make(folder / "short", "short", 1), folder / "many", runs)
    cache = folder / "cache"
    if cache.exists():
        shutil.rmtree(cache)
    cache.mkdir()
    asked = {
        "help": ["--help"],
        "ls": ["ls", str(one)],
        "plan": ["plan", str(one)],
        "report": ["report", str(one), "--out", str(cache / "report.html")],
        "ls of runs": ["ls", str(folder / "many")],
    }
    found: dict[str, Any] = {"iterations": iterations, "runs": runs}
    for name, words in asked.items():
        found[name] = {"first": ask(words, cache), "again": ask(words, cache)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--directory", type=Path, help="keep what is made here")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    folder = arguments.directory or Path(tempfile.mkdtemp(prefix="icpo-commands-"))
    try:
        found = measure(folder.resolve(), arguments.iterations, arguments.runs)
    finally:
        if arguments.directory is None:
            shutil.rmtree(folder)
    table = Table(
        "command", "first, s", "again, s", "processor, s", "target",
        title=f"{found['iterations']:,} iterations, {found['runs']:,} runs",
    )  # fmt: skip
    for name, limit in LIMITS.items():
        first, again = (found[name][which] for which in ("first", "again"))
        figures = (first["seconds"], again["seconds"], again["processor"])
        table.add_row(name, *(f"{one:.2f}" for one in figures), f"<= {limit:g}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
