"""Stage `select`: reject sampling (ERRS), bonus (RS) and group advantages."""

from __future__ import annotations

from typing import Any

from icpo_core.common.files import write_json
from icpo_core.config import Config, slice_of
from icpo_core.method import contexts
from icpo_core.method.diagnostics import iteration_row
from icpo_core.method.selection import select
from icpo_core.run.session import Session
from icpo_core.run.stages.base import Inputs, Made, Reader, Stage, folder_of
from icpo_core.store import tables
from icpo_core.store.work import Work


def reads(reader: Reader) -> Inputs:
    return {
        "prompts": reader.content("prompts"),
        "rollouts": reader.content("rollout"),
        "verdicts": reader.content("verify"),
    }


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
    known = {
        f"{name}.parquet": tables.write(name, table, folder / f"{name}.parquet", work.fingerprint)
        for name, table in (("batch", chosen.batch), ("rejects", chosen.rejects))
    }
    row = iteration_row(prompts, rollouts, verdicts, chosen.rows, chosen.summary)
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
