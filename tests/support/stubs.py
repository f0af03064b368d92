"""A stand-in for vLLM and DeepSpeed: deterministic, in this process, in milliseconds.

It does what the real ones promise the store. The engine samples each request by its own seed and
the weights it holds, through the real `icpo_core.engine.jobs.handlers`. The trainer names its
state, replays stored batches to come back to one, takes an Adam step on eight weights, publishes
and saves them. Both write down in a ledger what they do, so that a test can say that nothing was
done twice.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from places import ROOT, SMALL
from safetensors.numpy import load_file, save_file

from icpo_core.common.files import link_or_copy, model_digest, read_json, write_json
from icpo_core.config import Config, load
from icpo_core.engine.jobs import handlers
from icpo_core.engine.kinds.base import Completion, Request
from icpo_core.run import loop
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Observer, Session
from icpo_core.run.stages import STAGES
from icpo_core.store import batch, tables
from icpo_core.store.work import Outcome
from icpo_core.workers.jobs import (
    Job,
    Load,
    Loaded,
    R,
    Restore,
    Sampled,
    Save,
    Saved,
    Taught,
    Teach,
    Update,
    Updated,
)
from icpo_core.workers.pool import Around, unframed
from icpo_core.workers.process import Handlers
from icpo_core.workers.process import Say as Progress

WIDTH = 8
Say = Callable[[str], None]


class StubEngine:
    """Answers `\\boxed{digit}`, right half the time, by the request's seed and the weights."""

    def __init__(self, model: Path, tokenizer: Any, ledger: Say, hook: Say) -> None:
        self.tokenizer, self.ledger, self.hook = tokenizer, ledger, hook
        self.eos_ids = [tokenizer.eos_token_id]
        self.policy_version, self.drift = model_digest(model), _drift(model)

    def load(self, model: Path, policy_version: str) -> float:
        if model_digest(model) != policy_version:
            raise ValueError(f"{model}: holds other weights; make the update again")
        self.policy_version, self.drift = policy_version, _drift(model)
        return 0.0

    def compare(self, model: Path) -> None:
        return None

    def prove(self, probe: Path, limit: float | None) -> float:
        tables.read("probe", probe)
        return 0.0

    def sample(
        self,
        requests: Sequence[Request],
        temperature: float,
        max_tokens: int,
        top_p: float = 1.0,
        on_progress: Progress | None = None,
    ) -> list[Completion]:
        samples = []
        for number, request in enumerate(requests):
            self.ledger(f"sample {request.seed} {self.policy_version}")
            draw = np.random.default_rng([request.seed, len(request.prompt_ids), self.drift])
            prompt = self.tokenizer.decode(request.prompt_ids)
            answer = _solve(prompt.rpartition("Q:")[2].partition("\n")[0])
            text = f"\\boxed{{{answer if draw.random() < 0.5 else draw.integers(10)}}}"
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] + self.eos_ids
            reason = "stop"
            if len(ids) > max_tokens:  # a partial rollout: the end of it, or it goes on
                reason = "stop" if draw.random() < 0.7 else "length"
                ids = ids[-max_tokens:] if reason == "stop" else ids[:max_tokens]
            samples.append(Completion(ids, draw.uniform(-1, 0, len(ids)).tolist(), reason))
            if on_progress:
                on_progress(number + 1, len(requests))
            self.hook("sampled")
        return samples

    def sleep(self) -> None:
        raise AssertionError("the stand-ins share no device")

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        raise AssertionError("nobody asks the stand-in")


