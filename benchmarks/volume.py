"""Many rollouts: seconds and memory of what an iteration does beside engines and optimizer.

    python -m benchmarks.volume [--rollouts 1000 10000 100000] [--tokens 2048] [--json FILE]

The real stages and store, on made rollouts as in `benchmarks.paper_scale`, a part a thousand, which
another process has made; each size in a process of its own. Seconds of judging, selection, the
update's reading of its batch and `icpo show`; memory is the largest resident set of the process of
the flow (the judges have their own), read every 20 ms. Engine and trainer are replaced, and their
time is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import verification
from benchmarks.bookkeeping import Instant
from benchmarks.paper_scale import DEMO, GROUP, Written, problems
from icpo_core.common.console import Console, Table
from icpo_core.config import load
from icpo_core.grading.grade import Question
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store import batch
from icpo_core.trainer.microbatches import rows_of
from icpo_core.views import rollouts
from icpo_core.workers.jobs import Update, Updated

PART = 1000
"""Rollouts of a part."""


class Memory:
    """The largest resident set of this process while it is open, in GiB."""

    def __enter__(self) -> Memory:
        self.most, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._ended.wait(0.02):
            self.most = max(self.most, process.memory_info().rss / 2**30)


class Reader(Instant):
    """Reads a batch as a trainer does, and takes no step."""

    def update(self, job: Update) -> Updated:
        with Memory() as memory:
            started = time.perf_counter()
            self.read = len(rows_of(batch.read(job.batch)))
            self.seconds = time.perf_counter() - started
        self.memory = memory.most
        return super().update(job)


def opened(folder: Path, count: int) -> Run:
    """The run in a folder, of which iteration 1 has so many rollouts."""
    changes = [
        "run.iterations=1",
        f"run.directory={folder}",
        f"prompts.problems={folder / 'problems.jsonl'}",
        f"prompts.demonstrations={folder / 'demonstrations.jsonl'}",
        "prompts.max_tokens=4096",
        f"prompts.batch_size={count // GROUP}",
        "evaluate.every=0",
        f"rollout.shards={max(1, count // PART)}",
        "rollout.max_tokens=8192",
        "rollout.engine.max_model_len=12288",
    ]
    return Run.of(load(DEMO, changes, "volume"))


def make(folder: Path, count: int, tokens: int) -> None:
    """Prompts and rollouts; nothing is judged."""
    answers = verification.rollouts(count, seed=count)
    problems(answers, folder)
    run = opened(folder, count)
    made = Written(tokens, answers, run)
    with Session(run, make_workers=lambda *_: made) as session:
        session.ahead.start = lambda *_: None  # type: ignore[method-assign]
        perform(session, "prompts", 1)
        perform(session, "rollout", 1)


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Seconds and GiB of each part of what follows."""
    found: dict[str, Any] = {"rollouts": count}
    run = opened(folder, count)
    reader = Reader(1, 1, 1.2, run.base_model)
    with Session(run, make_workers=lambda *_: reader) as session:
        session.tools(1).judges("verify").judge([Question(r"\frac{1}{2}", r"\boxed{\sqrt{3}}")])
        for stage in ("verify", "select", "update"):
            with Memory() as memory:
                started = time.perf_counter()
                perform(session, stage, 1)
                seconds = time.perf_counter() - started
            found[stage] = {"seconds": seconds, "gib": memory.most}
        found["update"] = {"seconds": reader.seconds, "gib": reader.memory}
        with Memory() as memory:
            started = time.perf_counter()
            rollouts.read(run, 1, texts=False)
            rollouts.read(run, 1, "1")
            seconds = time.perf_counter() - started
        found["show"] = {"seconds": seconds, "gib": memory.most}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--do", choices=["make", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do == "make":
        make(arguments.folder, arguments.rollouts[0], arguments.tokens)
        return
    if arguments.do == "measure":
        print(json.dumps(measure(arguments.folder, arguments.rollouts[0])))
        return
    table = Table("rollouts", "", "seconds", "GiB")
    sizes = []
    for count in arguments.rollouts:
        words = [sys.executable, "-m", "benchmarks.volume", "--rollouts", str(count)]
        words += ["--tokens", str(arguments.tokens)]
        with tempfile.TemporaryDirectory() as folder:
            words += ["--folder", folder, "--do"]
            subprocess.run([*words, "make"], check=True)
            done = subprocess.run(
                [*words, "measure"], check=True, stdout=subprocess.PIPE, text=True
            )
        sizes.append(json.loads(done.stdout.splitlines()[-1]))
        for name in ("verify", "select", "update", "show"):
            one = sizes[-1][name]
            table.add_row(f"{count:,}", name, f"{one['seconds']:.2f}", f"{one['gib']:.2f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(sizes, indent=2))


if __name__ == "__main__":
    main()
