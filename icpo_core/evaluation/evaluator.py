"""Evaluations that stand beside runs: stored by what was asked of which model, and found again.

    evaluations/math500-3f2a91b0c4d5-77aa01b2c3d4/    benchmark, digest of what decides the samples,
                                                      digest of what decides the verdicts
        samples-math500-….parquet                     samples with verdicts, a part a shard
        avg8.json  avg8.manifest.json                 figures of an evaluation, and its record
        avg32.json avg32.manifest.json                one with more samples, on the same parts

The samples of a model on a benchmark are one growing collection. An evaluation with more samples or
problems than another adds what is missing; other grading rules judge the same samples again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icpo_core.common import files, plugins
from icpo_core.common.closing import Closing
from icpo_core.common.lock import RunLock
from icpo_core.evaluation.benchmarks import Benchmark
from icpo_core.evaluation.budgets import at_budget
from icpo_core.evaluation.protocol import Protocol
from icpo_core.evaluation.samples import Shelf, keys_of, order
from icpo_core.evaluation.scores import scores
from icpo_core.evaluation.target import Target
from icpo_core.grading.pool import Judges
from icpo_core.method.problems import read_problems
from icpo_core.models.folder import tokenizer_digest
from icpo_core.store import manifest, tables
from icpo_core.store.manifest import FileRecord, Manifest
from icpo_core.workers.jobs import Sample, Sampled
from icpo_core.workers.pool import Around, Engines
from icpo_core.workers.process import Say

STAGE = "evaluation"
VERSION = 1
"""Bumped by hand when the code makes other results of the same inputs."""
_DIGITS = 12

Progress = Callable[[str, int, int], None]
"""Told (what, done, all) while samples are made."""


@dataclass(frozen=True)
class Work:
    """One evaluation by all that its result depends on."""

    benchmark: str
    inputs: dict[str, str | None]
    """Digests of model, tokenizer, problems, gold answers and demonstrations."""
    asked: dict[str, Any]
    """The protocol's part that decides the samples."""
    graded: dict[str, Any]
    """The protocol's part that decides the verdicts."""
    samples: int
    limit: int | None
    seed: int

    @property
    def config(self) -> dict[str, Any]:
        counts = {"benchmark": self.benchmark, "samples": self.samples, "limit": self.limit}
        return {**self.asked, **self.graded, **counts}

    @property
    def fingerprint(self) -> str:
        return manifest.fingerprint(STAGE, 0, VERSION, self.inputs, self.config, self.seed)

    @property
    def sampling(self) -> str:
        """Digest of what decides a sample, but for its number."""
        names = ("model", "tokenizer", "problems", "demonstrations")
        inputs = {name: self.inputs[name] for name in names}
        return files.canonical_digest([VERSION, self.benchmark, inputs, self.asked])

    @property
    def mark(self) -> str:
        """Mark of the parts: what decides samples and verdicts."""
        source = [self.inputs["verifier"]] if "verifier" in self.inputs else []
        grading = files.canonical_digest([VERSION, self.inputs["golds"], self.graded, *source])
        return f"{self.sampling}-{grading}"

    @property
    def folder(self) -> str:
        sampling, _, grading = self.mark.partition("-")
        return f"{self.benchmark}-{sampling[:_DIGITS]}-{grading[:_DIGITS]}"

    @property
    def label(self) -> str:
        first = f"-first{self.limit}" if self.limit else ""
        return f"avg{self.samples}{first}"