class StubTrainer:
    """Adam on eight weights; the gradient is a function of the batch."""

    def __init__(self, base: Path, settings: dict[str, Any], ledger: Say, hook: Say) -> None:
        self.base, self.settings, self.ledger, self.hook = base, settings, ledger, hook
        self._build()

    def _build(self) -> None:
        self.weights, self.moments, self.steps = np.zeros(WIDTH), np.zeros((2, WIDTH)), 0
        self.state_id = model_digest(self.base)

    def _restore(self, parent: str, restore: Restore) -> list[int]:
        if self.state_id == parent:
            return []
        self._build()
        if restore.folder is not None:
            state = load_file(restore.folder / "deepspeed" / "state.safetensors")
            self.weights, self.moments = state["weights"], state["moments"]
            self.steps = int(state["steps"][0])
        for step in restore.replay:
            self.ledger(f"replay {step.iteration}")
            self._step(step.batch, step.teacher, step.tuning)
        self.state_id = parent
        return [step.iteration for step in restore.replay]

    def _step(
        self, parts: Sequence[Path], teacher: Sequence[Path] = (), tuning: Path | None = None
    ) -> float:
        table = batch.read(parts)
        rows = table.take(batch.order(table)).to_pylist()
        gradient = np.zeros(WIDTH)
        for path in teacher:
            for said in tables.read("teacher", path)["logprobs"].to_pylist():
                gradient[len(said) % WIDTH] += self.settings["distill"]["coefficient"] * sum(said)
        for row in rows:
            place = sum(row["response_ids"]) % WIDTH
            gradient[place] -= row["advantage"] * self.settings["expert_lambda"]
        if tuning is not None:
            for row in tables.read("tuning", tuning).to_pylist():
                gradient[sum(row["response_ids"]) % WIDTH] -= 1.0
        self.steps += 1
        self.moments[0] = 0.9 * self.moments[0] + 0.1 * gradient
        self.moments[1] = 0.99 * self.moments[1] + 0.01 * gradient**2
        self.hook("mid step")
        self.weights -= (
            self.settings["learning_rate"]
            * self.moments[0]
            / (1 - 0.9**self.steps)
            / (np.sqrt(self.moments[1] / (1 - 0.99**self.steps)) + 1e-8)
        )
        return float(np.abs(gradient).sum())

    def update(self, job: Update) -> Updated:
        replayed = self._restore(job.parent, job.restore)
        self.state_id = ""
        self.ledger(f"step {job.iteration}")
        norm = self._step(job.batch, job.teacher, job.tuning)
        self.state_id = job.state_id
        self.hook("stepped")
        out = job.out / "model"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        save_file({"weights": self.weights}, out / "model.safetensors")
        self.hook("weights written")
        write_json(out / "config.json", {"width": WIDTH, "steps": self.steps}, durable=False)
        link_or_copy(self.base / "tokenizer.json", out / "tokenizer.json")
        probe = tables.table("probe", [{"token_ids": [1, 2], "logprobs": [-0.5]}])
        tables.write("probe", probe, out / "probe.parquet")
        return Updated(
            metrics={"grad_norm": norm, "optimizer_steps": 1.0, "kl": float("nan")},
            policy_version=model_digest(out),
            replayed=replayed,
            timing={},
        )

    def teach(self, job: Teach) -> Taught:
        """By the weights that teach, the lesson and the response."""
        replayed, weights = [], np.zeros(WIDTH)
        if job.parent is not None:
            replayed, weights = self._restore(job.parent, job.restore), self.weights
        lessons = tables.read("lessons", job.lessons).to_pylist()
        shown = {row["prompt_id"]: sum(row["prompt_ids"]) for row in lessons}
        made = []
        for row in tables.read("rollout", job.rollouts).to_pylist():
            if row["origin"] == "on_policy" and row["prompt_id"] in shown:
                self.ledger(f"teach {row['prompt_id']} {row['sample_index']} {job.parent}")
                near = [float(weights[(shown[row["prompt_id"]] + i) % WIDTH]) - 0.01 * (i % 7)
                        for i in row["response_ids"]]  # fmt: skip
                keys = {key: row[key] for key in ("prompt_id", "sample_index", "origin")}
                made.append({**keys, "logprobs": near, "top_ids": [], "top_logprobs": []})
                self.hook("taught")
        table = tables.table("teacher", made)
        found = tables.write("teacher", table, job.out, job.fingerprint)
        assert found.content is not None
        return Taught(rows=len(made), sha256=found.sha256, content=found.content, replayed=replayed)

    def save(self, job: Save) -> Saved:
        self._restore(job.state_id, job.restore)
        out = job.out
        (out / "deepspeed").mkdir(parents=True)
        state = {"weights": self.weights, "moments": self.moments}
        state["steps"] = np.array([self.steps])
        save_file(state, out / "deepspeed" / "state.safetensors")
        self.hook("state written")
        write_json(out / "state.json", {"state_id": self.state_id, "ranks": 1}, durable=False)
        return Saved()


class StubWorkers:
    """In the place of `icpo_core.workers.pool.WorkerPool`."""

    def __init__(self, config: Config, model: Path, ledger: Say, hook: Say) -> None:
        from transformers import AutoTokenizer

        self._config, self._model, self._ledger, self._hook = config, model, ledger, hook
        self._tokenizer = AutoTokenizer.from_pretrained(SMALL / "base")
        self._engine: Handlers | None = None
        self._trainer: StubTrainer | None = None

    def start_engine(self, policy: Path) -> None:
        if self._engine is None:
            engine = StubEngine(policy, self._tokenizer, self._ledger, self._hook)
            self._engine = handlers(engine, self._tokenizer)

    def start_trainer(self) -> None:
        if self._trainer is None:
            settings = self._config.update.model_dump() | self._config.loss.model_dump()
            self._trainer = StubTrainer(self._model, settings, self._ledger, self._hook)

    def load(self, policy: Path, policy_version: str, proof: Path | None) -> Loaded:
        self.start_engine(policy)
        job = Load(model=policy, policy_version=policy_version, proof=proof, max_logprob_gap=None)
        return self._do(job, lambda done, all_: None)

    def sample_all(
        self, jobs: Sequence[Job[Sampled]], on_progress: Progress, around: Around = unframed
    ) -> list[Sampled]:
        return [around(job, partial(self._do, job, on_progress)) for job in jobs]

    def _do(self, job: Job[R], say: Progress) -> R:
        assert self._engine is not None
        return wired(self._engine[type(job)](wired(job), say))

    def train(self, job: Job[R]) -> R:
        self.start_trainer()
        assert self._trainer is not None
        do: dict[type[Job[Any]], Callable[[Any], Any]] = {
            Update: self._trainer.update, Save: self._trainer.save, Teach: self._trainer.teach
        }  # fmt: skip
        made: R = do[type(job)](wired(job))
        return made

    def close(self) -> None:
        self._engine = self._trainer = None

    @property
    def running(self) -> bool:
        return self._engine is not None or self._trainer is not None


