"""The seven stages as functions from stored files to stored files, and `perform`, which runs one.

A stage function gets the open run and its work, writes into the stage's folder and returns facts
for the manifest. Whatever it needs beyond files is a worker or a pool that the run keeps alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from icpo_core import checkpoints, evaluate, graph, history, schemas, verify
from icpo_core.diagnostics import iteration_row
from icpo_core.files import write_json
from icpo_core.manifest import Manifest
from icpo_core.run import Run
from icpo_core.scores import scores
from icpo_core.selection import select
from icpo_core.store import Work


@dataclass(frozen=True)
class Outcome:
    """What came of performing a stage."""

    stage: str
    iteration: int
    manifest: Manifest
    made: bool
    """False: it was done already, and nothing was touched."""
    reason: str
    """Why it was made, or why it was not."""


@dataclass(frozen=True)
class Made:
    """What a stage function leaves beside its files."""

    facts: dict[str, Any]
    policy_version: str | None = None
    known: dict[str, str] | None = None
    """sha256 of files that were computed on the way."""


def perform(
    run: Run,
    stage: str,
    iteration: int,
    force: bool = False,
    prefect: dict[str, str] | None = None,
) -> Outcome:
    """Make a stage of an iteration unless it is done; skip it, and say so, if it is.

    force: make it although it is done. prefect: ids for the manifest.
    Raises ValueError for a user's mistake, WorkerError where a worker failed.
    """
    work = graph.work(run, stage, iteration)
    status = run.store.status(work)
    if status.done and not force:
        assert status.manifest is not None
        run.on_decision(f"{stage} {iteration}: skipped, {status.reason}")
        return Outcome(stage, iteration, status.manifest, False, status.reason)
    reason = "forced" if status.done else status.reason
    run.on_decision(f"{stage} {iteration}: {reason}")
    started = time.time()
    run.store.begin(work)
    made = STAGES[stage](run, work)
    manifest = run.store.commit(work, started, made.facts, made.policy_version, prefect, made.known)
    return Outcome(stage, iteration, manifest, True, reason)


def make_prompts(run: Run, work: Work) -> Made:
    table = run.prompt_maker.batch(work.iteration)
    schemas.write("prompts", table, _folder(run, work) / "prompts.parquet", work.fingerprint)
    without = table["expert_prompt"].null_count if run.config.prompts.k else 0
    return Made({"rows": table.num_rows, "without_demonstrations": without})


def make_rollouts(run: Run, work: Work) -> Made:
    """Sample every shard that is not there yet, on an engine that is proven to hold the policy."""
    folder, shards = _folder(run, work), run.config.rollout.shards
    policy, version, probe = run.policy(work.iteration - 1)
    wanted = [run.paths.part("rollout", work.iteration, index, shards) for index in range(shards)]
    kept = set(run.store.finished_parts(work))
    facts: dict[str, Any] = {"kept_parts": len(kept)}
    if kept != set(wanted):
        facts |= run.workers.load(policy, version, probe)
    totals = {"tokens": 0, "sampling_seconds": 0.0}
    for index, path in enumerate(wanted):
        if path in kept:
            continue
        job = {
            "job": "rollout",
            "prompts": str(run.store.file("prompts", work.iteration, "prompts.parquet")),
            "shard": index,
            "shards": shards,
            "rollout": run.config.rollout.model_dump(exclude={"engine"}),
            "seed": run.seed,
            "iteration": work.iteration,
            "policy_version": version,
            "out": str(path),
            "fingerprint": work.fingerprint,
        }
        reply = run.workers.sample(job, _reporter(run, work, index, shards))
        for name in totals:
            totals[name] += reply[name]
    assert all(path.parent == folder for path in wanted)
    return Made(facts | totals, version)


def make_verdicts(run: Run, work: Work) -> Made:
    """Judge every part of the rollouts; a part that is judged stays judged."""
    prompts = run.store.table("prompts", work.iteration, "prompts")
    found = run.store.manifest("rollout", work.iteration)
    assert found is not None
    kept = set(run.store.finished_parts(work))
    for record in found.files:
        path = _folder(run, work) / record.name
        if path in kept:
            continue
        rollouts = schemas.read("rollout", run.store.file("rollout", work.iteration, record.name))
        table = verify.verdicts(prompts, rollouts, run.judges("verify"))
        verify.require_few_failures(table, run.config.verify.max_failure_rate, str(path.parent))
        schemas.write("verdicts", table, path, work.fingerprint)
    table = pa.concat_tables(
        [schemas.read("verdicts", _folder(run, work) / record.name) for record in found.files]
    )
    counts = pa.compute.value_counts(table["status"]).to_pylist()
    facts = {f"status/{entry['values']}": entry["counts"] for entry in counts}
    return Made({"rows": table.num_rows, "failure_rate": verify.failure_rate(table)} | facts)


def make_batch(run: Run, work: Work) -> Made:
    prompts = run.store.table("prompts", work.iteration, "prompts")
    rollouts = run.store.table("rollout", work.iteration, "rollout")
    verdicts = run.store.table("verify", work.iteration, "verdicts")
    chosen = select(prompts, rollouts, verdicts, run.config.select, work.iteration, run.seed)
    folder = _folder(run, work)
    schemas.write("batch", chosen.batch, folder / "batch.parquet", work.fingerprint)
    schemas.write("rejects", chosen.rejects, folder / "rejects.parquet", work.fingerprint)
    row = iteration_row(prompts, rollouts, verdicts, chosen.summary, {})
    write_json(folder / "summary.json", row)
    return Made({"rows": chosen.batch.num_rows, "rejects": chosen.rejects.num_rows})


def make_update(run: Run, work: Work) -> Made:
    """One unit: optimizer steps on the stored batch, from the parent's state, and new weights."""
    folder = _folder(run, work)
    before = work.iteration - 1
    job = {
        "job": "update",
        "iteration": work.iteration,
        "batch": str(run.store.file("select", work.iteration, "batch.parquet")),
        "parent": graph.state_id(run, before),
        "restore": checkpoints.restore(run, before),
        "state_id": work.fingerprint,
        "out": str(folder),
    }
    reply = run.workers.train(job)
    write_json(folder / "metrics.json", reply["metrics"])
    facts = {"replayed": reply["replayed"], "timing": reply["timing"]}
    return Made(facts, reply["policy_version"])


