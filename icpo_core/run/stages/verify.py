"""Stage `verify`: a verdict on every rollout."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.common.files import canonical_digest
from icpo_core.config import Config, plugin_sources, slice_of
from icpo_core.method import verdicts
from icpo_core.run.session import Session
from icpo_core.run.stages.base import Inputs, Made, Reader, Stage, folder_of, reporter
from icpo_core.run.timeline import FLOW, WAITS, Recorder
from icpo_core.store import tables
from icpo_core.store.manifest import FileRecord
from icpo_core.store.work import Work
from icpo_core.workers import devices


def reads(reader: Reader) -> Inputs:
    return {"prompts": reader.content("prompts"), "rollouts": reader.content("rollout")}


def settings(config: Config) -> dict[str, Any]:
    return {"verify": slice_of(config.verify)}


def make(session: Session, work: Work) -> Made:
    """Judge every part of the rollouts; a part that is judged stays judged."""
    store, tools = session.run.store, session.tools(work.iteration)
    prompts = store.table("prompts", work.iteration, "prompts")
    found = store.manifest("rollout", work.iteration)
    assert found is not None
    names = {record.name for record in found.files}
    for path in store.parts(work):
        if path.name not in names:  # a copy that somebody else put there: it would count twice
            path.unlink()
    kept, noted, folder = set(store.parts(work)), Recorder(), folder_of(session, work)
    sources = {key: value for key, value in work.inputs.items() if value and _is_source(key)}
    source, taken = _judged_from(tools.config, found.fingerprint, sources), 0
    parts, known = [], {}
    for index, record in enumerate(found.files):
        path = folder / record.name
        done = session.ahead.take("verify", work.iteration, record.name, source)
        if path in kept:
            parts.append(tables.read("verdicts", path))
            continue
        if done is not None and _as_good(done.value, record):
            table, taken = done.value[1], taken + 1
            noted.add("judges", f"{record.name} ahead", done.started, done.seconds)
            noted.row(FLOW, time.time() - done.waited, {f"{WAITS}judges": done.waited})
        else:
            with noted.span("judges", record.name):
                part = store.file("rollout", work.iteration, record.name)
                judges = tools.judges("verify", sources)
                say = reporter(session, work, index, len(found.files))
                rollouts = tables.read("rollout", part)
                table = verdicts.verdicts(prompts, rollouts, judges, say)
        limit = tools.config.verify.max_failure_rate
        verdicts.require_few_failures(table, limit, str(folder))
        known[path.name] = tables.write("verdicts", table, path, work.fingerprint)
        parts.append(table)
    whole = pa.concat_tables(parts, promote_options="default")
    counts = pc.value_counts(whole["status"]).to_pylist()
    facts: dict[str, Any] = {f"status/{entry['values']}": entry["counts"] for entry in counts}
    facts |= {"rows": whole.num_rows, "failure_rate": verdicts.failure_rate(whole)}
    return Made(facts | {"parts_ahead": taken, "spans": noted.facts()}, known=known)


class JudgedAhead:
    """Has parts of the rollouts judged in the background, for `verify` to take."""

    def __init__(self, session: Session, rollouts: Work, prompts: Path) -> None:
        """`rollouts`: the work that makes them; `prompts`: its file."""
        self._session, self._iteration, self._prompts = session, rollouts.iteration, prompts
        self._config = session.tools(rollouts.iteration).config
        sources = plugin_sources(self._config, "verify")
        self._judges = session.tools(rollouts.iteration).judges("verify", sources)
        self._source = _judged_from(self._config, rollouts.fingerprint, sources)

    def start(self, part: Path) -> None:
        do = partial(verdicts.judge_part, self._prompts, part, self._judges)
        self._session.ahead.start("verify", self._iteration, part.name, self._source, do)

    def verdicts(self, part: Path) -> pa.Table:
        """On a part that was started, waited for. What failed while engines were at work is given
        another try. Raises ValueError if too many failed."""
        table: pa.Table
        for again in (True, False):
            _, table = self._session.ahead.look("verify", self._iteration, part.name)
            if not (again and verdicts.failure_rate(table)):
                break
            self.start(part)
        limit = self._config.verify.max_failure_rate
        verdicts.require_few_failures(table, limit, str(part))
        return table


def _is_source(key: str) -> bool:
    return key.startswith("verify.")


def _judged_from(config: Config, rollouts: str, sources: Mapping[str, str]) -> str:
    """What the verdicts on a part come from beside its rows. `rollouts`: their fingerprint, which
    the prompts with the gold answers are in; `sources`: of one's own verifiers."""
    return canonical_digest([rollouts, settings(config), dict(sources)])


def _as_good(judged: tuple[str, pa.Table], record: FileRecord) -> bool:
    """Whether verdicts made ahead are those that the stage itself would come to.

    Engines on the CPU take its time from the judges, so what then failed is given another try.
    """
    content, table = judged
    failed = verdicts.failure_rate(table)
    return content == record.content and bool(devices.visible() or not failed)


STAGE = Stage(
    name="verify",
    version=1,
    reads=reads,
    settings=settings,
    make=make,
    about="Judge the stored rollouts of an iteration, for example with other rules: overrides "
    "`verify.seconds=10`, force on. Nothing is sampled again.",
)
