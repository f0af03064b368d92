"""What it costs that nothing is lost: manifests, hashing, Parquet, fingerprints, fsync, retention.

    python -m benchmarks.bookkeeping [--iterations 40] [--rollouts 1024] [--tokens 4096]
                                     [--weights-mb 1] [--json FILE]

Runs the stages and the store as `icpo train` does, without Prefect, and with engines that hand over
rollouts and weights made beforehand. Timed is what the store does beside the work: naming the work,
writing, reading and hashing files, committing, retention, the run's metrics. Not timed is what any
trainer does: making prompts, judging, selecting, figures. Without sizes it is the demo (16 x 8
rollouts of about 40 tokens, weights of 1.2 MB); with them, one that large.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from icpo_core.common import files
from icpo_core.common.files import link_or_copy, write_json
from icpo_core.config import load
from icpo_core.run import checkpoints, loop, metrics, plan
from icpo_core.run.run import Run
from icpo_core.run.session import Observer, Session
from icpo_core.run.stages import select, update
from icpo_core.store import batch, tables
from icpo_core.store.store import Store
from icpo_core.store.tables import Origin
from icpo_core.workers.jobs import Job, Loaded, R, Rollout, Sampled, Save, Saved, Update, Updated
from icpo_core.workers.pool import Around, unframed
from icpo_core.workers.process import Say

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.toml"
DEMO_TOKENS = 40
LIMIT_SECONDS = 0.15
TOKENS_A_SECOND = 6500
"""Of the small model on two cores (`benchmarks/`): what sampling alone would take at least."""


class Stopwatch:
    """Seconds inside some functions, each second counted once, by the outermost of them."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.busy = 0.0
        """Processor seconds of these, which a busy machine does not lengthen."""
        self._depth = 0

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*given: Any, **named: Any) -> Any:
            self._depth += 1
            started, busy = time.perf_counter(), time.process_time()
            try:
                return function(*given, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds[name] += time.perf_counter() - started
                    self.busy += time.process_time() - busy

        return timed

    def watch(self, owner: Any, *names: str) -> None:
        for name in names:
            setattr(owner, name, self.around(name, getattr(owner, name)))


class Marks(Observer):
    """What was spent in each iteration."""

    def __init__(self, watch: Stopwatch) -> None:
        self.found: list[Counter[str]] = []
        self.busy: list[float] = []
        self._watch = watch

    def begins(self, first: int) -> None:
        self._watch.seconds, self._watch.busy = Counter(), 0.0

    def recorded(self, iteration: int, figures: dict[str, float]) -> None:
        self.found.append(self._watch.seconds)
        self.busy.append(self._watch.busy)
        self.begins(iteration)


class Instant:
    """In the place of engine and trainer: writes what was made beforehand, as they write it."""

    def __init__(self, rollouts: int, tokens: int, weights_mb: float, base: Path) -> None:
        draw = np.random.default_rng(0)
        self.rollouts, self.tokens, self.base = rollouts, tokens, base
        self.ids = draw.integers(5, 90, rollouts * tokens, dtype=np.int32)
        self.logprobs = -draw.random(rollouts * tokens, dtype=np.float32)
        self.weights_bytes, self.block = int(weights_mb * 1e6), draw.bytes(1 << 24)

    def start_engine(self, policy: Path) -> None:
        pass

    def start_trainer(self) -> None:
        pass

    def close(self) -> None:
        pass

    def load(self, policy: Path, policy_version: str, proof: Path | None) -> Loaded:
        return Loaded(reload_seconds=0.0, proof_gap=0.0)

    def sample_all(
        self, jobs: Sequence[Job[Sampled]], on_progress: Say, around: Around = unframed
    ) -> list[Sampled]:
        return [around(job, functools.partial(self.sample, job)) for job in jobs]

    def sample(self, job: Job[Sampled]) -> Sampled:
        assert isinstance(job, Rollout)
        prompts = tables.read("prompts", job.prompts)["prompt_id"].to_pylist()
        mine = prompts[job.shard :: job.shards]
        group = job.on_policy + job.expert
        rows, length = len(mine) * group, self.tokens
        origins = [Origin.ON_POLICY] * (group - 1) + [Origin.EXPERT]
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * length)
        first = job.shard * len(mine) * group * length % max(1, len(self.ids) - rows * length + 1)
        part = slice(first, first + rows * length)
        schema = tables.TABLES["rollout"]
        table = pa.table(
            {
                "prompt_id": [one for one in mine for _ in range(group)],
                "sample_index": pa.array(list(range(group)) * len(mine), pa.int32()),
                "origin": origins * len(mine),
                # Characters of a response: about three and a half a token.
                "response": ["a" * int(3.5 * length) + "\\boxed{4}"] * rows,
                "response_ids": pa.ListArray.from_arrays(
                    offsets, self.ids[part], type=schema.field("response_ids").type
                ),
                "logprobs": pa.ListArray.from_arrays(
                    offsets, self.logprobs[part], type=schema.field("logprobs").type
                ),
                "finish_reason": ["stop"] * rows,
                "seed": pa.array(range(rows), pa.int64()),
                "policy_version": [job.policy_version] * rows,
            },
            schema=schema,
        )
        written = tables.write("rollout", table, job.out, job.fingerprint)
        return Sampled(tokens=rows * length, sampling_seconds=0.0, **asdict(written))

    def train(self, job: Job[R]) -> R:
        return cast(R, self.update(job) if isinstance(job, Update) else self.save(job))

    def save(self, job: Job[Any]) -> Saved:
        assert isinstance(job, Save)
        (job.out / "deepspeed").mkdir(parents=True)
        self._write(job.out / "deepspeed" / "state.pt", 3, 0)  # two moments and the weights
        write_json(job.out / "state.json", {"state_id": job.state_id}, durable=False)
        return Saved()

    def update(self, job: Update) -> Updated:
        batch.read(job.batch)
        model = job.out / "model"
        model.mkdir()
        self._write(model / "model.safetensors", 1, job.iteration)
        for source in sorted(self.base.glob("*.json")):
            link_or_copy(source, model / source.name)
        row = {"token_ids": [1, 2, 3], "logprobs": [-0.1, -0.2]}
        tables.write("probe", tables.table("probe", [row] * 8), model / "probe.parquet")
        weights = files.weight_digests(model)
        return Updated(
            metrics={f"figure/{number}": 1.0 for number in range(40)},
            policy_version=files.canonical_digest(weights),
            weights=weights,
            replayed=[],
            timing={},
        )

    def _write(self, path: Path, copies: int, number: int) -> None:
        left = copies * self.weights_bytes
        with path.open("wb") as sink:
            left -= sink.write(number.to_bytes(4, "little"))
            while left > 0:
                left -= sink.write(self.block[:left])


