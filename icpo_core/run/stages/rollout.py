"""Stage `rollout`: sample every group, one Parquet part a shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icpo_core.common.files import canonical_digest
from icpo_core.config import Config, slice_of
from icpo_core.method import pass_rates
from icpo_core.method.rounds import Round, Rounds
from icpo_core.method.rows import OUTLINED, outline
from icpo_core.models import tokens as model_tokens
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.run.stages import verify
from icpo_core.run.stages.base import (
    CURSOR,
    Inputs,
    Made,
    Reader,
    Stage,
    folder_of,
    load_policy,
    reporter,
)
from icpo_core.run.stages.prompts import carries
from icpo_core.run.timeline import Recorder
from icpo_core.store import tables
from icpo_core.store.paths import UNFINISHED, unfinished_of
from icpo_core.store.tables import SEGMENTS, Origin, Written
from icpo_core.store.work import Work
from icpo_core.workers.jobs import Rollout, Sampled

HISTORY = "history"
"""Input: of the verdicts of all earlier iterations (`rollout.steer_schedule = "pass_rate"`)."""
TAKES_PART = ("errs", "delta", "truncated")
"""Keys of `select` that say which rollouts take part, and which expert ones are accepted."""


def reads(reader: Reader) -> Inputs:
    before, goes_on = reader.iteration - 1, carries(reader.run, reader.iteration)
    return {
        "prompts": reader.content("prompts"),
        **({UNFINISHED: reader.table("rollout", UNFINISHED, before)} if goes_on else {}),
        "policy": reader.policy(reader.run.sampling_policy(reader.iteration)),
        **reader.run.model_settings,
        **({HISTORY: _history(reader)} if _by_pass_rate(reader.run.config) else {}),
    }


def _by_pass_rate(config: Config) -> bool:
    return config.rollout.steer_schedule == "pass_rate"


def _history(reader: Reader) -> str | None:
    """Of all verdicts before: that of the iteration before, with its own."""
    before = reader.iteration - 1
    if before == 0:
        return "0"
    older = reader.taken("rollout", before, HISTORY)
    return canonical_digest([older, reader.content("verify", before)])


@lru_cache(maxsize=4096)
def _passed(path: Path, _content: str) -> dict[str, float]:
    return pass_rates.of_iteration(tables.read("verdicts", path))


def _rates(run: Run, iteration: int) -> dict[str, float]:
    """Running pass rates by the stored verdicts of all iterations before."""
    found: list[dict[str, float]] = []
    for number in range(1, iteration):
        done = run.store.manifest("verify", number)
        assert done is not None
        merged: dict[str, float] = {}
        for record in done.files:
            path = run.store.file("verify", number, record.name)
            merged |= _passed(path, record.content or record.sha256)
        found.append(merged)
    return pass_rates.running(found)


def settings(config: Config) -> dict[str, Any]:
    part: dict[str, Any] = {"rollout": slice_of(config.rollout)}
    if config.in_rounds:  # what is sampled next hangs on verdicts, and on who takes part
        chosen = slice_of(config.select)
        part |= {"verify": slice_of(config.verify)}
        part |= {f"select.{key}": chosen[key] for key in TAKES_PART if key in chosen}
    if config.prompts.fill:
        part["prompts.batch_size"] = config.prompts.batch_size
    return part


def make(session: Session, work: Work) -> Made:
    """Sample every part that is not there yet, on an engine that is proven to hold the policy.

    Each part is judged ahead of `verify`, while the engines are at others or, off-policy, the
    trainer is at work. Where what is sampled next depends on verdicts, it comes in rounds.
    """
    sampling, config = _Sampling(session, work), session.tools(work.iteration).config
    rollout = config.rollout
    steers_all = rollout.steer_share == 1.0 and rollout.steer_schedule == "constant"
    if steers_all and not config.in_rounds:
        sampling.sample(None)
        return sampling.made()
    rates = _rates(session.run, work.iteration) if _by_pass_rate(config) else {}
    rounds = Rounds(config, tables.read("prompts", sampling.prompts), work.iteration, rates)
    one: Round | None = rounds.first()
    while one is not None:
        sampling.sample(one)
        one = rounds.following(*sampling.judged()) if config.in_rounds else None
    facts = rounds.facts()
    if config.prompts.fill:
        facts[CURSOR] = sampling.cursor + rounds.batches
    return sampling.made(facts)


class _Sampling:
    """The parts of an iteration, round by round."""

    def __init__(self, session: Session, work: Work) -> None:
        self.session, self.work = session, work
        self.run, self.tools = session.run.at(work.iteration), session.tools(work.iteration)
        self.config = self.tools.config
        self.prompts = self.run.store.file("prompts", work.iteration, "prompts.parquet")
        self.sampled_from = session.run.sampling_policy(work.iteration)
        self.version = session.run.policy(self.sampled_from).version
        there = {path.name for path in self.run.store.parts(work)}
        partial_tokens = self.config.rollout.partial_tokens
        # A part is there if what goes on of it is, too.
        self.kept = {
            path
            for path in self.run.store.parts(work)
            if path.name.startswith("part")
            and (not partial_tokens or unfinished_of(path).name in there)
        }
        self.wanted = list[Path]()
        self.begun = list[Path]()
        if carries(self.run, work.iteration):
            self.begun = self.run.store.table_files("rollout", work.iteration - 1, UNFINISHED)
        self._seen: list[tuple[pa.Table, pa.Table]] = []  # of `wanted`, in its order
        self.asked = self.steered = 0
        self.known: dict[str, Written] = {}
        self.replies: list[Sampled] = []
        self.noted = Recorder()
        self.facts: dict[str, Any] = {
            "kept_parts": len(self.kept),
            "off_policy_steps": work.iteration - 1 - self.sampled_from,
        }
        self.loaded = False
        rollout = self.config.rollout
        alongside = rollout.shards > 1 or rollout.off_policy_steps > 0 or self.config.in_rounds
        self.chain = None
        if alongside:
            asked = work.inputs["prompts"]
            self.chain = verify.Chain(
                session, work.iteration, work.fingerprint, asked, self.prompts
            )

    @property
    def cursor(self) -> int:
        """Batches of problems that earlier iterations took."""
        found = self.run.store.manifest("prompts", self.work.iteration)
        assert found is not None
        return int(found.inputs.get(CURSOR) or 0)

    def sample(self, one: Round | None) -> None:
        """The parts of a round; of all groups, each with expert rollouts, where there is none."""
        work, rollout, shards = self.work, self.config.rollout, self.config.rollout.shards
        if one is not None and one.number:
            shards = min(shards, len(one.groups))
        number = one.number if one else 0
        wanted = [
            self.run.paths.part("rollout", work.iteration, index, shards, number)
            for index in range(shards)
        ]
        self.wanted += wanted
        if one is not None:
            self._drop_foreign(one, wanted)
        all_ = int(pq.read_metadata(self.prompts).num_rows)
        self.steered += all_ if one is None else len(one.steered)
        if one is None:
            self.asked += all_
        elif one.first == 0:
            self.asked += len(one.groups)
        jobs = [
            Rollout(
                prompts=self.prompts,
                shard=index,
                shards=shards,
                on_policy=one.on_policy if one else rollout.on_policy,
                expert=rollout.expert,
                expert_source=rollout.expert_source,
                groups=one.groups if one else None,
                steered=one.steered if one else None,
                attempt=one.attempt if one else 0,
                first=one.first if one else 0,
                round=number if self.config.in_rounds else None,
                temperature=rollout.temperature,
                max_tokens=rollout.max_tokens,
                partial_tokens=rollout.partial_tokens,
                begun=self.begun,
                policy=self.sampled_from,
                seed=self.config.run.seed,
                seeding=rollout.seeding,
                iteration=work.iteration,
                policy_version=self.version,
                out=path,
                fingerprint=work.fingerprint,
            )
            for index, path in enumerate(wanted)
            if path not in self.kept
        ]
        if jobs and not self.loaded:
            self.facts |= load_policy(self.session, self.noted, work.iteration, self.sampled_from)
            self.loaded = True
        if self.chain is not None and (jobs or self.config.in_rounds):
            for path in sorted(self.kept & set(wanted)):
                self.chain.follow(path)
        if not jobs:
            return
        timed = self.noted.parts(self._around(), _name_of)
        say = reporter(self.session, work, 0, 1)
        replies = self.tools.workers.sample_all(jobs, say, timed)
        self.replies += replies
        for job, reply in zip(jobs, replies, strict=True):
            self.known[job.out.name] = Written(reply.sha256, reply.rows, reply.content)

    def _drop_foreign(self, one: Round, wanted: list[Path]) -> None:
        """Remove kept parts that are not of this round: a judge that failed in one of two attempts
        makes other rounds."""
        names = tables.read("prompts", self.prompts)["prompt_id"].combine_chunks().take(one.groups)
        for path in self.kept & set(wanted):
            columns = ["prompt_id", "sample_index"]
            part = pq.read_table(path, columns=columns, partitioning=None)
            mine = pc.all(pc.is_in(part["prompt_id"], value_set=names)).as_py() is not False
            first = pc.min(part["sample_index"]).as_py()
            if not mine or (first is not None and first < one.first):
                path.unlink()
                self.kept.remove(path)

    def _around(self) -> Callable[[Rollout, Callable[[], Sampled]], Sampled]:
        context = copy_context()  # an engine's thread has none of its own

        def around(job: Rollout, do: Callable[[], Sampled]) -> Sampled:
            reply = context.copy().run(self.session.observer.part, job, do)
            if self.chain is not None:
                self.chain.follow(job.out)
            return reply

        return around

    @property
    def files(self) -> list[Path]:
        """All parts so far, with what goes on beside them."""
        goes_on = self.config.rollout.partial_tokens > 0
        return self.wanted + [unfinished_of(path) for path in self.wanted if goes_on]

    def judged(self) -> tuple[pa.Table, pa.Table]:
        """Outlines of all rollouts so far, and the verdicts on them."""
        assert self.chain is not None
        for path in self.wanted[len(self._seen) :]:  # each is read once, without what it says
            part = outline(tables.read("rollout", path, OUTLINED))
            self._seen.append((part, self.chain.verdicts(path)))
        outlines, verdicts = zip(*self._seen, strict=True)
        join = partial(pa.concat_tables, promote_options="default")
        return join(outlines), join(verdicts)

    def _count_traces(self) -> None:
        """Say, once a session, that solutions of the data set are too long to stand whole."""
        parts = [pq.read_table(path, columns=["origin"], partitioning=None) for path in self.files]
        there = sum(table["origin"].to_pylist().count(Origin.TRACE) for table in parts)
        lost = self.steered - there
        if lost:
            self.facts["lost_traces"] = lost
        if lost and not self.session.said_short:
            self.session.said_short = True
            self.session.observer.short(
                f"{lost} of {self.steered} traces are longer than rollout.max_tokens = "
                f"{self.config.rollout.max_tokens} and left out: raise that, or take other problems"
            )

    def made(self, facts: Mapping[str, Any] | None = None) -> Made:
        folder = folder_of(self.session, self.work)
        assert all(path.parent == folder for path in self.wanted)
        for path in self.kept - set(self.wanted):  # of a round that an earlier attempt came to
            path.unlink()
            self.kept.remove(path)
        if self.config.rollout.partial_tokens:
            facts = {**(facts or {}), **going_on(self.wanted, self.work.iteration)}
        sampled = sum(reply.tokens for reply in self.replies)
        if self.config.rollout.endpoints and (missing := self.asked - groups_in(self.files)):
            self.facts["lost_prompts"] = missing
        if absent := _absent(self.run.base_model):
            self.facts["ids_without_token"] = sum(without_token(p, absent) for p in self.wanted)
        if self.config.rollout.expert and self.config.rollout.expert_source == "traces":
            self._count_traces()
        return Made(
            {
                **self.facts,
                **(facts or {}),
                "tokens": sampled + sum(_tokens(path, self.work.iteration) for path in self.kept),
                "sampled_tokens": sampled,
                "sampling_seconds": sum(reply.sampling_seconds for reply in self.replies),
                "spans": self.noted.facts(),
            },
            self.version,
            self.known,
        )


def _name_of(job: Rollout) -> str:
    return f"part {job.shard}" + (f" of round {job.round}" if job.round else "")


def groups_in(parts: list[Path]) -> int:
    """How many prompts have rollouts: a server may fail at some again and again."""
    ids = [pq.read_table(path, columns=["prompt_id"], partitioning=None) for path in parts]
    return len({one for table in ids for one in table["prompt_id"].unique().to_pylist()})


def _tokens(part: Path, iteration: int) -> int:
    """Tokens that an iteration has sampled of a part, with what goes on of it."""
    if SEGMENTS in pq.read_schema(part).names:
        both = _sampled_by(part), _sampled_by(unfinished_of(part))
        return sum(one.get(iteration, 0) for one in both)
    responses = pq.read_table(part, columns=["response_ids"], partitioning=None)["response_ids"]
    return pc.sum(pc.list_value_length(responses)).as_py() or 0


def _sampled_by(part: Path) -> dict[int, int]:
    """Tokens of a part of partial rollouts, by the iteration that sampled them."""
    column = pq.read_table(part, columns=[SEGMENTS], partitioning=None)[SEGMENTS]
    found: dict[int, int] = {}
    for one in pc.list_flatten(column).to_pylist():
        found[one["iteration"]] = found.get(one["iteration"], 0) + one["tokens"]
    return found


def going_on(parts: Sequence[Path], iteration: int) -> dict[str, float]:
    """Facts of partial rollouts: groups that go on in the next iteration, and the share of the
    tokens of those that have ended which earlier iterations sampled."""
    by: dict[int, int] = {}
    for part in parts:
        for number, tokens in _sampled_by(part).items():
            by[number] = by.get(number, 0) + tokens
    whole, now = sum(by.values()), by.get(iteration, 0)
    open_ = groups_in([unfinished_of(part) for part in parts])
    return {"unfinished": open_, "carried_tokens": (whole - now) / whole if whole else 0.0}


@cache
def _absent(model: Path) -> tuple[tuple[int, int], ...]:
    return model_tokens.read(model).unknown


def without_token(part: Path, absent: Sequence[tuple[int, int]]) -> int:
    """Sampled ids of a part that no token has, by `Tokens.unknown`: of an engine that masks them,
    none; one's own may not."""
    table = pq.read_table(part, columns=["response_ids"], partitioning=None)
    ids = pc.list_flatten(table["response_ids"])
    inside = (pc.and_(pc.greater_equal(ids, a), pc.less(ids, b)) for a, b in absent)
    return sum(pc.sum(one).as_py() or 0 for one in inside)


STAGE = Stage(
    name="rollout",
    version=1,
    reads=reads,
    settings=settings,
    make=make,
    samples=True,
    draws=True,
    weights=lambda run, iteration: run.sampling_policy(iteration),
    about="Sample the groups of an iteration, from the weights that its prompts met. Starts an "
    "engine for it and ends it; parts that are whole are kept.",
)
