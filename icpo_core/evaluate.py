"""Evaluation of a policy: sampling questions in the engine's process, and judging the samples.

A sample's seed depends on benchmark, problem and the sample's number alone, so that models are
compared on common random numbers and a longer evaluation begins with the samples of a shorter one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from icpo_core import schemas
from icpo_core.engine import Engine, Request
from icpo_core.grading import GradingRules, Question
from icpo_core.judges import Judges
from icpo_core.seeds import stable_seed


def sample_questions(
    engine: Engine, tokenizer: Any, job: dict[str, Any], on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """In the engine's process: sample some questions and write a part of table `generations`."""
    questions = schemas.read("questions", Path(job["questions"]))
    names, ids = questions["benchmark"].to_pylist(), questions["prompt_id"].to_pylist()
    prompts = questions["prompt_ids"].to_pylist()
    places = [place for place, _ in job["keys"]]
    seeds = [
        stable_seed("evaluate", job["seed"], names[place], ids[place], index)
        for place, index in job["keys"]
    ]
    requests = [Request(prompts[place], seed) for place, seed in zip(places, seeds, strict=True)]
    started = time.perf_counter()
    samples = engine.sample(
        requests,
        job["temperature"],
        job["max_tokens"],
        top_p=job["top_p"],
        on_progress=on_progress,
    )
    seconds = time.perf_counter() - started
    responses = [sample.response_ids for sample in samples]
    table = pa.table(
        {
            "benchmark": [names[place] for place in places],
            "prompt_id": [ids[place] for place in places],
            "sample_index": pa.array([index for _, index in job["keys"]], pa.int32()),
            "response": tokenizer.batch_decode(responses, skip_special_tokens=True),
            "response_ids": responses,
            "finish_reason": [sample.finish_reason for sample in samples],
            "seed": seeds,
            "policy_version": [engine.policy_version] * len(places),
        },
        schema=schemas.TABLES["generations"],
    )
    schemas.write("generations", table, Path(job["out"]), job["fingerprint"])
    tokens = sum(map(len, responses))
    return {"rows": len(places), "tokens": tokens, "sampling_seconds": seconds}


def judge_samples(generations: pa.Table, questions: pa.Table, judges: Judges) -> pa.Table:
    """Table `samples`: generations of one benchmark with their verdicts."""
    gold = dict(zip(questions["prompt_id"].to_pylist(), questions["gold"].to_pylist(), strict=True))
    asked = [
        Question(gold[prompt_id], response, finish == "length")
        for prompt_id, response, finish in zip(
            generations["prompt_id"].to_pylist(),
            generations["response"].to_pylist(),
            generations["finish_reason"].to_pylist(),
            strict=True,
        )
    ]
    found = judges.judge(asked)
    columns = {name: generations[name] for name in schemas.TABLES["generations"].names}
    columns |= {
        "reward": pa.array([one.reward for one in found], pa.float32()),
        "status": pa.array([one.status.value for one in found]),
        "extracted": pa.array([one.extracted for one in found], pa.string()),
        "gold": pa.array([one.gold for one in asked]),
        "seconds": pa.array([one.seconds for one in found], pa.float32()),
    }
    return pa.table(columns, schema=schemas.TABLES["samples"])


def letter_judges(rules: GradingRules) -> Judges:
    """Judges of a multiple choice. The text decides all of it, so no process is ever started."""
    return Judges(1, 1.0, 256, rules.model_copy(update={"extraction": "choice"}))