@dataclass(frozen=True)
class Cost:
    """What an evaluation's samples cost."""

    tokens: int
    """Of all its samples."""
    made: int
    """Tokens that were sampled for it; the others were there."""
    seconds: float
    """That the engines took for these."""


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation."""

    target: str
    """Label of the model."""
    benchmark: str
    folder: Path
    manifest: Manifest
    figures: dict[str, Any]
    """As `scores.scores` gives them."""
    ids: list[str]
    """Problems asked."""
    made: int
    """Samples made now; 0: all were there."""

    @property
    def rewards(self) -> pa.Table:
        """Problem, number and reward of each of its samples."""
        return self.read("prompt_id", "sample_index", "reward")

    @property
    def cost(self) -> Cost:
        figures, facts = self.figures, self.manifest.facts
        total = round(figures["mean_tokens"] * figures["samples"])
        return Cost(total, int(facts["tokens"]), float(facts["sampling_seconds"]))

    def read(self, *columns: str) -> pa.Table:
        """Columns of its samples, among them `prompt_id` and `sample_index`, in no set order."""
        whole = pa.concat_tables(
            pq.read_table(self.folder / record.name, columns=list(columns), partitioning=None)
            for record in self.manifest.files
            if record.name.endswith(".parquet")
        )
        # Parts may hold more than was asked for here.
        own = pc.and_(
            pc.less(whole["sample_index"], self.manifest.config["samples"]),
            pc.is_in(whole["prompt_id"], value_set=pa.array(self.ids)),
        )
        return whole.filter(own)


class Evaluator(Closing):
    """Evaluates models under a protocol. A context manager: closing ends engine and judges.

    The engine is started when the first sample is missing, and reloads its weights from one model
    to the next where their architecture is the same.
    """

    def __init__(self, root: Path, protocol: Protocol, on_progress: Progress) -> None:
        """`root`: folder of all evaluations."""
        self.root, self.protocol = root, protocol
        self._on_progress = on_progress
        self._engines: Engines | None = None
        self._architecture = ""
        self._judges: dict[str, Judges] = {}

    def close(self) -> None:
        """End the engine and the judges."""
        if self._engines is not None:
            self._engines.close()
            self._engines = None
        for judges in self._judges.values():
            judges.close()
        self._judges.clear()

    def shares(self, protocol: Protocol) -> bool:
        """Whether engine and judges serve another protocol as well."""
        kept = {"engine", "process", "grading", "judging"}
        return protocol.model_dump(include=kept) == self.protocol.model_dump(include=kept)

    def follow(self, protocol: Protocol) -> None:
        """Go on under another protocol, on the same engine and judges."""
        assert self.shares(protocol)
        self.protocol = protocol

    def work(self, target: Target, benchmark: Benchmark) -> Work:
        """Name an evaluation. Raises ValueError if the demonstrations cannot be read."""
        protocol, name = self.protocol, benchmark.name
        pool = protocol.prompting.demonstrations if protocol.prompting.shots else None
        limit = protocol.limit(name)
        return Work(
            benchmark=name,
            inputs={
                "model": target.version,
                "tokenizer": tokenizer_digest(target.folder),
                "problems": benchmark.asked,
                "golds": benchmark.golds,
                "demonstrations": files.canonical_digest(read_problems(pool).to_pylist())
                if pool
                else None,
            }
            | self._source(benchmark),
            asked=protocol.asked(),
            graded=protocol.graded(),
            samples=protocol.samples(name),
            limit=None if limit is None or limit >= len(benchmark.problems) else limit,
            seed=protocol.sampling.seed,
        )

    def find(self, target: Target, benchmark: Benchmark) -> Evaluation | None:
        """The evaluation, if it is finished and its files are whole."""
        work = self.work(target, benchmark)
        folder = self.root / work.folder
        try:
            found = manifest.read(folder / f"{work.label}.manifest.json")
        except ValueError:  # damaged: the figures are worked out again, the samples are kept
            return None
        if found is None or found.fingerprint != work.fingerprint:
            return None
        for record in found.files:
            path = folder / record.name
            if not path.is_file() or path.stat().st_size != record.bytes:
                return None
        figures = files.read_json(folder / f"{work.label}.json")
        ids = _asked(benchmark, work)
        return Evaluation(target.label, work.benchmark, folder, found, figures, ids, 0)

    def evaluate(self, target: Target, benchmark: Benchmark) -> Evaluation:
        """The evaluation of a model on a benchmark: found again, or made as far as it is missing.

        Raises ValueError with one line for a user's mistake, WorkerError if the engine fails.
        """
        return self.find(target, benchmark) or self._make(target, benchmark)

    def at_budgets(
        self, target: Target, benchmark: Benchmark, done: Evaluation
    ) -> dict[int, dict[str, Any]]:
        """Figures of an evaluation's samples at each of the protocol's `sampling.budgets`, as
        `scores.scores` gives them; kept beside the samples once they are known."""
        budgets = sorted(set(self.protocol.sampling.budgets))
        known = files.canonical_digest([VERSION, done.manifest.fingerprint, budgets])
        path = done.folder / f"budgets-{known[:_DIGITS]}.json"
        if budgets and not path.is_file():
            asked, rows = self.questions(target, benchmark), benchmark.rows
            place = {key: at for at, key in enumerate(done.ids)}
            whole = done.read(*tables.TABLES["samples"].names)
            ordered = sorted(
                enumerate(keys_of(whole)), key=lambda one: (place[one[1][0]], one[1][1])
            )
            samples = whole.take([at for at, _ in ordered])
            found = {}
            for budget in budgets:
                judges = self.judges(benchmark)
                table = at_budget(samples, budget, target.tokenizer, asked, judges, rows)
                found[str(budget)] = scores(table, asked, benchmark.families)[benchmark.name]
            files.write_json(path, found)
        stored = files.read_json(path) if budgets else {}
        return {int(budget): figures for budget, figures in stored.items()}

    def engines(self, target: Target) -> Engines:
        """Engines that hold the target's weights, started if need be."""
        if self._engines is not None and self._architecture != target.architecture:
            self._engines.close()
            self._engines = None
        if self._engines is None:
            fleet, placed = self.protocol.fleet(), self.protocol.placed()
            self._engines = Engines(fleet, self.root / "logs", placed)
            self._architecture = target.architecture
        self._engines.load(target.folder, target.version, target.probe)
        return self._engines

    def _make(self, target: Target, benchmark: Benchmark) -> Evaluation:
        started, work = time.time(), self.work(target, benchmark)
        folder = self.root / work.folder
        lock = RunLock(folder / "lock.json")
        lock.acquire()
        try:
            wanted = order(self.protocol, benchmark, target.tokenizer, target.version)
            shelf = Shelf(folder, work.mark, wanted, self.judges(benchmark))

            def sampler(jobs: Sequence[Sample], say: Say, around: Around) -> list[Sampled]:
                return self.engines(target).sample_all(jobs, say, around)

            def say(done: int, all_: int) -> None:
                self._on_progress(f"{target.label} {benchmark.name}", done, all_)

            done = shelf.collect(sampler, say, self._siblings(work, folder))
            figures = scores(done.samples, wanted.questions, benchmark.families)[benchmark.name]
            path = files.write_json(folder / f"{work.label}.json", figures)
            if benchmark.private:
                shelf.forget_questions()
            made = Manifest(
                stage=STAGE,
                iteration=0,
                fingerprint=work.fingerprint,
                inputs=work.inputs,
                config=work.config,
                config_hash=files.canonical_digest(work.config),
                code_version=VERSION,
                seed=work.seed,
                policy_version=target.version,
                files=[_record(one) for one in [*shelf.files(), path]],
                parents={},
                facts={
                    "target": target.label,
                    "protocol": self.protocol.name,
                    "accuracy": figures["accuracy"],
                    "interval": figures["interval"],
                    "made": done.made,
                    "tokens": done.tokens,
                    "sampling_seconds": done.sampling_seconds,
                },
                git=manifest.git(),
                libraries=manifest.libraries(),
                prefect={},
                started=started,
                seconds=time.time() - started,
            )
            manifest.write(folder / f"{work.label}.manifest.json", made)
            ids = _asked(benchmark, work)
            return Evaluation(target.label, work.benchmark, folder, made, figures, ids, done.made)
        finally:
            lock.release()

    def judges(self, benchmark: Benchmark) -> Judges:
        """The judges for a benchmark's kind of answers."""
        if benchmark.kind not in self._judges:
            judging, choice = self.protocol.judging, benchmark.kind == "choice"
            self._judges[benchmark.kind] = Judges(
                judging.workers,
                judging.seconds,
                judging.memory_mb,
                self.protocol.rules(benchmark.kind),
                "math" if choice else judging.verifier,
                digest=self._source(benchmark).get("verifier"),
                right_from=judging.right_from,
                trusted=judging.trusted,
            )
        return self._judges[benchmark.kind]

    def _source(self, benchmark: Benchmark) -> dict[str, str | None]:
        """Digest of one's own verifier that judges; {} where it is built in."""
        judge = self.protocol.judging.verifier
        digest = None if benchmark.kind == "choice" else plugins.source_digest(judge)
        return {} if digest is None else {"verifier": digest}

    def questions(self, target: Target, benchmark: Benchmark) -> pa.Table:
        """Table `questions`: what the target is asked. Raises ValueError as `order` does."""
        return order(self.protocol, benchmark, target.tokenizer, target.version).questions

    def _siblings(self, work: Work, own: Path) -> Iterator[pa.Table]:
        """The same samples under other grading rules, without their verdicts."""
        prefix = f"{work.benchmark}-{work.sampling[:_DIGITS]}-"
        for folder in sorted(self.root.glob(f"{prefix}{'?' * _DIGITS}")):
            for path in sorted(folder.glob("samples-*.parquet")) if folder != own else []:
                if (tables.part_fingerprint(path) or "").startswith(work.sampling):
                    table = tables.read("samples", path)
                    yield table.select(tables.TABLES["generations"].names)


def stored(root: Path) -> list[tuple[Path, Manifest]]:
    """Every finished evaluation below `root`: the path of its figures and its record."""
    found = []
    for path in sorted(root.glob("*/*.manifest.json")):
        record = manifest.read(path)
        if record is not None and record.stage == STAGE:
            found.append((path.with_name(path.name.replace(".manifest.json", ".json")), record))
    return found


def _asked(benchmark: Benchmark, work: Work) -> list[str]:
    return [one.id for one in benchmark.problems[: work.limit]]


def _record(path: Path) -> FileRecord:
    rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    size = path.stat().st_size
    return FileRecord(name=path.name, bytes=size, sha256=files.sha256_file(path), rows=rows)
