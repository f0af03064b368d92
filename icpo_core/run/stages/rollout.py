"""Stage `rollout`: sample every group, one Parquet part a shard."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from icpo_core.config import Config, slice_of
from icpo_core.run.session import Session
from icpo_core.run.stages import verify
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
from icpo_core.store.tables import Written
from icpo_core.store.work import Work
from icpo_core.workers.jobs import Rollout, Sampled


def reads(reader: Reader) -> Inputs:
    return {
        "prompts": reader.content("prompts"),
        "policy": reader.policy(reader.run.sampling_policy(reader.iteration)),
        **reader.run.model_settings,
    }


def settings(config: Config) -> dict[str, Any]:
    return {"rollout": slice_of(config.rollout)}


def make(session: Session, work: Work) -> Made:
    """Sample every shard that is not there yet, on an engine that is proven to hold the policy.

    Each shard is judged ahead of `verify`, while the engines are at others or, off-policy, the
    trainer is at work.
    """
    run, tools = session.run.at(work.iteration), session.tools(work.iteration)
    folder, rollout = folder_of(session, work), tools.config.rollout
    shards = rollout.shards
    sampled_from = session.run.sampling_policy(work.iteration)
    wanted = [run.paths.part("rollout", work.iteration, index, shards) for index in range(shards)]
    kept = set(run.store.parts(work))
    facts: dict[str, Any] = {
        "kept_parts": len(kept),
        "off_policy_steps": work.iteration - 1 - sampled_from,
    }
    noted = Recorder()
    if kept != set(wanted):
        facts |= load_policy(session, noted, work.iteration, sampled_from)
    version = session.run.policy(sampled_from).version
    prompts = run.store.file("prompts", work.iteration, "prompts.parquet")
    alongside = shards > 1 or rollout.off_policy_steps > 0
    judge_ahead = verify.ahead(session, work, prompts) if alongside else lambda path: None

    context = copy_context()  # an engine's thread has none of its own

    def around(job: Rollout, do: Callable[[], Sampled]) -> Sampled:
        reply = context.copy().run(session.observer.part, job, do)
        judge_ahead(job.out)
        return reply

    jobs = [
        Rollout(
            prompts=prompts,
            shard=index,
            shards=shards,
            on_policy=rollout.on_policy,
            expert=rollout.expert,
            expert_source=rollout.expert_source,
            temperature=rollout.temperature,
            max_tokens=rollout.max_tokens,
            seed=tools.config.run.seed,
            iteration=work.iteration,
            policy_version=version,
            out=path,
            fingerprint=work.fingerprint,
        )
        for index, path in enumerate(wanted)
        if path not in kept
    ]
    for path in sorted(kept) if jobs else ():
        judge_ahead(path)
    timed = noted.parts(around, lambda job: f"part {job.shard}")
    say = reporter(session, work, 0, 1)
    replies = tools.workers.sample_all(jobs, say, timed) if jobs else []
    sampled = sum(reply.tokens for reply in replies)
    assert all(path.parent == folder for path in wanted)
    if rollout.endpoints and (missing := lost(prompts, wanted)):
        facts["lost_prompts"] = missing
    return Made(
        {
            **facts,
            "tokens": sampled + sum(map(_tokens, kept)),
            "sampled_tokens": sampled,
            "sampling_seconds": sum(reply.sampling_seconds for reply in replies),
            "spans": noted.facts(),
        },
        version,
        {
            job.out.name: Written(reply.sha256, reply.rows, reply.content)
            for job, reply in zip(jobs, replies, strict=True)
        },
    )


def lost(prompts: Path, parts: list[Path]) -> int:
    """How many prompts have no rollouts: a server failed at them again and again."""
    ids = [pq.read_table(path, columns=["prompt_id"], partitioning=None) for path in parts]
    there = {one for table in ids for one in table["prompt_id"].unique().to_pylist()}
    return int(pq.read_metadata(prompts).num_rows) - len(there)


def _tokens(part: Path) -> int:
    responses = pq.read_table(part, columns=["response_ids"], partitioning=None)["response_ids"]
    return pc.sum(pc.list_value_length(responses)).as_py() or 0


STAGE = Stage(
    name="rollout",
    version=1,
    reads=reads,
    settings=settings,
    make=make,
    draws=True,
    weights=lambda run, iteration: run.sampling_policy(iteration),
    about="Sample the groups of an iteration, from the weights that its prompts met. Starts an "
    "engine for it and ends it; parts that are whole are kept.",
)
