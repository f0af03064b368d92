"""Stage `select`: reject sampling (ERRS), bonus (RS) and advantages; what is fine-tuned on."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pyarrow as pa

from icpo_core.common.files import write_json
from icpo_core.config import Config, slice_of
from icpo_core.method import contexts, tuning_buffer
from icpo_core.method.diagnostics import Diversity, iteration_row
from icpo_core.method.rows import OUTLINED, outline
from icpo_core.method.selection import choose, tables_of
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.run.stages.base import Inputs, Made, Reader, Stage, folder_of
from icpo_core.store import tables
from icpo_core.store.tables import Written
from icpo_core.store.work import Work

WAITING, TUNING = "waiting.parquet", "tuning.parquet"
"""What waits for a step of fine-tuning, and what this iteration's is taken on."""


def reads(reader: Reader) -> Inputs:
    waited = _waited(reader.run, reader.iteration)
    return {
        "prompts": reader.content("prompts"),
        "rollouts": reader.content("rollout"),
        "verdicts": reader.content("verify"),
        **({"waiting": reader.table("select", "waiting", reader.iteration - 1)} if waited else {}),
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
    """One `batch` and one `rejects` for each part of the rollouts, which are read part by part:
    first for keys and lengths, all that is chosen by, then for what the update learns from."""
    store, config = session.run.store, session.run.config_at(work.iteration)
    iteration, folder = work.iteration, folder_of(session, work)
    prompts = store.table("prompts", iteration, "prompts")
    verdicts = store.table("verify", iteration, "verdicts")
    found = store.manifest("rollout", iteration)
    assert found is not None
    names = [record.name for record in found.table("rollout")]

    @lru_cache(maxsize=1)
    def rollouts(name: str) -> pa.Table:
        return tables.read("rollout", store.file("rollout", iteration, name), OUTLINED)

    outlines = pa.concat_tables([outline(rollouts(name)) for name in names])
    chosen = choose(
        prompts,
        outlines,
        verdicts,
        config.select,
        iteration,
        config.run.seed,
        work.inputs.get("select.advantage"),
        work.config.get("rollout.max_tokens"),
        config.prompts.batch_size if config.prompts.fill else None,
    )
    buffered = config.select.tuning_buffer > 0
    diversity, known, first = Diversity(chosen.rows), dict[str, Written](), 0
    apart: list[pa.Table] = []
    for name in names:
        part, whole = rollouts(name), len(names) == 1
        learned = None
        if config.loss.expert_context != "bare":
            learned = contexts.prompt_ids(prompts, part, config)
        made = tables_of(chosen, prompts, part, learned, None if whole else first)
        for table, data in zip(("batch", "rejects"), made, strict=True):
            file = f"{table}.parquet" if whole else name.replace("part", table, 1)
            known[file] = tables.write(table, data, folder / file, work.fingerprint)
        if buffered:
            apart.append(tuning_buffer.joined(prompts, part, chosen, iteration, first))
        diversity.add(part["response_ids"], first)
        first += part.num_rows
    counts: dict[str, Any] = {
        name: sum(one.rows or 0 for file, one in known.items() if file.startswith(name))
        for name in ("batch", "rejects")
    }
    assert sum(counts.values()) == first
    counts["rows"] = counts.pop("batch")
    summary = chosen.summary
    if buffered:
        waited = None
        if _waited(session.run, iteration):
            waited = tables.read("tuning", store.file("select", iteration - 1, WAITING))
        news = tuning_buffer.in_order(prompts, apart)
        buffer = tuning_buffer.fill(waited, news, config.select.tuning_buffer)
        for file, data in ((TUNING, buffer.taken), (WAITING, buffer.waiting)):
            known[file] = tables.write("tuning", data, folder / file, work.fingerprint)
        summary = summary | buffer.summary
    row = iteration_row(prompts, outlines, verdicts, chosen.rows, summary, diversity.value())
    # Seconds are of this machine and this hour, and no part of what was selected.
    seconds = row.pop("judge/seconds", None)
    write_json(folder / "summary.json", row, durable=False)
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
