"""The jobs of an engine's process: rollouts and samples, each to one Parquet part, and logprobs.

Expert rollouts are sampled from the expert prompt (demonstrations in context) and recorded with
the logprobs under that prompt; the update puts them behind the bare prompt (IEF).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from inspect import signature
from typing import Any

import pyarrow as pa

from icpo_core.common.seeds import stable_seed
from icpo_core.engine import partial
from icpo_core.engine.kinds.base import SHOWN, Completion, Engine, Gap, Request, require_alike
from icpo_core.models.tokens import end_of_trace
from icpo_core.store import tables
from icpo_core.store.paths import UNFINISHED, unfinished_of
from icpo_core.store.tables import ROUND, TRIES, Origin
from icpo_core.workers.jobs import (
    Done,
    Load,
    Loaded,
    Rollout,
    Sample,
    Sampled,
    Score,
    Scored,
    Sleep,
)
from icpo_core.workers.process import Handlers, Say


def shard_of(prompts: pa.Table, job: Rollout) -> list[tuple[int, dict[str, Any]]]:
    """The prompts of one shard with their rows: every so-manieth of those that are asked for, so
    that shards are alike in cost."""
    places = range(prompts.num_rows) if job.groups is None else job.groups
    mine = list(places[job.shard :: job.shards])
    return list(zip(mine, prompts.take(pa.array(mine, pa.int64())).to_pylist(), strict=True))


def _expert_ids(prompt: dict[str, Any], attempt: int) -> list[int] | None:
    """The expert prompt of a try; None where there is none."""
    if not attempt:
        ids: list[int] | None = prompt["expert_prompt_ids"]
        return ids
    tries = prompt[TRIES]
    return tries[attempt - 1]["expert_prompt_ids"] if attempt <= len(tries) else None


def rollout_shard(engine: Engine, tokenizer: Any, job: Rollout, say: Say) -> Sampled:
    """Sample one shard of prompts and write its part, without prompts that the engine fails at."""
    prompts = shard_of(tables.read("prompts", job.prompts), job)
    steered = None if job.steered is None else set(job.steered)
    in_context = job.expert_source == "in_context"
    whole: int | None = None
    if job.seeding == "part":
        part = job.round or 0, job.shard, job.shards
        whole = stable_seed(job.seed, "part", job.iteration, *part)
    keys: list[tuple[str, int, Origin]] = []
    requests: list[Request] = []
    ready: list[dict[str, Any]] = []  # nothing is sampled for them: traces, and what has ended
    begun = partial.begun(job, [prompt["prompt_id"] for _, prompt in prompts])
    before: dict[tuple[str, int], dict[str, Any]] = {}
    for place, prompt in prompts:
        if (left := begun.get(prompt["prompt_id"])) is not None:
            for row in left:
                if row["finish_reason"] != partial.GOES_ON:
                    ready.append(row)
                    continue
                key = row["prompt_id"], row["sample_index"]
                before[key] = row
                keys.append((*key, row["origin"]))
                row_seed = stable_seed(job.seed, "rollout", job.iteration, *key)
                seed = row_seed if whole is None else whole
                requests.append(Request(partial.shown(prompt, row), seed))
            continue
        sources = [(Origin.ON_POLICY, prompt["policy_prompt_ids"])] * job.on_policy
        experts = job.expert if steered is None or place in steered else 0
        if in_context and (expert_ids := _expert_ids(prompt, job.attempt)) is not None:
            sources += [(Origin.EXPERT, expert_ids)] * experts
        for index, (origin, ids) in enumerate(sources, job.first):
            keys.append((prompt["prompt_id"], index, origin))
            row_seed = stable_seed(job.seed, "rollout", job.iteration, prompt["prompt_id"], index)
            requests.append(Request(ids, row_seed if whole is None else whole))
        if not in_context and experts:
            trace = _trace(prompt, job.first + job.on_policy, tokenizer, engine, job.max_tokens)
            ready += [trace] if trace else []
    started = time.perf_counter()
    if whole is not None and "seed" not in signature(engine.sample).parameters:
        raise ValueError("this engine has no seed for a part: set rollout.seeding = rollout")
    more = {} if whole is None else {"seed": whole}
    most = job.partial_tokens or job.max_tokens
    samples = engine.sample(requests, job.temperature, most, on_progress=say, **more)
    sampling = time.perf_counter() - started
    rows = as_rows(keys, requests, samples, tokenizer, engine.policy_version)
    if job.partial_tokens:
        partial.joined(rows, before, job, tokenizer)
    failed = {row["prompt_id"] for row in rows if row["finish_reason"] == "error"}
    rows = [row for row in rows + ready if row["prompt_id"] not in failed]
    rows = sorted(rows, key=lambda row: (row["prompt_id"], row["sample_index"]))
    if job.partial_tokens:  # first what goes on: the part says that all is there
        rows, left_over = partial.parted(rows)
        goes_on = partial.table(UNFINISHED, left_over)
        tables.write(UNFINISHED, goes_on, unfinished_of(job.out), job.fingerprint)
        table = partial.table("rollout", rows)
    else:
        table = tables.table("rollout", rows)
    if job.round is not None:
        table = table.append_column(ROUND, pa.array([job.round] * len(rows), pa.int32()))
    written = tables.write("rollout", table, job.out, job.fingerprint)
    tokens = sum(len(sample.response_ids) for sample in samples)
    return Sampled(tokens=tokens, sampling_seconds=sampling, **asdict(written))


def as_rows(
    keys: list[tuple[str, int, Origin]],
    requests: list[Request],
    samples: Sequence[Completion],
    tokenizer: Any,
    policy_version: str,
) -> list[dict[str, Any]]:
    """Samples as rows of the `rollout` table."""
    # One by one: of an empty shard `batch_decode` makes one empty text.
    texts = [tokenizer.decode(sample.response_ids, skip_special_tokens=True) for sample in samples]
    return [
        {
            "prompt_id": prompt_id,
            "sample_index": index,
            "origin": origin,
            "response": text,
            "response_ids": sample.response_ids,
            "logprobs": sample.logprobs,
            "finish_reason": sample.finish_reason,
            "seed": request.seed,
            "policy_version": policy_version,
        }
        for (prompt_id, index, origin), request, sample, text in zip(
            keys, requests, samples, texts, strict=True
        )
    ]


def _trace(
    prompt: dict[str, Any], index: int, tokenizer: Any, engine: Engine, max_tokens: int
) -> dict[str, Any] | None:
    """The data set's solution as a rollout, ended as the model would end it; None if it is missing
    or too long to stand whole."""
    if prompt["trace"] is None:
        return None
    ids = tokenizer(prompt["trace"], add_special_tokens=False)["input_ids"]
    ids = [*ids, end_of_trace(tokenizer, engine.eos_ids, prompt.get("policy_prompt_ids"))]
    if len(ids) > max_tokens:
        return None
    return {
        "prompt_id": prompt["prompt_id"],
        "sample_index": index,
        "origin": Origin.TRACE,
        "response": prompt["trace"],
        "response_ids": ids,
        "logprobs": None,
        "finish_reason": "stop",
        "seed": 0,
        "policy_version": engine.policy_version,
    }


def sample_questions(engine: Engine, tokenizer: Any, job: Sample, say: Say) -> Sampled:
    """Sample some questions and write a part of table `generations`."""
    questions = tables.read("questions", job.questions)
    names, ids = questions["benchmark"].to_pylist(), questions["prompt_id"].to_pylist()
    prompts = questions["prompt_ids"].to_pylist()
    places = [place for place, _ in job.keys]
    seeds = [
        stable_seed("evaluate", job.seed, names[place], ids[place], index)
        for place, index in job.keys
    ]
    requests = [Request(prompts[place], seed) for place, seed in zip(places, seeds, strict=True)]
    started = time.perf_counter()
    if job.top_k and "top_k" not in signature(engine.sample).parameters:
        raise ValueError("this engine has no top-k: set evaluate.top_k = 0")
    more = {"top_k": job.top_k} if job.top_k else {}
    samples = engine.sample(requests, job.temperature, job.max_tokens, job.top_p, say, **more)
    seconds = time.perf_counter() - started
    responses = [sample.response_ids for sample in samples]
    table = pa.table(
        {
            "benchmark": [names[place] for place in places],
            "prompt_id": [ids[place] for place in places],
            "sample_index": pa.array([index for _, index in job.keys], pa.int32()),
            "response": tokenizer.batch_decode(responses, skip_special_tokens=True),
            "response_ids": responses,
            "finish_reason": [sample.finish_reason for sample in samples],
            "seed": seeds,
            "policy_version": [engine.policy_version] * len(places),
        },
        schema=tables.TABLES["generations"],
    )
    written = tables.write("generations", table, job.out, job.fingerprint)
    tokens = sum(map(len, responses))
    return Sampled(tokens=tokens, sampling_seconds=seconds, **asdict(written))


def score_sequences(engine: Engine, job: Score) -> Scored:
    """Logprobs of the rows of a table `probe`, written to another."""
    sequences = tables.read("probe", job.sequences)["token_ids"].to_pylist()
    rows = [
        {"token_ids": ids, "logprobs": score}
        for ids, score in zip(sequences, engine.score(sequences), strict=True)
    ]
    tables.write("probe", tables.table("probe", rows), job.out)
    return Scored(rows=len(rows))


def handlers(engine: Engine, tokenizer: Any) -> Handlers:
    """Jobs that the engine's process takes."""
    proven: dict[str, Loaded] = {}  # of the weights that were proven last

    def load(job: Load, _: Say) -> Loaded:
        seconds = engine.load(job.model, job.policy_version)
        known = None if seconds else proven.get(job.policy_version)
        if known is None or (job.proof and known.proof_gap is None):
            proven.clear()
            compared = require_alike(engine, job.model)
            facts: dict[str, float] = {}
            if compared is not None:
                facts |= {"weights_compared": compared.tensors}
                facts |= {"weights_unread": len(compared.unread)}
                if compared.unread:  # for the log: the logprobs alone prove these
                    some = ", ".join(compared.unread[:SHOWN])
                    print(f"{len(compared.unread)} weights are not compared: {some}", flush=True)
            # The base model has no proof; an engine that was started with other weights has one.
            gap = engine.prove(job.proof, job.max_logprob_gap) if job.proof else None
            facts |= gap.facts() if isinstance(gap, Gap) else {}
            known = Loaded(
                reload_seconds=seconds, proof_gap=None if gap is None else float(gap), proof=facts
            )
            proven[job.policy_version] = known
        return known.model_copy(update={"reload_seconds": seconds})

    def sleep(_job: Sleep, _: Say) -> Done:
        proven.clear()
        engine.sleep()
        return Done()

    def require_loaded(version: str) -> None:
        if engine.policy_version != version:
            raise ValueError(
                f"the engine holds weights {engine.policy_version[:12] or 'of nothing proven'}, "
                f"the job is for {version[:12]}: load them first"
            )

    def rollout(job: Rollout, say: Say) -> Sampled:
        require_loaded(job.policy_version)
        return rollout_shard(engine, tokenizer, job, say)

    def sample(job: Sample, say: Say) -> Sampled:
        require_loaded(job.policy_version)
        return sample_questions(engine, tokenizer, job, say)

    def score(job: Score, _: Say) -> Scored:
        require_loaded(job.policy_version)
        return score_sequences(engine, job)

    return {Load: load, Sleep: sleep, Rollout: rollout, Sample: sample, Score: score}
