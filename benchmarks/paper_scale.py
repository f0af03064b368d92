"""What the GPUs wait for at the paper's scale: measured CPU costs beside the GPU time it implies.

    python -m benchmarks.paper_scale [--json FILE]

About two minutes on two cores. The real stages and store run on made rollouts: responses as in
`benchmarks.verification` (5% hard answers, 0.1% that hang the judge) made as long as their tokens
ask, token ids and logprobs drawn at random, which compress worse than real ones. Engine and trainer
are replaced; what they do on the CPU beside the GPU (decoding, tables, Parquet, micro-batches) is
done and timed. Each part's cost is fitted as fixed + a rollout + a token by non-negative least
squares over FITTED and compared with a measurement at HELD_OUT that the fit has not seen.

Nothing is taken to overlap but what runs in processes of its own: an engine's share is divided by
the engines, a rank's by the ranks. Everything in the flow's process is counted in full, since the
GPUs are idle meanwhile: stages follow one another. Judges are two, as measured. Weights are hashed
in as many threads as the program would have on a machine of eight cores or more; writing and
reading them is shown apart, because it is this machine's disk that it waits for.

GPU time is derived, not measured. Decoding: every token reads the KV cache of its sequence, every
step the weights, at a share of H100's 3.35 TB/s. Update: forward FLOPs 2N + 4 L Q context a token,
three times that with backward, times what `estimate.passes` says of the recipe, at a share (MFU) of
989 TFLOPS. At 100% and MFU 0.6 this is less than anybody gets, so the CPU's share is at its worst.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks import verification
from benchmarks.bookkeeping import Instant
from icpo_core.capacity import memory
from icpo_core.capacity.machine import GIB
from icpo_core.common import files
from icpo_core.common.console import Console, Table
from icpo_core.config import Config, load
from icpo_core.engine.jobs import as_rows, shard_of
from icpo_core.engine.kinds.base import Completion, Request
from icpo_core.grading.grade import Question
from icpo_core.models.architecture import Shape, shape_of
from icpo_core.run import checkpoints, metrics
from icpo_core.run.perform import perform
from icpo_core.run.plan import stages_of
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store import batch, tables
from icpo_core.store.tables import Origin
from icpo_core.trainer.microbatches import Layout, collate, plan, rows_of
from icpo_core.workers.jobs import Job, Rollout, Sampled, Update, Updated

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "configs" / "demo.toml"
FITTED = ((512, 1024), (512, 8192), (1024, 1024), (1024, 4096))
HELD_OUT = (1024, 8192)
"""Rollouts, tokens of each."""
TIMED = 2
"""Iterations of each size; what is shown is their mean."""
TARGETS = (1024, 16384)
RESPONSE, PROMPT = 8192, 512
DEVICES, GROUP, VOCABULARY = 8, 8, 151_936
CHARACTERS = 3.5
"""Of a response a token."""
BANDWIDTH, FLOPS = 3.35e12, 989e12
"""Of an H100 SXM: bytes a second, dense bfloat16 operations a second (NVIDIA's data sheet)."""
ASSUMED = ((1.0, 0.6), (0.7, 0.4), (0.5, 0.3))
"""Share of the bandwidth while decoding, and MFU of the update."""
MODELS = ("qwen3-1.7b", "qwen3-8b")
TASK_SECONDS = 0.015
"""Of Prefect for a task run, such as a shard's: measured on Prefect 3.7.7 with SQLite."""
DISTINCT = 128
LIMIT = 0.02


class Written(Instant):
    """Engine and trainer: what they do on the CPU is done, what they do on the GPU is not."""

    def __init__(self, tokens: int, answers: list[verification.Row], run: Run) -> None:
        super().__init__(1, 1, 1.2, run.base_model)
        self.tokens, self.answers, self.tokenizer = tokens, answers, run.tokenizer
        draw = np.random.default_rng(0)
        shape = (DISTINCT, tokens)
        self.wide = draw.integers(0, VOCABULARY, shape).tolist()
        self.narrow = draw.integers(5, 90, shape).tolist()  # ids that this tokenizer has
        self.logs = (-draw.random(shape, dtype=np.float32)).tolist()
        length = int(CHARACTERS * tokens)
        texts = [row["response"] for row in verification.rollouts(64, 99)]
        filler = "".join(itertools.islice(itertools.cycle(texts), 4 * length // 2000 + 4))
        starts = draw.integers(0, len(filler) - length, DISTINCT)
        self.filler = [filler[start : start + length - 2000] for start in starts]
        self.engine_seconds = self.rank_seconds = 0.0

    def sample(self, job: Job[Sampled]) -> Sampled:
        assert isinstance(job, Rollout)
        prompts = [prompt for _, prompt in shard_of(tables.read("prompts", job.prompts), job)]
        keys, requests, samples, texts, ids = [], [], [], [], []
        for prompt in prompts:
            for index in range(GROUP):
                place = int(prompt["prompt_id"][1:]) * GROUP + index
                origin = Origin.EXPERT if index == GROUP - 1 else Origin.ON_POLICY
                keys.append((prompt["prompt_id"], index, origin))
                requests.append(Request((), 0))
                one = place % DISTINCT
                samples.append(Completion(self.narrow[one], self.logs[one], "stop"))
                texts.append(self.filler[one] + self.answers[place]["response"])
                ids.append(self.wide[one])
        started = time.perf_counter()
        rows = as_rows(keys, requests, samples, self.tokenizer, job.policy_version)
        for row, text, wide in zip(rows, texts, ids, strict=True):
            row["response"], row["response_ids"] = text, wide
        table = tables.table("rollout", rows)
        written = tables.write("rollout", table, job.out, job.fingerprint)
        self.engine_seconds += time.perf_counter() - started
        return Sampled(tokens=len(rows) * self.tokens, sampling_seconds=0.0, **asdict(written))

    def update(self, job: Update) -> Updated:
        rows = rows_of(batch.read(job.batch))
        started = time.perf_counter()
        device = torch.device("cpu")
        for share in plan(rows, 16384, DEVICES, Layout.PACKED):
            for members in share:
                if members:
                    collate([rows[i] for i in members], 0, device, Layout.PACKED)
        self.rank_seconds += time.perf_counter() - started
        return super().update(job)


def problems(answers: list[verification.Row], folder: Path) -> tuple[Path, Path]:
    """Problems of 256 characters with these gold answers, a problem a group of rows, and worked
    examples of 1,500."""
    draw = np.random.default_rng(1)

    def text(length: int) -> str:
        digits, signs = draw.integers(0, 10, length // 2), draw.choice(list("+-*"), length // 2)
        return "".join(f"{d}{s}" for d, s in zip(digits, signs, strict=True)) + "1"

    files_ = folder / "problems.jsonl", folder / "demonstrations.jsonl"
    with files_[0].open("w") as sink:
        for number, row in enumerate(answers[::GROUP]):
            line = {"id": f"p{number}", "problem": text(256), "answer": row["gold"]}
            sink.write(json.dumps(line) + "\n")
    with files_[1].open("w") as sink:
        for number in range(200):
            line = {"id": f"d{number}", "problem": text(256), "answer": "4"}
            sink.write(json.dumps(line | {"solution": text(1500) + "\\boxed{4}"}) + "\n")
    return files_


def measure(rollouts: int, tokens: int, folder: Path) -> dict[str, float]:
    """Seconds of each part in an iteration of so many rollouts of so many tokens."""
    folder.mkdir()
    count = TIMED + 1
    answers = verification.rollouts(rollouts * count, seed=rollouts + tokens)
    train, shown = problems(answers, folder)
    changes = [
        f"run.iterations={count}",
        f"run.directory={folder}",
        f"prompts.problems={train}",
        f"prompts.demonstrations={shown}",
        "prompts.max_tokens=4096",
        f"prompts.batch_size={rollouts // GROUP}",
        "evaluate.every=0",
        f"rollout.shards={DEVICES}",
        "rollout.max_tokens=8192",
        "rollout.engine.max_model_len=12288",
        "checkpoint.state_every=1000",
    ]
    run = Run.of(load(DEMO, changes, "scale"))
    made = Written(tokens, answers, run)
    totals: Counter[str] = Counter()
    with Session(run, make_workers=lambda *_: made) as session:
        tools = session.tools(1)
        tools.prompt_maker  # noqa: B018  read once a run
        tools.judges("verify").judge(
            [Question(r"\frac{1}{2}", r"\boxed{\sqrt{3}}")]
        )  # started once
        for iteration in range(1, count + 1):
            found: Counter[str] = Counter()
            made.engine_seconds = made.rank_seconds = 0.0
            # Not the product's loop, which draws prompts while the trainer is at work.
            for stage in stages_of(run.config, iteration):
                started = time.perf_counter()
                perform(session, stage, iteration)
                found[stage] = time.perf_counter() - started
            started = time.perf_counter()
            checkpoints.settle(session)
            metrics.record(session, iteration)
            found["retention, metrics"] = time.perf_counter() - started
            found["rollout"] -= made.engine_seconds
            found["engines: tables and Parquet"] = made.engine_seconds
            found["update"] -= made.rank_seconds
            found["ranks: micro-batches"] = made.rank_seconds
            if iteration > 1:
                totals.update(found)
    shutil.rmtree(folder)
    return {name: seconds / TIMED for name, seconds in totals.items()}


def non_negative(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least squares without negative coefficients, by trying every subset of the few columns."""
    best, least = np.zeros(rows.shape[1]), float(values @ values)
    for size in range(1, rows.shape[1] + 1):
        for chosen in map(list, itertools.combinations(range(rows.shape[1]), size)):
            found = np.linalg.lstsq(rows[:, chosen], values, rcond=None)[0]
            gap = float(np.square(rows[:, chosen] @ found - values).sum())
            if (found >= 0).all() and gap < least:
                best, least = np.zeros(rows.shape[1]), gap
                best[chosen] = found
    return best


def features(rollouts: int, tokens: int) -> list[float]:
    return [1.0, float(rollouts), float(rollouts * tokens)]


@dataclass(frozen=True)
class Fit:
    """Seconds = fixed + rollouts * each + tokens * token, by part."""

    parts: dict[str, np.ndarray]

    def seconds(self, rollouts: int, tokens: int) -> dict[str, float]:
        """As the GPUs wait: engines and ranks work side by side."""
        wanted = np.array(features(rollouts, tokens))
        return {
            name: float(wanted @ one) / (DEVICES if name.startswith(("engines", "ranks")) else 1)
            for name, one in self.parts.items()
        }


def fit(points: dict[tuple[int, int], dict[str, float]]) -> Fit:
    # Relative errors count, so that small sizes have their say.
    names = next(iter(points.values()))
    parts = {}
    for name in names:
        values = np.array([one[name] for one in points.values()])
        rows = np.array([features(*size) for size in points])
        parts[name] = non_negative(rows / values[:, None], np.ones(len(values)))
    return Fit(parts)


def orchestration(folder: Path) -> float:
    """Seconds an iteration of Prefect with a task a shard, of the real flow."""
    file = folder / "orchestration.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.orchestration", "--iterations", "8",
         "--json", str(file)],
        check=True, cwd=ROOT, stdout=subprocess.DEVNULL,
        env={**os.environ, "PREFECT_HOME": str(folder / "prefect")},
    )  # fmt: skip
    return float(json.loads(file.read_text())["median"]) + DEVICES * TASK_SECONDS


def weights(folder: Path, size: int = 1 << 29) -> dict[str, float]:
    """Seconds a GiB of writing, hashing, putting on the disk and reading weights."""
    found = {}
    tensors = {"one": torch.randint(0, 256, (size,), dtype=torch.uint8)}

    def timed(name: str, do: Any) -> None:
        started = time.perf_counter()
        do()
        found[name] = (time.perf_counter() - started) * GIB / size

    path = folder / "model.safetensors"
    timed("write", lambda: save_file(tensors, path))
    timed("hash", lambda: files.sha256_file(path))
    timed("sync", lambda: files.sync(path))
    timed("read", lambda: load_file(path)["one"].clone())
    path.unlink()
    return found


def weight_seconds(
    shape: Shape, config: Config, rates: dict[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Hashing, and what waits for this machine's disk: of the published weights, and of the saved
    state its share of the mean iteration."""
    model = memory.model_bytes(shape, config) / GIB
    state = memory.state_bytes(shape, config) / GIB / config.checkpoint.state_every
    shards = math.ceil(memory.model_bytes(shape, config) / 1e9)
    threads = min(8, shards)  # files.HASH_THREADS, on a machine with as many cores
    hashing = {
        "weights, by the trainer": model * rates["hash"] / threads,
        "weights, by the engines": model * rates["hash"] / threads,  # each all, side by side
        "state": state * rates["hash"] / DEVICES,  # a file a rank
    }
    disk = rates["write"] + rates["sync"]
    return hashing, {
        "weights written": model * disk,
        "weights read": model * rates["read"],
        "state written": state * disk,
    }


def gpu_seconds(
    shape: Shape, config: Config, rollouts: int, bandwidth: float, mfu: float
) -> dict[str, float]:
    """What the GPUs are busy with, by the derivation above."""
    engine = config.rollout.engine
    mine, context = rollouts / DEVICES, PROMPT + RESPONSE / 2
    cached = memory.kv_bytes(shape, engine) * context
    room = engine.gpu_memory_utilization * 79.6 * GIB
    room -= sum(memory.engine_memory(shape, engine).values())
    together = min(mine, engine.max_num_seqs, room / cached)
    weights_ = memory.model_bytes(shape, config)
    traffic = mine * RESPONSE * cached + mine / together * RESPONSE * weights_
    forward = 2 * shape.parameters + 4 * shape.layers * shape.queries * (PROMPT + RESPONSE) / 2
    work = rollouts * (PROMPT + RESPONSE) * 3 * forward * memory.passes(config)
    return {
        "rollout": traffic / (BANDWIDTH * bandwidth),
        "update": work / (DEVICES * FLOPS * mfu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="icpo-scale-"))
    try:
        points = {
            size: measure(*size, folder / f"{size[0]}x{size[1]}") for size in (*FITTED, HELD_OUT)
        }
        rates = weights(folder)
        prefect = orchestration(folder)
    finally:
        shutil.rmtree(folder)
    held = points.pop(HELD_OUT)
    found = fit(points)
    expected = sum(float(np.dot(features(*HELD_OUT), one)) for one in found.parts.values())
    console = Console(width=110)
    table = Table("seconds", title=f"measured here on {os.cpu_count()} cores, and fitted")
    for column in (
        "fixed",
        "1,000 rollouts",
        "1M tokens",
        *[f"{n:,} x {RESPONSE}" for n in TARGETS],
    ):
        table.add_column(column, justify="right")
    at = [found.seconds(n, RESPONSE) for n in TARGETS]
    for name, (fixed, each, token) in found.parts.items():
        scaled = [fixed, each * 1e3, token * 1e6, *[one[name] for one in at]]
        table.add_row(name, *[f"{value:.2f}" for value in scaled])
    table.add_row("Prefect", f"{prefect:.2f}", "0.00", "0.00", *[f"{prefect:.2f}"] * 2)
    totals = [sum(one.values()) + prefect for one in at]
    table.add_row("together", "", "", "", *[f"{one:.2f}" for one in totals], style="bold")
    console.print(table)
    whole = sum(held.values())
    console.print(
        f"held out {HELD_OUT[0]} x {HELD_OUT[1]}: {whole:.2f} s, by the fit {expected:.2f} s"
    )
    shown = ", ".join(f"{name} {value:.2f}" for name, value in rates.items())
    console.print(f"seconds a GiB of weights: {shown}")
    shares = Table("model, rollouts", title="share of the GPU time")
    for column in ("bandwidth, MFU", "GPU s", "hash s", "CPU s", "share", "disk s", "with disk"):
        shares.add_column(column, justify="right")
    said: list[dict[str, Any]] = []
    for model in MODELS:
        config = load(ROOT / "configs" / "paper" / f"{model}.toml")
        shape = shape_of(config.model.path)
        hashing, disk = (sum(one.values()) for one in weight_seconds(shape, config, rates))
        for rollouts, cpu in zip(TARGETS, totals, strict=True):
            for bandwidth, mfu in ASSUMED:
                gpu = gpu_seconds(shape, config, rollouts, bandwidth, mfu)
                busy, whole_cpu = sum(gpu.values()), cpu + hashing
                share, with_disk = whole_cpu / busy, (whole_cpu + disk) / busy
                row = {"model": model, "rollouts": rollouts, "bandwidth": bandwidth, "mfu": mfu}
                row |= {"gpu": gpu, "hashing": hashing, "cpu": whole_cpu, "disk": disk}
                said.append(row | {"share": share, "share_with_disk": with_disk})
                shares.add_row(
                    f"{model}, {rollouts:,}", f"{bandwidth:.0%}, {mfu:.0%}", f"{busy:,.0f}",
                    f"{hashing:.2f}", f"{whole_cpu:.2f}", f"{share:.2%}", f"{disk:.0f}",
                    f"{with_disk:.2%}",
                )  # fmt: skip
    console.print(shares)
    for bandwidth, mfu in ASSUMED:
        worst = max(row["share"] for row in said if row["mfu"] == mfu)
        verdict = "kept" if worst <= LIMIT else "missed"
        console.print(f"limit {LIMIT:.0%} at {bandwidth:.0%}, {mfu:.0%}: {verdict} ({worst:.2%})")
    if arguments.json:
        whole_json = {
            "points": [
                {"rollouts": size[0], "tokens": size[1], "seconds": one}
                for size, one in {**points, HELD_OUT: held}.items()
            ],
            "fit": {name: one.tolist() for name, one in found.parts.items()},
            "held_out": {"measured": whole, "fitted": expected},
            "prefect": prefect,
            "seconds_a_gib": rates,
            "shares": said,
        }
        arguments.json.write_text(json.dumps(whole_json, indent=2) + "\n")


if __name__ == "__main__":
    main()
