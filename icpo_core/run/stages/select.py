"""Stage `select`: reject sampling (ERRS), bonus (RS) and advantages; what is fine-tuned on."""

from __future__ import annotations

from typing import Any

from icpo_core.common.files import write_json
from icpo_core.config import Config, slice_of
from icpo_core.method import contexts, tuning_buffer
from icpo_core.method.diagnostics import iteration_row
from icpo_core.method.selection import select
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.run.stages.base import Inputs, Made, Reader, Stage, folder_of
from icpo_core.store import tables
from icpo_core.store.work import Work

WAITING, TUNING = "waiting.parquet", "tuning.parquet"
"""What waits for a step of fine-tuning, and what this iteration's is taken on."""


def reads(reader: Reader) -> Inputs:
    waited = _waited(reader.run, reader.iteration)
    return {
        "prompts": reader.content("prompts"),
        "rollouts": reader.content("rollout"),
        "verdicts": reader.content("verify"),
        **({"waiting": reader.file("select", WAITING, reader.iteration - 1)} if waited else {}),
    }


def _waited(run: Run, iteration: int) -> bool:
    """Whether there is a buffer of the iteration before. Where a branch switched it on, there is
    none yet."""
    before = iteration - 1
    buffers = run.config_at(iteration).select.tuning_buffer > 0
    return buffers and before > 0 and run.config_at(before).select.tuning_buffer > 0


def settings(config: Config) -> dict[str, Any]:
    part: dict[str, Any] = {"select": slice_of(config.select)}
    if config.select.truncated == "shaped":  # the penalty is measured from there
        part["rollout.max_tokens"] = config.rollout.max_tokens
    if config.prompts.fill:
        part["prompts.batch_size"] = config.prompts.batch_size
    if config.loss.expert_context != "bare":
        part["loss.expert_context"] = config.loss.expert_context
        part["rollout.on_policy"] = config.rollout.on_policy
        part["rollout.expert"] = config.rollout.expert
    return part


def make(session: Session, work: Work) -> Made:
    store, config = session.run.store, session.run.config_at(work.iteration)
    prompts = store.table("prompts", work.iteration, "prompts")
    rollouts = store.table("rollout", work.iteration, "rollout")
    verdicts = store.table("verify", work.iteration, "verdicts")
    context = config.loss.expert_context
    source = work.inputs.get("select.advantage")
    chosen = select(
        prompts,
        rollouts,
        verdicts,
        config.select,
        work.iteration,
        config.run.seed,
        source,
        work.config.get("rollout.max_tokens"),
        config.prompts.batch_size if config.prompts.fill else None,
        None if context == "bare" else contexts.prompt_ids(prompts, rollouts, config),
    )
    folder = folder_of(session, work)
    made = {
        "batch.parquet": ("batch", chosen.batch),
        "rejects.parquet": ("rejects", chosen.rejects),
    }
    buffered = {}
    if config.select.tuning_buffer:
        news = tuning_buffer.joined(prompts, rollouts, chosen, work.iteration)
        waited = None
        if _waited(session.run, work.iteration):
            waited = store.table("select", work.iteration - 1, "tuning", WAITING)
        buffer = tuning_buffer.fill(waited, news, config.select.tuning_buffer)
        made |= {TUNING: ("tuning", buffer.taken), WAITING: ("tuning", buffer.waiting)}
        buffered = buffer.summary
    known = {
        file: tables.write(name, table, folder / file, work.fingerprint)
        for file, (name, table) in made.items()
    }
    summary = chosen.summary | buffered
    row = iteration_row(prompts, rollouts, verdicts, chosen.rows, summary)
    # Seconds are of this machine and this hour, and no part of what was selected.
    seconds = row.pop("judge/seconds", None)
    write_json(folder / "summary.json", row, durable=False)
    counts = {"rows": chosen.batch.num_rows, "rejects": chosen.rejects.num_rows}
    return Made(counts | ({"judge/seconds": seconds} if seconds is not None else {}), known=known)


STAGE = Stage(
    name="select",
    version=1,
    reads=reads,
    settings=settings,
    make=make,
    draws=True,
    about="Reject sampling (ERRS), bonus (RS) and advantages on stored verdicts, for example with "
    "overrides `select.errs=off`.",
)