@contextlib.contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """Time everything that writes, reads, hashes, names or removes."""
    watch.watch(Store, "status", "begin", "commit", "file", "table", "prune")
    watch.watch(tables, "write", "read")
    watch.watch(files, "write_json", "weight_digests")
    watch.watch(plan, "work")
    watch.watch(checkpoints, "publish", "restore", "settle")
    watch.watch(metrics, "record")
    for stage in (select, update):
        watch.watch(stage, "write_json")
    yield


def measure(arguments: argparse.Namespace, folder: Path) -> tuple[list[Counter[str]], list[float]]:
    """Seconds of bookkeeping in each iteration, by what was done, and its processor seconds."""
    large = arguments.rollouts is not None
    rollouts = arguments.rollouts or 128
    tokens = arguments.tokens if large else DEMO_TOKENS
    changes = [
        f"run.iterations={arguments.iterations}",
        f"run.directory={folder}",
        "run.trackers=[]",
        "evaluate.every=0",
        f"prompts.batch_size={rollouts // 8}",
        f"rollout.shards={arguments.shards}",
        *(["rollout.max_tokens=8192", "rollout.engine.max_model_len=12288"] if large else []),
    ]
    config = load(DEMO, changes, "bookkeeping")
    run = Run.of(config)
    instant = Instant(rollouts, tokens, arguments.weights_mb, run.base_model)
    watch = Stopwatch()
    marks = Marks(watch)
    with watched(watch), Session(run, marks, lambda *_: instant) as session:
        loop.train(session)
    return marks.found, marks.busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--rollouts", type=int, help="rollouts an iteration (default: the demo's)")
    parser.add_argument(
        "--tokens", type=int, default=4096, help="tokens a rollout, with --rollouts"
    )
    parser.add_argument("--weights-mb", type=float, default=1.2)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where the run is (default: a new folder)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="icpo-bookkeeping-", dir=arguments.directory))
    try:
        found, busy = measure(arguments, folder)
    finally:
        shutil.rmtree(folder)
    # The first iteration imports what the others find there.
    totals = [sum(one.values()) for one in found[1:]] or [sum(found[0].values())]
    median = statistics.median(totals)
    names = Counter[str]()
    for one in found[1:] or found:
        names.update(one)
    print(
        f"an iteration's bookkeeping: median {median:.3f} s "
        f"({statistics.median(busy[1:] or busy):.3f} s of processor), of {len(totals)} iterations"
    )
    for name, seconds in names.most_common():
        print(f"  {name:16s} {seconds / len(totals):.4f} s")
    if arguments.rollouts is None:
        print(f"limit {LIMIT_SECONDS} s: {'kept' if median <= LIMIT_SECONDS else 'missed'}")
    else:
        tokens = arguments.rollouts * arguments.tokens
        for speed in (TOKENS_A_SECOND, 20_000, 50_000):
            share = median / (tokens / speed)
            print(f"  {share:.2%} of sampling {tokens:,} tokens at {speed:,} a second")
    if arguments.json:
        arguments.json.write_text(json.dumps({"median": median, "iterations": totals}, indent=2))


if __name__ == "__main__":
    main()
