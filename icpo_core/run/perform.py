"""The seven stages as functions from stored files to stored files, and `perform`, which runs one.

A stage function gets the open run and its work, writes into the stage's folder and returns facts
for the manifest. Whatever it needs beyond files is a worker or a pool that the run keeps alive.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icpo_core.common.files import canonical_digest, write_json
from icpo_core.evaluation.samples import Shelf, letter_judges, orders
from icpo_core.evaluation.scores import scores
from icpo_core.method import verdicts as verify
from icpo_core.method.diagnostics import iteration_row
from icpo_core.method.selection import select
from icpo_core.run import checkpoints, evaluations, plan
from icpo_core.run.run import Run
from icpo_core.run.timeline import FLOW, WAITS, Recorder
from icpo_core.store import tables
from icpo_core.store.manifest import FileRecord, Manifest
from icpo_core.store.work import Work
from icpo_core.workers import devices
from icpo_core.workers.pool import Around


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

    force: make all of it, although it is done. prefect: ids for the manifest.
    Raises ValueError for a user's mistake, WorkerError where a worker failed.
    """
    run = run.at(iteration)
    try:
        work = plan.work(run, stage, iteration)
    except plan.NotReadyError as wait:
        raise ValueError(
            f"{run.paths.root}: {stage} of iteration {iteration} {wait}; "
            f"`icpo plan {run.paths.root}` shows what comes first"
        ) from None
    status = run.store.status(work)
    if status.done and not force:
        assert status.manifest is not None
        run.on_decision(f"{stage} {iteration}: skipped, {status.reason}")
        return Outcome(stage, iteration, status.manifest, False, status.reason)
    reason = "forced" if status.done else status.reason
    run.on_decision(f"{stage} {iteration}: {reason}")
    started, clock = time.time(), time.monotonic()
    if stage == "checkpoint":
        checkpoints.withdraw(run, iteration)
    run.store.begin(work, afresh=status.done)
    made = STAGES[stage](run, work)
    manifest = run.store.commit(
        work,
        started,
        time.monotonic() - clock,
        made.facts | {"attempt": run.attempt},
        made.policy_version,
        prefect,
        made.known,
    )
    return Outcome(stage, iteration, manifest, True, reason)


def samples_ahead(run: Run, iteration: int) -> bool:
    """Whether the next iteration is to be sampled while the update of this one is made: one-step
    off-policy, unless one of both takes the workers of an earlier era first, to make weights or a
    state again. Devices and memory are for one set of workers."""
    following = iteration + 1
    if following > run.config.run.iterations or run.at(following) is not run.at(iteration):
        return False
    policy = plan.sampling_policy(run, following)
    return (
        policy < iteration
        and (policy == 0 or run.has_weights(policy))
        and checkpoints.bridge_needed(run.at(iteration), iteration - 1) is None
    )


def recover(run: Run, iteration: int) -> None:
    """Make the weights of an update again that retention removed, from the batches that are stored.

    Raises ValueError if they do not come out byte for byte as they were.
    """
    run = run.at(iteration)
    found = run.store.manifest("update", iteration)
    assert found is not None
    names = [one.name for one in found.files if one.name.startswith("model/")]
    run.on_decision(f"weights of iteration {iteration}: made again, they were pruned")
    _bridge(run, iteration - 1)
    run.workers.train(_update_job(run, iteration, found.fingerprint))
    run.store.restore("update", iteration, names)


def make_prompts(run: Run, work: Work) -> Made:
    noted = Recorder()
    done = run.ahead.take("prompts", work.iteration, "", work.fingerprint)
    if done is not None:
        table = done.value
        noted.add("prompts", "made ahead", done.started, done.seconds)
    else:
        table = run.prompt_maker.batch(work.iteration)
    tables.write("prompts", table, _folder(run, work) / "prompts.parquet", work.fingerprint)
    without = table["expert_prompt"].null_count if run.config.prompts.k else 0
    facts = {"rows": table.num_rows, "without_demonstrations": without}
    return Made(facts | {"spans": noted.facts()})