def make_evaluation(run: Run, work: Work) -> Made:
    """Sample and judge every benchmark; what is sampled stays sampled."""
    folder, settings = _folder(run, work), run.config.evaluate
    policy, version, probe = run.policy(work.iteration)
    facts: dict[str, Any] = {"tokens": 0, "sampling_seconds": 0.0}

    def sampler(job: dict[str, Any], say: Callable[[int, int], None]) -> dict[str, Any]:
        facts.update(run.workers.load(policy, version, probe))
        return run.workers.sample(job, say)

    shelves, asked, judged = [], [], []
    for number, order in enumerate(evaluate.orders(run.config, run.tokenizer, version)):
        judges = run.judges("evaluate")
        if order.kind == "choice":
            judges = evaluate.letter_judges(settings.rules)
        shelf = evaluate.Shelf(folder, work.fingerprint, order, judges)
        done = shelf.collect(sampler, _reporter(run, work, number, len(settings.benchmarks)))
        facts["tokens"] += done.tokens
        facts["sampling_seconds"] += done.sampling_seconds
        shelves.append(shelf)
        asked.append(order.questions)
        judged.append(done.samples)
    samples = pa.concat_tables(judged)
    schemas.write("samples", samples, folder / "samples.parquet", work.fingerprint)
    found = scores(samples, pa.concat_tables(asked))
    fallen = []
    for name, figures in found.items():
        change = history.against_best(run, work.iteration, name, samples)
        if change is not None:
            figures["against_best"] = {"iteration": change.iteration} | change.comparison.as_json()
            if change.fell:
                fallen.append(name)
                run.on_decision(f"evaluate {work.iteration}: {name} {change.words}")
    write_json(folder / "scores.json", found)
    for shelf in shelves:
        shelf.clear()  # every sample stands in samples.parquet
    accuracies = {f"accuracy/{name}": figures["accuracy"] for name, figures in found.items()}
    return Made({"rows": samples.num_rows, "fallen": fallen} | accuracies | facts, version)


def make_checkpoint(run: Run, work: Work) -> Made:
    """Publish the weights and, every so often, save the trainer's state."""
    folder = _folder(run, work)
    known = checkpoints.publish(run, work.iteration, folder / "model")
    saved = checkpoints.state_due(run.config, work.iteration)
    if saved:
        run.workers.train(
            {
                "job": "save",
                "out": str(folder / "state"),
                "state_id": graph.state_id(run, work.iteration),
                "restore": checkpoints.restore(run, work.iteration),
            }
        )
    found = run.store.manifest("update", work.iteration)
    assert found is not None
    return Made({"state": saved}, found.policy_version, known)


STAGES: dict[str, Callable[[Run, Work], Made]] = {
    "prompts": make_prompts,
    "rollout": make_rollouts,
    "verify": make_verdicts,
    "select": make_batch,
    "update": make_update,
    "evaluate": make_evaluation,
    "checkpoint": make_checkpoint,
}


def _folder(run: Run, work: Work) -> Path:
    return run.paths.stage(work.stage, work.iteration)


def _reporter(run: Run, work: Work, part: int, parts: int) -> Callable[[int, int], None]:
    """Progress of one part as progress of the whole stage, as if parts were alike."""
    return lambda done, all_: run.on_progress(
        work.stage, work.iteration, part * all_ + done, parts * all_
    )
