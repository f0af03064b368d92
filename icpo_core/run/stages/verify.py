"""Stage `verify`: a verdict on every rollout.

A part of it is made from a part of the rollouts and nothing else of them, so it can be there before
they all are: the engines sample one part while another is judged (`Chain`).
"""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.config import Config, plugin_sources, slice_of
from icpo_core.method import verdicts
from icpo_core.run import judging
from icpo_core.run.session import Session
from icpo_core.run.stages.base import Inputs, Made, Reader, Stage, folder_of, reporter
from icpo_core.run.timeline import Recorder
from icpo_core.store import manifest, tables
from icpo_core.store.manifest import Manifest
from icpo_core.store.tables import Written
from icpo_core.store.work import Work
from icpo_core.workers import devices

OWN = "verify."
"""Beginning of the inputs that are sources of one's own verifiers."""


def reads(reader: Reader) -> Inputs:
    return {"prompts": reader.content("prompts"), "rollouts": reader.content("rollout")}


def parts(reader: Reader) -> dict[str, Inputs]:
    prompts = reader.content("prompts")
    return {
        name: {"prompts": prompts, "rollouts": digest}
        for name, digest in reader.parts("rollout").items()
    }


def settings(config: Config) -> dict[str, Any]:
    return {"verify": slice_of(config.verify)}


def make(session: Session, work: Work) -> Made:
    """Judge every part of the rollouts; a part that is judged stays judged."""
    store, tools = session.run.store, session.tools(work.iteration)
    prompts = store.table("prompts", work.iteration, "prompts")
    found = store.manifest("rollout", work.iteration)
    assert found is not None
    parts_ = found.table("rollout")
    noted, folder = Recorder(), folder_of(session, work)
    sources = {key: value for key, value in work.inputs.items() if value and key.startswith(OWN)}
    if session.run.config.verify.pool:
        _judge_elsewhere(session, work, found)
    kept = set(store.parts(work))
    taken, judged, known = 0, [], {}
    for index, record in enumerate(parts_):
        path = folder / record.name
        done = session.ahead.take("verify", work.iteration, record.name, found.fingerprint)
        if path in kept:
            if done is not None and done.value is not None:
                known[path.name], taken = done.value, taken + 1
                noted.add("judges", f"{record.name} ahead", done.started, done.seconds)
            judged.append(tables.read("verdicts", path))
            continue
        with noted.span("judges", record.name):
            part = store.file("rollout", work.iteration, record.name)
            judges = tools.judges("verify", sources)
            say = reporter(session, work, index, len(parts_))
            table = verdicts.verdicts(prompts, tables.read("rollout", part), judges, say)
        limit = tools.config.verify.max_failure_rate
        verdicts.require_few_failures(table, limit, str(folder))
        known[path.name] = tables.write("verdicts", table, path, work.parts[record.name])
        judged.append(table)
    whole = pa.concat_tables(judged, promote_options="default")
    counts = pc.value_counts(whole["status"]).to_pylist()
    facts: dict[str, Any] = {f"status/{entry['values']}": entry["counts"] for entry in counts}
    facts |= {"rows": whole.num_rows, "failure_rate": verdicts.failure_rate(whole)}
    return Made(facts | {"parts_ahead": taken, "spans": noted.facts()}, known=known)


def _judge_elsewhere(session: Session, work: Work, rollouts: Manifest) -> None:
    """Have all parts that are missing judged at once, by other machines."""
    store, kept = session.run.store, {path.name for path in session.run.store.parts(work)}
    prompts = store.file("prompts", work.iteration, "prompts.parquet")
    chain = Chain(session, work.iteration, rollouts.fingerprint, work.inputs["prompts"], prompts)
    for record in rollouts.table("rollout"):
        if record.name not in kept:
            chain.follow(store.file("rollout", work.iteration, record.name))
    session.ahead.settle("verify", work.iteration)


class Chain:
    """Has parts of the rollouts judged in the background, as soon as they are written.

    The verdicts lie in the folder of `verify` before that stage is asked for. It keeps a part that
    is made from just what it would make it from, and makes the rest.
    """

    def __init__(
        self, session: Session, iteration: int, source: str, asked: str | None, prompts: Path
    ) -> None:
        """`source`: fingerprint of the rollouts; `asked`: digest of their prompts; `prompts`: those
        prompts' file."""
        self._session, self._iteration, self._prompts = session, iteration, prompts
        self._source, self._asked = source, asked
        self._config = session.tools(iteration).config
        self._sources = plugin_sources(self._config, "verify")
        self._judges = session.tools(iteration).judges("verify", self._sources)
        self._alone = threading.Lock()  # one part is in memory at a time

    def follow(self, part: Path, final: bool = False) -> None:
        """Judge a part of the rollouts. final: keep verdicts although some failed."""
        do = partial(self._judge, part, final)
        self._session.ahead.start("verify", self._iteration, part.name, self._source, do)

    def _judge(self, part: Path, final: bool) -> Written | None:
        """What was written; None if the verdicts are there already, or are left to the stage:
        engines on the CPU take its time from the judges, so what then failed is judged again."""
        store, run = self._session.run.store, self._session.run
        with self._alone:
            content = tables.content_digest("rollout", tables.read("rollout", part))
        inputs = {"prompts": self._asked, "rollouts": content, **self._sources}
        own = manifest.fingerprint(
            "verify", self._iteration, STAGE.version, inputs, settings(self._config), None
        )
        file = store.part("verify", self._iteration, part.name, own)
        if file is None:
            return None
        if run.config.verify.pool:
            out = self._session.logs / "judged" / run.paths.iteration(self._iteration).name
            job = judging.job(
                self._config.verify,
                self._sources,
                self._prompts,
                part,
                content,
                out / part.name,
                own,
            )
            if self._session.observer.judge(job) and (found := judging.take(job, file)):
                return found
        with self._alone:
            return self._judge_here(part, final, file, own)

    def _judge_here(self, part: Path, final: bool, file: Path, own: str) -> Written | None:
        rollouts = tables.read("rollout", part)
        table = verdicts.verdicts(tables.read("prompts", self._prompts), rollouts, self._judges)
        failed = verdicts.failure_rate(table)
        limit = self._config.verify.max_failure_rate
        if final:
            verdicts.require_few_failures(table, limit, str(part))
        elif failed > (limit if devices.visible() else 0.0):
            return None
        return tables.write("verdicts", table, file, own)

    def verdicts(self, part: Path) -> pa.Table:
        """On a part that was followed, waited for. What failed while engines were at work is given
        another try. Raises ValueError if too many failed."""
        file = self._session.run.paths.stage("verify", self._iteration) / part.name
        self._session.ahead.look("verify", self._iteration, part.name)
        if not file.is_file():
            self.follow(part, final=True)
            self._session.ahead.look("verify", self._iteration, part.name)
        return tables.read("verdicts", file)


STAGE = Stage(
    name="verify",
    version=1,
    reads=reads,
    settings=settings,
    make=make,
    parts=parts,
    about="Judge the stored rollouts of an iteration, for example with other rules: overrides "
    "`verify.seconds=10`, force on. Nothing is sampled again.",
)