def wired(message: Any) -> Any:
    """A job or reply after its way to another process and back."""
    return type(message).model_validate_json(json.dumps(message.wire()))


def _solve(problem: str) -> int:
    """Left to right, last digit only."""
    value = int(problem[0])
    for sign, digit in zip(problem[1::2], problem[2::2], strict=True):
        number = int(digit)
        value = {"+": value + number, "-": value - number, "*": value * number}[sign] % 10
    return value


def _drift(model: Path) -> int:
    """What of the weights the samples depend on: every bit of them."""
    return int(model_digest(model)[:12], 16)


CHANGES = [
    "run.iterations=3", "prompts.batch_size=4", "rollout.on_policy=3", "rollout.expert=1",
    "rollout.shards=2", "evaluate.every=2", "checkpoint.state_every=2", "checkpoint.keep_last=1",
    "checkpoint.keep_every=0", "run.trackers=[]",
]  # fmt: skip


def problem_sets(folder: Path) -> list[str]:
    """Small parts of the shipped problem sets in `folder`; the overrides that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    changes = []
    for key, name, rows in (
        ("prompts.problems", "train", 30),
        ("prompts.demonstrations", "demonstrations", 12),
        ("heldout", "heldout", 6),
    ):
        path = folder / f"{name}.parquet"
        if not path.is_file():
            tables.write(
                "problems", tables.read("problems", SMALL / f"{name}.parquet")[:rows], path
            )
        if key == "heldout":
            changes.append(f'evaluate.benchmarks=[{{name="heldout", problems="{path}"}}]')
            changes.append(f'prompts.exclude=["{path}"]')
        else:
            changes.append(f"{key}={path}")
    return changes


def configuration(folder: Path, name: str = "run", *changes: str) -> Config:
    """The demo, made small, for a run below `folder`."""
    small = [*CHANGES, *problem_sets(folder / "data"), f"run.directory={folder / 'runs'}"]
    return load(ROOT / "configs" / "demo.toml", [*small, *changes], name)


@contextmanager
def stubbed(
    run: Run,
    ledger: Path | None = None,
    hook: Say = lambda mark: None,
    observer: Observer | None = None,
) -> Iterator[Session]:
    """The run, open, with stand-ins for its workers. `hook` is called at marks within a stage."""

    def note(line: str) -> None:
        if ledger is not None:
            with ledger.open("a") as sink:
                sink.write(line + "\n")

    sets: list[StubWorkers] = []

    def workers(config: Config, model: Path, logs: Path) -> StubWorkers:
        assert not any(one.running for one in sets), "one set of workers is what a machine holds"
        sets.append(StubWorkers(config, model, note, hook))
        return sets[-1]

    with Session(run, observer, workers) as session:
        yield session


def train(
    session: Session, rerun: bool = False, on_stage: Say = lambda mark: None
) -> list[Outcome]:
    """The product's own loop; what was made or kept. `on_stage` is called around each stage."""
    outcomes: list[Outcome] = []

    def do(session: Session, stage: str, number: int) -> None:
        on_stage(f"before {stage} {number}")
        outcomes.append(perform(session, stage, number))
        on_stage(f"after {stage} {number}")

    for number in loop.iterations(session, rerun):
        loop.iterate(session, number, do)
        on_stage(f"settled {number}")
    return outcomes


def made(outcomes: list[Outcome]) -> list[str]:
    """Places of what was made."""
    return [f"it-{one.iteration:04d}/{one.stage}" for one in outcomes if one.made]


def digests_of(run: Run) -> dict[str, str]:
    """Content digest of every finished stage, by place."""
    found = {}
    for number in run.paths.iterations():
        for stage in STAGES:
            manifest = run.store.manifest(stage, number)
            if manifest is not None:
                found[run.paths.place(stage, number)] = manifest.content()
    return found


def digests(root: Path) -> dict[str, str]:
    """Content digest of every finished stage, and of the final weights and state."""
    run = Run.read(root)
    found = digests_of(run)
    found["LATEST"] = os.readlink(run.paths.latest)
    found["weights"] = model_digest(run.paths.latest / "model")
    found["state"] = str(read_json(run.paths.latest / "state" / "state.json"))
    return found
