"""Stage `evaluate`: sample and judge the run's benchmarks under the bare prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.common.files import write_json
from icpo_core.config import Config, plugin_sources, slice_of
from icpo_core.evaluation import benchmarks, protocol
from icpo_core.evaluation.samples import Shelf, letter_judges, order
from icpo_core.evaluation.scores import scores
from icpo_core.run import evaluations
from icpo_core.run.session import Session
from icpo_core.run.sources import sources
from icpo_core.run.stages.base import (
    Inputs,
    Made,
    Reader,
    Stage,
    folder_of,
    load_policy,
    reporter,
)
from icpo_core.run.timeline import Recorder
from icpo_core.store import tables
from icpo_core.store.work import Work
from icpo_core.workers.jobs import Sample, Sampled
from icpo_core.workers.pool import Around
from icpo_core.workers.process import Say


def reads(reader: Reader) -> Inputs:
    named = sources(reader.run.config)
    golds = {key: value for key, value in named.items() if key.startswith("benchmark ")}
    return {"policy": reader.policy(reader.iteration), **reader.run.model_settings, **golds}


def settings(config: Config) -> dict[str, Any]:
    shaping = {"format", "thinking", "system", "instruction", "joiner"}
    shaping |= {"question_template", "example_template"}
    evaluate = slice_of(config.evaluate)
    judges: dict[str, Any] = {}
    evaluate.pop("verifier", None)  # what it comes to counts
    if config.own_judges:
        judge = slice_of(config.verify)
        judge.pop("rules", None)  # it has its own
        judges = {f"verify.{key}": value for key, value in judge.items()}
    # The engine of the run holds what its rollouts are sampled from.
    rollout = config.rollout
    held: dict[str, Any] = {"rollout.lora": "adapter"} if rollout.lora == "adapter" else {}
    if rollout.deterministic:
        held["rollout.deterministic"] = True
    return {
        **judges,
        **held,
        "evaluate": evaluate,
        "rollout.engine": slice_of(config.rollout.engine),
        "verify.seconds": config.verify.seconds,
        "verify.memory_mb": config.verify.memory_mb,
        "prompts": {k: v for k, v in slice_of(config.prompts).items() if k in shaping},
    }


def due(config: Config, iteration: int) -> bool:
    every, benchmarks = config.evaluate.every, config.evaluate.benchmarks
    if not every or not benchmarks:
        return False
    if iteration == 0:
        return config.evaluate.at_start
    return iteration % every == 0 or iteration == config.run.iterations


def make(session: Session, work: Work) -> Made:
    """Sample and judge every benchmark; what is sampled stays sampled."""
    run, tools = session.run, session.tools(work.iteration)
    folder, asked_for = folder_of(session, work), tools.config.evaluate
    facts: dict[str, Any] = {"tokens": 0, "sampling_seconds": 0.0}
    noted = Recorder()

    def sampler(jobs: Sequence[Sample], say: Say, around: Around) -> list[Sampled]:
        facts.update(load_policy(session, noted, work.iteration, work.iteration))
        timed = noted.parts(around, lambda job: f"{len(job.keys)} samples")
        return tools.workers.sample_all(jobs, say, timed)

    # Samples that a process which died had put together already.
    together = folder / "samples.parquet"
    stored = [tables.read("samples", path) for path in run.store.parts(work) if path == together]
    version = run.policy(work.iteration).version
    shelves, asked, judged = [], [], []
    rules = protocol.of_training(tools.config)
    for number, one in enumerate(asked_for.benchmarks):
        benchmark = benchmarks.read(one.name, one.problems)
        wanted = order(rules, benchmark, tools.run.tokenizer, version)
        judges = tools.judges("evaluate", plugin_sources(tools.config, "evaluate"))
        if wanted.kind == "choice":
            judges = letter_judges(asked_for.rules)
        shelf = Shelf(folder, work.fingerprint, wanted, judges)
        report = reporter(session, work, number, len(asked_for.benchmarks))
        mine = [part.filter(pc.equal(part["benchmark"], benchmark.name)) for part in stored]
        done = shelf.collect(sampler, report, mine)
        facts["tokens"] += done.tokens
        facts["sampling_seconds"] += done.sampling_seconds
        shelves.append(shelf)
        asked.append(wanted.questions)
        judged.append(done.samples)
    samples = pa.concat_tables(judged)
    known = {together.name: tables.write("samples", samples, together, work.fingerprint)}
    found = scores(samples, pa.concat_tables(asked))
    # Against evaluations that this one does not depend on: said beside the scores, not in them.
    against_best, fallen = {}, {}
    for name in found:
        change = evaluations.against_best(run, work.iteration, name, samples)
        if change is not None:
            against_best[name] = {"iteration": change.iteration} | change.comparison.as_json()
            if change.fell:
                fallen[name] = f"{name} {change.words}"
                session.observer.decision(f"evaluate {work.iteration}: {fallen[name]}")
    write_json(folder / "scores.json", found, durable=False)
    for shelf in shelves:
        shelf.clear()  # every sample stands together with the others
    accuracies = {f"accuracy/{name}": figures["accuracy"] for name, figures in found.items()}
    facts |= {"rows": samples.num_rows, "fallen": fallen, "against_best": against_best}
    facts["spans"] = noted.facts()
    return Made(facts | accuracies, version, known)


STAGE = Stage(
    name="evaluate",
    version=2,
    reads=reads,
    settings=settings,
    make=make,
    due=due,
    of_start=True,
    samples=True,
    weights=lambda run, iteration: iteration,
    about="Evaluate the policy after an iteration on the run's benchmarks; 0 is the untrained one.",
)
