"""Samples of a benchmark that gather in a folder: what is there is kept, the rest is made.

A sample is known by benchmark, problem and number. What is missing is sampled shard by shard; a
shard is first a part of table `generations`, written by an engine, and then, with verdicts, of
table `samples`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.evaluation.benchmarks import Benchmark
from icpo_core.evaluation.protocol import Protocol
from icpo_core.evaluation.questions import questions
from icpo_core.evaluation.registry import Kind
from icpo_core.grading.grade import GradingRules, Question, VerdictStatus
from icpo_core.grading.pool import Judges
from icpo_core.grading.rewards import Judging
from icpo_core.method.problems import read_problems
from icpo_core.store import tables
from icpo_core.workers.jobs import Sample, Sampled
from icpo_core.workers.pool import Around
from icpo_core.workers.process import Say

LABEL = "?" * 12
"""Pattern of what stands behind a benchmark's name in the name of a part."""
Key = tuple[str, int]
"""A sample of a benchmark: problem's id and number of the sample."""
Sampler = Callable[[Sequence[Sample], Say, Around], list[Sampled]]
"""Has engines, which hold the policy, do jobs, as `Workers.sample_all` does."""


@dataclass(frozen=True)
class Order:
    """Samples wanted of one benchmark."""

    questions: pa.Table
    """Table `questions`."""
    samples: int
    """Samples a problem."""
    limit: int | None
    """Only the first so many problems."""
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    policy_version: str
    shard: int = 2048
    """Samples a shard: what is lost when the engine dies."""
    kind: Kind = "math"
    engines: int = 1
    top_k: int = 0
    rows: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """What verifiers of one's own are told of each problem, by its id."""

    @property
    def benchmark(self) -> str:
        return str(self.questions["benchmark"][0].as_py())

    def shard_size(self, samples: int) -> int:
        """Samples a shard of so many: among several engines, two shards each at least."""
        if self.engines == 1:
            return self.shard
        return max(1, min(self.shard, -(-samples // (2 * self.engines))))

    def keys(self) -> list[Key]:
        """All wanted samples: problem by problem, and a problem's samples in order."""
        ids = self.questions["prompt_id"].to_pylist()[: self.limit]
        return [(prompt_id, index) for prompt_id in ids for index in range(self.samples)]


def order(protocol: Protocol, benchmark: Benchmark, tokenizer: Any, policy_version: str) -> Order:
    """What a protocol wants of a benchmark.

    Raises ValueError with one line for a benchmark that cannot be asked, or demonstrations that
    cannot be read.
    """
    sampling, process = protocol.sampling, protocol.process
    pool = protocol.prompting.demonstrations if protocol.prompting.shots else None
    limit = protocol.limit(benchmark.name)
    return Order(
        questions=questions(
            benchmark,
            tokenizer,
            protocol.prompts(benchmark.kind),
            read_problems(pool) if pool else None,
            sampling.seed,
        ),
        samples=protocol.samples(benchmark.name),
        limit=None if limit is None or limit >= len(benchmark.problems) else limit,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        policy_version=policy_version,
        shard=process.shard,
        kind=benchmark.kind,
        engines=max(1, process.engines, len(process.endpoints)),
        rows=benchmark.rows,
    )


@dataclass
class Collected:
    """The wanted samples, in the order of `Order.keys`, and what it took."""

    samples: pa.Table
    """Table `samples`."""
    made: int = 0
    """How many were sampled now; the others were there."""
    tokens: int = 0
    sampling_seconds: float = 0.0


class Shelf:
    """A folder in which samples of one benchmark gather.

    fingerprint: marks the parts of just this work; others are not looked at.
    """

    def __init__(self, folder: Path, fingerprint: str, order: Order, judges: Judging) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._order, self._judges = order, judges

    def collect(
        self,
        sampler: Sampler,
        on_progress: Say,
        elsewhere: Iterable[pa.Table] = (),
    ) -> Collected:
        """All wanted samples: those that are here, and the rest made.

        sampler: is called only if something is missing. elsewhere: tables with the columns of
        `generations` whose samples are as good as new and only lack verdicts. on_progress: told
        (samples there, all).
        """
        keys = self._order.keys()
        parts = [part for _, part in self._whole("samples")]
        held = {key for part in parts for key in keys_of(part)}

        def add(part: pa.Table) -> None:
            parts.append(part)
            held.update(keys_of(part))

        for path, part in self._whole("generations"):
            add(self._judge(part, path))
        wanted = set(keys)
        for table in elsewhere:
            found = enumerate(keys_of(table))
            fresh = [at for at, key in found if key in wanted and key not in held]
            if fresh:
                add(self._judge(table.take(fresh), None))
        done = Collected(pa.table({}))
        missing = [key for key in keys if key not in held]
        if missing:
            for part in self._make(missing, len(keys), sampler, on_progress, done):
                add(part)
        whole = pa.concat_tables(parts)
        place = {key: at for at, key in enumerate(keys_of(whole))}
        order = [place[key] for key in keys]
        in_order = order == list(range(whole.num_rows))
        done.samples = whole if in_order else whole.take(order)
        return done

    def files(self) -> list[Path]:
        """The parts that hold samples, by name."""
        return self._parts("samples")

    def clear(self) -> None:
        """Remove everything of this benchmark, once its samples stand elsewhere."""
        self.forget_questions()
        for path in self._parts("samples"):
            path.unlink()

    def forget_questions(self) -> None:
        """Remove the prompts' texts."""
        self._questions.unlink(missing_ok=True)

    @property
    def _questions(self) -> Path:
        return self._folder / f"questions-{self._order.benchmark}.parquet"

    def _make(
        self,
        missing: list[Key],
        total: int,
        sampler: Sampler,
        on_progress: Say,
        done: Collected,
    ) -> list[pa.Table]:
        """Sample what is missing. A shard is judged while the engines are at others."""
        order, ids = self._order, self._order.questions["prompt_id"].to_pylist()
        tables.write("questions", order.questions, self._questions, self._fingerprint)
        place = {prompt_id: at for at, prompt_id in enumerate(ids)}
        size = order.shard_size(len(missing))
        jobs = []
        for first in range(0, len(missing), size):
            shard = missing[first : first + size]
            jobs.append(
                Sample(
                    questions=self._questions,
                    keys=[(place[prompt_id], index) for prompt_id, index in shard],
                    temperature=order.temperature,
                    top_p=order.top_p,
                    top_k=order.top_k,
                    max_tokens=order.max_tokens,
                    seed=order.seed,
                    policy_version=order.policy_version,
                    out=self._path("generations", shard),
                    fingerprint=self._fingerprint,
                )
            )

        def say(part: int, all_: int) -> None:
            on_progress(total - len(missing) + round(len(missing) * part / max(1, all_)), total)

        with ThreadPoolExecutor(1, "judge") as background:
            judged: list[Future[pa.Table]] = []

            def around(job: Sample, do: Callable[[], Sampled]) -> Sampled:
                reply = do()
                judged.append(background.submit(self._judge_part, job.out))
                return reply

            for reply in sampler(jobs, say, around):
                done.tokens += reply.tokens
                done.sampling_seconds += reply.sampling_seconds
        done.made = len(missing)
        on_progress(total, total)
        return [one.result() for one in judged]

    def _judge_part(self, path: Path) -> pa.Table:
        return self._judge(tables.read("generations", path), path)

    def _judge(self, generations: pa.Table, source: Path | None) -> pa.Table:
        """Give verdicts and put the part on the shelf, in the place of its generations."""
        order = self._order
        table = judge_samples(generations, order.questions, self._judges, order.rows)
        path = self._path("samples", keys_of(table))
        tables.write("samples", table, path, self._fingerprint)
        if source is not None:
            source.unlink()
        return table

    def _whole(self, table: str) -> Iterator[tuple[Path, pa.Table]]:
        """Parts that can be read; what is in a damaged one is made again."""
        for path in self._parts(table):
            try:
                part = tables.read(table, path)
            except ValueError:
                continue
            yield path, part

    def _path(self, table: str, keys: Sequence[Key]) -> Path:
        text = "\n".join(f"{prompt_id}\x1f{index}" for prompt_id, index in keys)
        label = hashlib.sha256(text.encode()).hexdigest()[: len(LABEL)]
        return self._folder / f"{table}-{self._order.benchmark}-{label}.parquet"

    def _parts(self, table: str) -> list[Path]:
        return [
            path
            for path in sorted(
                self._folder.glob(f"{table}-{self._order.benchmark}-{LABEL}.parquet")
            )
            if tables.part_fingerprint(path) == self._fingerprint
        ]


def keys_of(table: pa.Table) -> list[Key]:
    """The keys of a table of samples or generations, in its order."""
    ids, indices = table["prompt_id"].to_pylist(), table["sample_index"].to_pylist()
    return list(zip(ids, indices, strict=True))


def judge_samples(
    generations: pa.Table,
    questions: pa.Table,
    judges: Judging,
    rows: Mapping[str, Mapping[str, Any]],
) -> pa.Table:
    """Table `samples`: generations of one benchmark with their verdicts; the reward is 1 for what
    is right and else 0. `rows`: as `Order` has them."""
    gold = dict(zip(questions["prompt_id"].to_pylist(), questions["gold"].to_pylist(), strict=True))
    asked = [
        Question(
            gold[prompt_id],
            response,
            finish == "length",
            {**rows.get(prompt_id, {}), "tokens": tokens},
        )
        for prompt_id, response, finish, tokens in zip(
            generations["prompt_id"].to_pylist(),
            generations["response"].to_pylist(),
            generations["finish_reason"].to_pylist(),
            pc.list_value_length(generations["response_ids"]).to_pylist(),
            strict=True,
        )
    ]
    found, right = judges.judge(asked), VerdictStatus.correct
    columns = {name: generations[name] for name in tables.TABLES["generations"].names}
    columns |= {
        "reward": pa.array([float(one.status is right) for one in found], pa.float32()),
        "status": pa.array([one.status.value for one in found]),
        "extracted": pa.array([one.extracted for one in found], pa.string()),
        "gold": pa.array([one.gold for one in asked]),
        "seconds": pa.array([one.seconds for one in found], pa.float32()),
    }
    return pa.table(columns, schema=tables.TABLES["samples"])


def letter_judges(rules: GradingRules) -> Judges:
    """Judges of a multiple choice. The text decides all of it, so no process is ever started."""
    return Judges(1, 1.0, 256, rules.model_copy(update={"extraction": "choice"}))
