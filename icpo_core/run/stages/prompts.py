"""Stage `prompts`: the next problems by a seeded cursor, bare and with worked examples (IEF)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.common.files import canonical_digest
from icpo_core.config import Config, slice_of
from icpo_core.method import grown_pool
from icpo_core.method.prompts import shortfall
from icpo_core.models import tokens
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.run.sources import sources
from icpo_core.run.stages.base import CURSOR, Inputs, Made, Reader, Stage, folder_of
from icpo_core.run.timeline import Recorder
from icpo_core.store import tables
from icpo_core.store.paths import UNFINISHED
from icpo_core.store.tables import BEGUN
from icpo_core.store.work import Work

JOINED = r"@it-\d+/\d+$"
"""What the name of a demonstration ends with that joined the pool."""


def reads(reader: Reader) -> Inputs:
    named = sources(reader.run.config)
    inputs = {key: value for key, value in named.items() if key.startswith("prompts.")}
    inputs |= {"tokenizer": reader.run.model_settings["tokenizer"]}
    if reader.run.config.prompts.pool != "fixed":
        inputs |= {key: value for key, value in named.items() if key.startswith("benchmark ")}
        inputs["grown"] = canonical_digest(
            [
                [reader.content("rollout", number), reader.content("verify", number)]
                for number in _young(reader.run.config, reader.iteration)
            ]
        )
    if carries(reader.run, reader.iteration):
        before = reader.iteration - 1
        inputs[UNFINISHED] = reader.table("rollout", UNFINISHED, before)
    return inputs | ({CURSOR: reader.cursor()} if reader.run.config.prompts.fill else {})


def carries(run: Run, iteration: int) -> bool:
    """Whether an iteration goes on with what the one before left unfinished. Where a branch cuts
    elsewhere, or has just begun to cut, it is left: its pieces would not come to `max_tokens`."""
    now, before = (run.config_at(number).rollout for number in (iteration, max(0, iteration - 1)))
    same = (now.partial_tokens, now.max_tokens) == (before.partial_tokens, before.max_tokens)
    return now.partial_tokens > 0 and iteration > 1 and same


def _with_begun(run: Run, iteration: int, drawn: pa.Table) -> pa.Table:
    """The problems whose groups go on, and those that were drawn now. One that was drawn again
    while its group goes on is left out."""
    begun = pa.array([iteration] * drawn.num_rows, pa.int32())
    new = drawn.append_column(tables.MORE["prompts"][BEGUN], begun)
    if not carries(run, iteration):
        return new
    left = run.store.table("rollout", iteration - 1, UNFINISHED, ["prompt_id"])["prompt_id"]
    before = run.store.table("prompts", iteration - 1, "prompts")
    old = before.filter(pc.is_in(before["prompt_id"], left.unique()))
    again = pc.is_in(new["prompt_id"], old["prompt_id"].combine_chunks())
    return pa.concat_tables([old, new.filter(pc.invert(again))], promote_options="default")


def _young(config: Config, iteration: int) -> range:
    """The iterations whose rollouts are in the pool of this one."""
    return range(max(1, iteration - config.prompts.pool_age), iteration)


def _grown(run: Run, iteration: int) -> pa.Table | None:
    """What has joined the pool; None if it does not grow."""
    config = run.config_at(iteration)
    if config.prompts.pool == "fixed":
        return None
    return grown_pool.newest(
        grown_pool.joined(
            run.store.table("prompts", number, "prompts"),
            run.store.table("rollout", number, "rollout", grown_pool.COLUMNS),
            run.store.table("verify", number, "verdicts"),
            number,
            config.prompts.pool,
        )
        for number in _young(config, iteration)
    )


def settings(config: Config) -> dict[str, Any]:
    # Only whether the pool or the traces are used matters here, not how often.
    source = config.rollout.expert_source if config.rollout.expert else "none"
    part: dict[str, Any] = {"prompts": slice_of(config.prompts), "rollout.expert_source": source}
    if config.rollout.expert_tries > 1:
        part["rollout.expert_tries"] = config.rollout.expert_tries
    if config.rollout.partial_tokens:
        part["rollout.partial_tokens"] = config.rollout.partial_tokens
    return part


def make(session: Session, work: Work) -> Made:
    noted, tools = Recorder(), session.tools(work.iteration)
    done = session.ahead.take("prompts", work.iteration, "", work.fingerprint)
    if done is not None:
        table = done.value
        noted.add("prompts", "made ahead", done.started, done.seconds)
    else:
        grown = _grown(session.run, work.iteration)
        table = tools.prompt_maker.batch(work.iteration, _cursor(work), grown)
    if tools.config.rollout.partial_tokens:
        table = _with_begun(session.run, work.iteration, table)
    _require_rows(table, tokens.rows(session.run.base_model))
    path = folder_of(session, work) / "prompts.parquet"
    written = tables.write("prompts", table, path, work.fingerprint)
    without = table["expert_prompt"].null_count if tools.config.prompts.k else 0
    facts = {"rows": table.num_rows, "without_demonstrations": without}
    if tools.config.prompts.pool != "fixed":
        shown = pc.list_flatten(table["demo_ids"])
        joined = pc.sum(pc.match_substring_regex(shown, JOINED).cast(pa.int32())).as_py() or 0
        facts["pool/shown"] = joined / max(1, len(shown))
    facts |= _require_examples(session, table, tools.config)
    return Made(facts | {"spans": noted.facts()}, known={path.name: written})


def _require_examples(session: Session, table: pa.Table, config: Config) -> dict[str, Any]:
    """Say, once a session, that prompts show fewer examples than asked for; the share that does.

    Raises ValueError where `prompts.fewer` asks for it.
    """
    rollout = config.rollout
    if not (rollout.expert and rollout.expert_source == "in_context"):
        return {}
    share, line = shortfall(table, config.prompts)
    if line and config.prompts.fewer == "error":
        raise ValueError(f"{line}, or set prompts.fewer = allow")
    if line and not session.said_short:
        session.said_short = True
        session.observer.short(line)
    return {"fewer": share}


def _cursor(work: Work) -> int | None:
    cursor = work.inputs.get(CURSOR)
    return None if cursor is None else int(cursor)


def _require_rows(table: pa.Table, rows: int) -> None:
    """Raise ValueError for a prompt with a token that the embedding has no row for."""
    for column in ("policy_prompt_ids", "expert_prompt_ids"):
        largest = pc.max(pc.list_flatten(table[column])).as_py()
        if largest is not None and largest >= rows:
            raise ValueError(
                f"a prompt holds token {largest}, and the model's embedding has {rows} rows: take "
                "the text that makes it out of the problems, or resize the model's embedding"
            )


def make_ahead(session: Session, work: Work) -> None:
    """Have an iteration's prompts made while the trainer is at work, if they are to be made: a run
    that is resumed has its problems read."""
    tools = session.tools(work.iteration)
    if tools.has_prompts and not session.run.store.status(work).done:
        grown = _grown(session.run, work.iteration)
        do = partial(tools.prompt_maker.batch, work.iteration, _cursor(work), grown)
        session.ahead.start("prompts", work.iteration, "", work.fingerprint, do)


STAGE = Stage(
    name="prompts",
    version=1,
    reads=reads,
    settings=settings,
    make=make,
    draws=True,
    about="Draw the problems of an iteration and their demonstrations again, by the seeded cursor.",
)
