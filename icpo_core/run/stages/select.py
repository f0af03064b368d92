"""Stage `select`: reject sampling (ERRS), bonus (RS) and advantages; what is fine-tuned on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate
from typing import Any

import pyarrow as pa

from icpo_core.common.files import write_json
from icpo_core.common.limits import cores
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
THREADS = 16
"""Parts that are in memory at once, at most: no more than there are cores."""


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
    """One `batch` and one `rejects` for each part of the rollouts, which are read part by part, a
    few at a time: first for keys and lengths, all that is chosen by, then for what the update
    learns from."""
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

    with ThreadPoolExecutor(min(len(names), THREADS, cores()), "select") as threads:
        each = list(threads.map(lambda name: outline(rollouts(name)), names))
        outlines, firsts = pa.concat_tables(each), [0, *accumulate(one.num_rows for one in each)]
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
        diversity, whole = Diversity(chosen.rows), len(names) == 1

        def select(name: str, first: int) -> tuple[dict[str, Written], pa.Table | None]:
            """Batch and rejects of a part, and what of it waits for fine-tuning."""
            part, written = rollouts(name), dict[str, Written]()
            learned = None
            if config.loss.expert_context != "bare":
                learned = contexts.prompt_ids(prompts, part, config)
            both = tables_of(chosen, prompts, part, learned, None if whole else first)
            for table, data in zip(("batch", "rejects"), both, strict=True):
                file = f"{table}.parquet" if whole else name.replace("part", table, 1)
                written[file] = tables.write(table, data, folder / file, work.fingerprint)
            diversity.add(part["response_ids"], first)
            if not buffered:
                return written, None
            return written, tuning_buffer.joined(prompts, part, chosen, iteration, first)

        made = list(threads.map(select, names, firsts))
    known = {file: one for written, _ in made for file, one in written.items()}
    counts: dict[str, Any] = {
        name: sum(one.rows or 0 for file, one in known.items() if file.startswith(name))
        for name in ("batch", "rejects")
    }
    assert sum(counts.values()) == firsts[-1]
    counts["rows"] = counts.pop("batch")
    summary = chosen.summary
    if buffered:
        waited = None
        if _waited(session.run, iteration):
            waited = tables.read("tuning", store.file("select", iteration - 1, WAITING))
        apart = [waits for _, waits in made if waits is not None]
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
