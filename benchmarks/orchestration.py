"""What an iteration costs beyond its stages: Prefect, artifacts, logs, retention, metrics.

    python -m benchmarks.orchestration [--iterations 40] [--json FILE]

Runs the real flow `icpo` against the configured Prefect API (`PREFECT_API_URL`), with the demo's
prompts, verifier, selection and store. Only the two engines are replaced, by `NoOpWorkers`: it
waits for `ENGINE_SECONDS` and writes rollouts and weights that nobody sampled or trained.
Orchestration is an iteration's wall time less the time inside `icpo_core.run.perform.perform`,
which holds engines, verifier and file I/O.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from icpo.flows.prefect_compat.terminal import quiet_prefect
from icpo_core.common.files import link_or_copy, model_digest, write_json
from icpo_core.config import Config
from icpo_core.run.session import Session
from icpo_core.store import tables
from icpo_core.store.tables import Origin
from icpo_core.store.work import Outcome
from icpo_core.workers.jobs import Job, Loaded, R, Rollout, Sampled, Save, Saved, Update, Updated
from icpo_core.workers.pool import Around, unframed
from icpo_core.workers.process import Say

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.toml"
LIMIT_SECONDS = 0.6
ENGINE_SECONDS = 0.5
"""How long a job takes: as with real engines, what is sent in the background has that long."""


class NoOpWorkers:
    """Stands in for engine and trainer: makes files of the right shape, and nothing happens."""

    def __init__(self, config: Config, model: Path, logs: Path) -> None:
        self.model, self.draw = model, np.random.default_rng(0)
        logs.mkdir(parents=True, exist_ok=True)

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
        return [around(job, partial(self.sample, job, on_progress)) for job in jobs]

    def sample(self, job: Job[Sampled], on_progress: Say) -> Sampled:
        assert isinstance(job, Rollout)
        time.sleep(ENGINE_SECONDS)
        prompts = tables.read("prompts", job.prompts).to_pylist()
        origins = [Origin.ON_POLICY] * 7 + [Origin.EXPERT]
        rows = [
            {
                "prompt_id": prompt["prompt_id"],
                "sample_index": index,
                "origin": origin,
                "response": f"\\boxed{{{self.draw.integers(10)}}}",
                "response_ids": [5, 6, 7],
                "logprobs": [-1.0, -0.5, -0.1],
                "finish_reason": "stop",
                "seed": 0,
                "policy_version": job.policy_version,
            }
            for prompt in prompts
            for index, origin in enumerate(origins)
        ]
        for done in range(0, len(rows) + 1, 8):
            on_progress(done, len(rows))
        table = tables.table("rollout", rows)
        written = tables.write("rollout", table, job.out, job.fingerprint)
        return Sampled(tokens=3 * len(rows), sampling_seconds=0.0, **asdict(written))

    def train(self, job: Job[R]) -> R:
        return cast(R, self.update(job) if isinstance(job, Update) else self.save(job))

    def save(self, job: Job[Any]) -> Saved:
        assert isinstance(job, Save)
        write_json(job.out / "state.json", {"state_id": job.state_id})
        return Saved()

    def update(self, job: Update) -> Updated:
        time.sleep(ENGINE_SECONDS)
        out = job.out / "model"
        for source in sorted(self.model.iterdir()):
            link_or_copy(source, out / source.name)
        tables.write("probe", tables.table("probe", []), out / "probe.parquet")
        return Updated(
            metrics={"entropy": 1.0, "kl": 0.0, "loss": 0.0, "grad_norm": 0.5},
            policy_version=model_digest(self.model),
            replayed=[],
            timing={},
        )


class Stopwatch:
    """Marks of one run: when iterations ended, and how long `perform` took in each."""

    def __init__(self) -> None:
        self.inside: dict[int, float] = {}
        self.ends: list[float] = []

    def around(self, perform: Callable[..., Outcome]) -> Callable[..., Outcome]:
        def timed(session: Session, stage: str, iteration: int, *rest: Any) -> Outcome:
            started = time.perf_counter()
            try:
                return perform(session, stage, iteration, *rest)
            finally:
                spent = time.perf_counter() - started
                self.inside[iteration] = self.inside.get(iteration, 0.0) + spent

        return timed


def measure(iterations: int, folder: Path) -> dict[str, list[float]]:
    """Seconds an iteration, in all and outside the stages, of a run with no-op engines."""
    watch = Stopwatch()
    quiet_prefect()
    from icpo.flows import session, train
    from icpo.flows.observer import FlowObserver
    from icpo.tasks import stages

    class Marks(FlowObserver):
        def recorded(self, iteration: int, figures: dict[str, float]) -> None:
            super().recorded(iteration, figures)
            watch.ends.append(time.perf_counter())

    session.FlowObserver = Marks  # type: ignore[misc]
    session.Session = partial(Session, make_workers=NoOpWorkers)  # type: ignore[misc, assignment]
    stages.perform = watch.around(stages.perform)
    overrides = [
        f"run.iterations={iterations}",
        f"run.directory={folder}",
        "evaluate.every=0",
        "rollout.engine.dtype=float32",
    ]
    asyncio.run(train.train(str(DEMO), overrides, "orchestration"))
    walls = np.diff(watch.ends)
    inside = [watch.inside[number] for number in range(2, iterations + 1)]
    return {
        "wall": walls.tolist(),
        "stages": inside,
        "orchestration": (walls - np.array(inside)).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="icpo-orchestration-"))
    try:
        seconds = measure(arguments.iterations, folder)
    finally:
        shutil.rmtree(folder)
    for name, values in seconds.items():
        deciles = statistics.quantiles(values, n=10)
        print(f"{name:14s} median {statistics.median(values):.3f} s, p90 {deciles[-1]:.3f} s")
    median = statistics.median(seconds["orchestration"])
    print(f"limit {LIMIT_SECONDS} s: {'kept' if median <= LIMIT_SECONDS else 'missed'}")
    if arguments.json:
        write_json(arguments.json, {"median": median, "seconds": seconds, "limit": LIMIT_SECONDS})


if __name__ == "__main__":
    main()