def make_rollouts(run: Run, work: Work) -> Made:
    """Sample every shard that is not there yet, on an engine that is proven to hold the policy.

    Each shard is judged ahead of `verify`, while the engines are at others or, off-policy, the
    trainer is at work.
    """
    folder, shards = _folder(run, work), run.config.rollout.shards
    sampled_from = plan.sampling_policy(run, work.iteration)
    policy, version, probe = _policy(run, sampled_from)
    wanted = [run.paths.part("rollout", work.iteration, index, shards) for index in range(shards)]
    kept = set(run.store.parts(work))
    facts: dict[str, Any] = {
        "kept_parts": len(kept),
        "off_policy_steps": work.iteration - 1 - sampled_from,
    }
    noted = Recorder()
    if kept != set(wanted):
        facts |= _load(run, noted, policy, version, probe)
    prompts = run.store.file("prompts", work.iteration, "prompts.parquet")
    alongside = shards > 1 or run.config.rollout.off_policy_steps > 0
    judge_ahead = _verdicts_ahead(run, work, prompts) if alongside else lambda path: None

    def around(job: dict[str, Any], do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        reply = run.around_part(job, do)
        judge_ahead(Path(job["out"]))
        return reply

    jobs = [
        {
            "job": "rollout",
            "prompts": str(prompts),
            "shard": index,
            "shards": shards,
            "rollout": run.config.rollout.model_dump(exclude={"engine"}),
            "seed": run.seed,
            "iteration": work.iteration,
            "policy_version": version,
            "out": str(path),
            "fingerprint": work.fingerprint,
        }
        for index, path in enumerate(wanted)
        if path not in kept
    ]
    for path in sorted(kept) if jobs else ():
        judge_ahead(path)
    say = _reporter(run, work, 0, 1)
    timed = noted.parts(around, lambda job: f"part {job['shard']}")
    replies = run.workers.sample_all(jobs, say, timed) if jobs else []
    totals = {
        name: sum(reply[name] for reply in replies) for name in ("tokens", "sampling_seconds")
    }
    totals["sampled_tokens"] = totals["tokens"]
    totals["tokens"] += sum(map(_tokens, kept))
    assert all(path.parent == folder for path in wanted)
    return Made(facts | totals | {"spans": noted.facts()}, version)


def make_verdicts(run: Run, work: Work) -> Made:
    """Judge every part of the rollouts; a part that is judged stays judged."""
    prompts = run.store.table("prompts", work.iteration, "prompts")
    found = run.store.manifest("rollout", work.iteration)
    assert found is not None
    kept, noted = set(run.store.parts(work)), Recorder()
    source, ahead = _judged_from(run, found.fingerprint), 0
    for record in found.files:
        path = _folder(run, work) / record.name
        done = run.ahead.take("verify", work.iteration, record.name, source)
        if path in kept:
            continue
        if done is not None and _as_good(done.value, record):
            table, ahead = done.value[1], ahead + 1
            noted.add("judges", f"{record.name} ahead", done.started, done.seconds)
            noted.row(FLOW, time.time() - done.waited, {f"{WAITS}judges": done.waited})
        else:
            with noted.span("judges", record.name):
                part = run.store.file("rollout", work.iteration, record.name)
                table = verify.verdicts(prompts, tables.read("rollout", part), run.judges("verify"))
        verify.require_few_failures(table, run.config.verify.max_failure_rate, str(path.parent))
        tables.write("verdicts", table, path, work.fingerprint)
    table = pa.concat_tables(
        [tables.read("verdicts", _folder(run, work) / record.name) for record in found.files]
    )
    counts = pc.value_counts(table["status"]).to_pylist()
    facts: dict[str, Any] = {f"status/{entry['values']}": entry["counts"] for entry in counts}
    facts |= {"rows": table.num_rows, "failure_rate": verify.failure_rate(table)}
    return Made(facts | {"parts_ahead": ahead, "spans": noted.facts()})


def make_batch(run: Run, work: Work) -> Made:
    prompts = run.store.table("prompts", work.iteration, "prompts")
    rollouts = run.store.table("rollout", work.iteration, "rollout")
    verdicts = run.store.table("verify", work.iteration, "verdicts")
    chosen = select(prompts, rollouts, verdicts, run.config.select, work.iteration, run.seed)
    folder = _folder(run, work)
    tables.write("batch", chosen.batch, folder / "batch.parquet", work.fingerprint)
    tables.write("rejects", chosen.rejects, folder / "rejects.parquet", work.fingerprint)
    row = iteration_row(prompts, rollouts, verdicts, chosen.summary, {})
    # Seconds are of this machine and this hour, and no part of what was selected.
    seconds = row.pop("judge/seconds", None)
    write_json(folder / "summary.json", row, durable=False)
    counts = {"rows": chosen.batch.num_rows, "rejects": chosen.rejects.num_rows}
    return Made(counts | ({"judge/seconds": seconds} if seconds is not None else {}))


def make_update(run: Run, work: Work) -> Made:
    """One unit: optimizer steps on the stored batch, from the parent's state, and new weights."""
    folder = _folder(run, work)
    _bridge(run, work.iteration - 1)
    noted, started = Recorder(), time.time()
    job = _update_job(run, work.iteration, work.fingerprint)
    _prompts_ahead(run, work.iteration + 1 + run.config.rollout.off_policy_steps)
    reply = run.workers.train(job)
    waits = {f"{WAITS}{name}": seconds for name, seconds in reply.get("waits", {}).items()}
    noted.row("trainer", started, waits)
    timing = reply["timing"]
    noted.row("trainer", time.time() - sum(timing.values()), timing)
    # What has no value in this iteration has no figure, in JSON too.
    figures = {name: value for name, value in reply["metrics"].items() if math.isfinite(value)}
    write_json(folder / "metrics.json", figures, durable=False)
    facts = {"replayed": reply["replayed"], "timing": timing, "work": reply.get("work")}
    facts["spans"] = noted.facts()
    known = {f"model/{name}": digest for name, digest in reply.get("weights", {}).items()}
    return Made(facts, reply["policy_version"], known)


def make_evaluation(run: Run, work: Work) -> Made:
    """Sample and judge every benchmark; what is sampled stays sampled."""
    folder, settings = _folder(run, work), run.config.evaluate
    policy, version, probe = _policy(run, work.iteration)
    facts: dict[str, Any] = {"tokens": 0, "sampling_seconds": 0.0}
    noted = Recorder()

    def sampler(
        jobs: list[dict[str, Any]], say: Callable[[int, int], None], around: Around
    ) -> list[dict[str, Any]]:
        facts.update(_load(run, noted, policy, version, probe))
        timed = noted.parts(around, lambda job: f"{len(job['keys'])} samples")
        return run.workers.sample_all(jobs, say, timed)

    # Samples that a process which died had put together already.
    together = folder / "samples.parquet"
    stored = [tables.read("samples", path) for path in run.store.parts(work) if path == together]
    shelves, asked, judged = [], [], []
    for number, order in enumerate(orders(run.config, run.tokenizer, version)):
        judges = run.judges("evaluate")
        if order.kind == "choice":
            judges = letter_judges(settings.rules)
        shelf = Shelf(folder, work.fingerprint, order, judges)
        report = _reporter(run, work, number, len(settings.benchmarks))
        mine = [one.filter(pc.equal(one["benchmark"], order.benchmark)) for one in stored]
        done = shelf.collect(sampler, report, mine)
        facts["tokens"] += done.tokens
        facts["sampling_seconds"] += done.sampling_seconds
        shelves.append(shelf)
        asked.append(order.questions)
        judged.append(done.samples)
    samples = pa.concat_tables(judged)
    tables.write("samples", samples, together, work.fingerprint)
    found = scores(samples, pa.concat_tables(asked))
    # Against evaluations that this one does not depend on: said beside the scores, not in them.
    against_best, fallen = {}, {}
    for name in found:
        change = evaluations.against_best(run, work.iteration, name, samples)
        if change is not None:
            against_best[name] = {"iteration": change.iteration} | change.comparison.as_json()
            if change.fell:
                fallen[name] = f"{name} {change.words}"
                run.on_decision(f"evaluate {work.iteration}: {fallen[name]}")
    write_json(folder / "scores.json", found, durable=False)
    for shelf in shelves:
        shelf.clear()  # every sample stands together with the others
    accuracies = {f"accuracy/{name}": figures["accuracy"] for name, figures in found.items()}
    facts |= {"rows": samples.num_rows, "fallen": fallen, "against_best": against_best}
    facts["spans"] = noted.facts()
    return Made(facts | accuracies, version)


def make_checkpoint(run: Run, work: Work) -> Made:
    """Publish the weights and, every so often, save the trainer's state."""
    folder = _folder(run, work)
    _policy(run, work.iteration)
    known = checkpoints.publish(run, work.iteration, folder / "model")
    saved = checkpoints.state_due(run, work.iteration)
    if saved:
        _bridge(run, work.iteration)
        run.workers.train(
            {
                "job": "save",
                "out": str(folder / "state"),
                "state_id": plan.state_id(run, work.iteration),
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


def _load(
    run: Run, noted: Recorder, policy: Path, version: str, probe: Path | None
) -> dict[str, Any]:
    started, clock = time.time(), time.monotonic()
    facts = run.workers.load(policy, version, probe)
    noted.load(facts, started, time.monotonic() - clock)
    return facts


def _judged_from(run: Run, rollouts: str) -> str:
    """What the verdicts on a part come from beside its rows. `rollouts`: their fingerprint, which
    the prompts with the gold answers are in."""
    return canonical_digest([rollouts, plan.config_slice(run.config, "verify")])


def _verdicts_ahead(run: Run, rollouts: Work, prompts: Path) -> Callable[[Path], None]:
    """What has a part of the rollouts judged in the background, for `verify` to take."""
    judges, source = run.judges("verify"), _judged_from(run, rollouts.fingerprint)

    def judge(part: Path) -> None:
        make = partial(verify.judge_part, prompts, part, judges)
        run.ahead.start("verify", rollouts.iteration, part.name, source, make)

    return judge


def _as_good(judged: tuple[str, pa.Table], record: FileRecord) -> bool:
    """Whether verdicts made ahead are those that the stage itself would come to.

    Engines on the CPU take its time from the judges, so what then failed is given another try.
    """
    content, table = judged
    return content == record.content and bool(devices.visible() or not verify.failure_rate(table))


def _prompts_ahead(run: Run, iteration: int) -> None:
    """Have the next iteration's prompts made while the trainer is at work, if they are to be made:
    a run that goes on has its problems read."""
    run = run.at(iteration)
    if iteration > run.config.run.iterations or "prompt_maker" not in vars(run):
        return
    work = plan.work(run, "prompts", iteration)
    if not run.store.status(work).done:
        make = partial(run.prompt_maker.batch, iteration)
        run.ahead.start("prompts", iteration, "", work.fingerprint, make)


def _update_job(run: Run, iteration: int, state_id: str) -> dict[str, Any]:
    return {
        "job": "update",
        "iteration": iteration,
        "batch": str(run.store.file("select", iteration, "batch.parquet")),
        "parent": plan.state_id(run, iteration - 1),
        "restore": checkpoints.restore(run, iteration - 1),
        "state_id": state_id,
        "out": str(run.paths.stage("update", iteration)),
    }


def _tokens(part: Path) -> int:
    responses = pq.read_table(part, columns=["response_ids"], partitioning=None)["response_ids"]
    return pc.sum(pc.list_value_length(responses)).as_py() or 0


def _policy(run: Run, iteration: int) -> tuple[Path, str, Path | None]:
    """The policy after an iteration, made again first if it was pruned: folder, digest, probe."""
    if iteration and run.store.finished("update", iteration) and not run.has_weights(iteration):
        recover(run, iteration)
    return run.policy(iteration)


def _bridge(run: Run, iteration: int) -> None:
    """Save the state at the end of an earlier era, if this era's trainer would have to replay
    batches of it: only a trainer with that era's settings comes to the same weights."""
    last = checkpoints.bridge_needed(run, iteration)
    if last is None:
        return
    run.on_decision(f"checkpoint {last}: made again with the trainer's state, to branch from")
    perform(run, "checkpoint", last, force=True)


def _folder(run: Run, work: Work) -> Path:
    return run.paths.stage(work.stage, work.iteration)


def _reporter(run: Run, work: Work, part: int, parts: int) -> Callable[[int, int], None]:
    """Progress of one part as progress of the whole stage, as if parts were alike."""
    return lambda done, all_: run.on_progress(
        work.stage, work.iteration, part * all_ + done, parts * all_
    )
