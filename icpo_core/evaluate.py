"""Stage `evaluate`: samples of benchmarks under the bare prompt, their verdicts and scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from icpo_core import schemas
from icpo_core.config import PromptsSection
from icpo_core.engine import Engine, Request
from icpo_core.grading import Question, VerdictStatus
from icpo_core.judges import Judges
from icpo_core.problems import read_problems
from icpo_core.seeds import stable_seed
from icpo_core.templates import Template


def sample_benchmark(
    engine: Engine, tokenizer: Any, job: dict[str, Any], on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Sample one benchmark in the engine's process and write table `generations`; facts."""
    benchmark, settings = job["benchmark"], job["evaluate"]
    problems = read_problems(benchmark["problems"]).slice(0, benchmark["limit"])
    template = Template(tokenizer, PromptsSection.model_validate(job["prompts"]))
    ids = problems["id"].to_pylist()
    prompts = template.tokenize([template.render(text) for text in problems["problem"].to_pylist()])
    keys = [(place, index) for place in range(len(ids)) for index in range(benchmark["samples"])]
    # The seed leaves the iteration out: two checkpoints are compared on common random numbers.
    requests = [
        Request(
            prompts[place],
            stable_seed(job["seed"], "evaluate", benchmark["name"], ids[place], index),
        )
        for place, index in keys
    ]
    started = time.perf_counter()
    samples = engine.sample(
        requests,
        settings["temperature"],
        settings["max_tokens"],
        top_p=settings["top_p"],
        on_progress=on_progress,
    )
    seconds = time.perf_counter() - started
    responses = [sample.response_ids for sample in samples]
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    rows = [
        {
            "benchmark": benchmark["name"],
            "prompt_id": ids[place],
            "sample_index": index,
            "response": text,
            "response_ids": sample.response_ids,
            "finish_reason": sample.finish_reason,
            "seed": request.seed,
            "policy_version": engine.policy_version,
        }
        for (place, index), request, sample, text in zip(
            keys, requests, samples, texts, strict=True
        )
    ]
    schemas.write(
        "generations", schemas.table("generations", rows), Path(job["out"]), job["fingerprint"]
    )
    tokens = sum(len(response) for response in responses)
    return {"rows": len(rows), "tokens": tokens, "sampling_seconds": seconds}


def judge_samples(generations: pa.Table, problems: pa.Table, judges: Judges) -> pa.Table:
    """Table `samples`: the generations of one benchmark with their verdicts."""
    gold = dict(zip(problems["id"].to_pylist(), problems["answer"].to_pylist(), strict=True))
    questions = [
        Question(gold[prompt_id], response, finish == "length")
        for prompt_id, response, finish in zip(
            generations["prompt_id"].to_pylist(),
            generations["response"].to_pylist(),
            generations["finish_reason"].to_pylist(),
            strict=True,
        )
    ]
    found = judges.judge(questions)
    columns = {name: generations[name] for name in generations.column_names}
    columns |= {
        "reward": pa.array([one.reward for one in found], pa.float32()),
        "status": pa.array([one.status.value for one in found]),
        "extracted": pa.array([one.extracted for one in found], pa.string()),
        "gold": pa.array([one.gold for one in questions]),
        "seconds": pa.array([one.seconds for one in found], pa.float32()),
    }
    return pa.table(columns, schema=schemas.TABLES["samples"])


def scores(samples: pa.Table) -> dict[str, dict[str, float]]:
    """Accuracy of each benchmark: the mean over problems of the mean over a problem's samples.

    Also its standard error over problems, and shares of responses that were cut off or gave no
    answer.
    """
    found = {}
    for name in dict.fromkeys(samples["benchmark"].to_pylist()):
        mine = samples.filter(pa.compute.equal(samples["benchmark"], name))
        _, problem_N = np.unique(mine["prompt_id"].to_pylist(), return_inverse=True)
        means = np.bincount(problem_N, mine["reward"].to_numpy()) / np.bincount(problem_N)
        status = mine["status"].to_pylist()
        lengths = pa.compute.list_value_length(mine["response_ids"]).to_numpy()
        error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0
        found[name] = {
            "accuracy": float(means.mean()),
            "standard_error": error,
            "problems": float(len(means)),
            "samples": float(mine.num_rows),
            "truncated": _share(status, VerdictStatus.truncated),
            "no_answer": _share(status, VerdictStatus.no_answer),
            "mean_tokens": float(lengths.mean()),
        }
    return found


def _share(status: Sequence[str], wanted: VerdictStatus) -> float:
    return sum(one == wanted for one in status) / len(status)
