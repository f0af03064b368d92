"""How a model is evaluated: sampling, prompts, grading. Presets in `configs/protocols`.

Order of precedence, later wins: defaults, what a run was trained with (where a run is evaluated),
the protocol's TOML file, `-o section.key=value`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from icpo_core.common import resources, toml
from icpo_core.common.keys import Operational, Since, Source, slice_of
from icpo_core.common.plugins import Pluggable
from icpo_core.config import Config, EngineSection, EvaluateSection, PromptsSection, Section
from icpo_core.config.sections import Count, CountOrNone, NonNegative
from icpo_core.evaluation.registry import ENTRIES, Kind
from icpo_core.grading.grade import GradingRules
from icpo_core.workers import devices
from icpo_core.workers.placement import place_engines
from icpo_core.workers.pool import Fleet

PROTOCOLS = resources.CONFIGS / "protocols"
RUN = "run"
"""Name of the protocol that a run was evaluated with in training."""

_PROMPTS = PromptsSection()


class Sampling(Section):
    """What is sampled."""

    temperature: NonNegative = 0.6
    """0: greedy, and then one sample a problem is enough."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[CountOrNone, Since(0)] = 0
    """Only so many of the likeliest tokens are sampled; 0: all."""
    max_tokens: Count = 8192
    """Longest response in tokens."""
    budgets: Annotated[list[Count], Operational] = Field(default=[])
    """Accuracy is told at these numbers of tokens too, from the same samples, cut there."""
    samples: Annotated[int | None, Field(ge=1)] = None
    """Samples a problem. Unset: the registry's number for the benchmark (the paper's: 32 for AIME
    and AMC), else 1."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """Only the first so many problems."""
    seed: int = 0
    """A sample's seed is a hash of this, the benchmark, the problem and the sample's number, so
    that models are compared on common random numbers and the first 8 of 32 samples are those of an
    evaluation with 8."""


class Prompting(Section):
    """How a problem is put."""

    format: Literal["chat", "raw"] = "chat"
    """`chat`: the model's own chat template; `raw`: plain text by `question_template`."""
    thinking: bool | None = None
    """Thinking switch of the chat template, where it has one."""
    expert_format: Annotated[Literal["same", "chat", "raw"], Since("same")] = "same"
    """Format of a prompt with worked examples."""
    system: Annotated[str, Since("")] = ""
    """`chat` format: the system message, or empty for none."""
    instruction: str = _PROMPTS.instruction
    """`chat` format: text after the problem."""
    joiner: Annotated[str, Since("\n")] = "\n"
    """`chat` format: what stands between problem and instruction."""
    choice_instruction: str = (
        "Please reason step by step, and put the letter of your final answer within \\boxed{{}}."
    )
    """The same for multiple choice."""
    question_template: str = _PROMPTS.question_template
    example_template: str = _PROMPTS.example_template
    shots: Annotated[int, Field(ge=0)] = 0
    """Worked examples before the problem; fewer where the limit leaves no room."""
    demonstrations: Annotated[str | None, Source] = None
    """Pool of the worked examples. The question and near-duplicates of it are never shown."""
    selection: Literal["random", "similar", "best"] = "random"
    option_seed: int | None = 0
    """Order of a multiple choice's options; `"none"`: as the benchmark gives them."""


class Judging(Section):
    """Who judges, the judges' processes and their limits on one verdict."""

    verifier: Annotated[str, Pluggable("icpo_core.grading.verifiers"), Since("math")] = "math"
    """As `verify.verifier` of a run has it. A multiple choice is judged by its letter."""
    right_from: Annotated[float, Since(1.0)] = 1.0
    """The reward of one's own verifier from which a response is right."""
    trusted: Annotated[bool, Operational] = False
    """Whether one's own verifier may use the network, write files and start programs."""
    workers: Annotated[int, Field(ge=1), Operational] = 2
    seconds: Annotated[float, Field(gt=0.0)] = 2.0
    memory_mb: Annotated[int, Field(ge=256)] = 512


class Process(Section):
    """The engine's process and the size of what is lost when it dies."""

    shard: Annotated[int, Field(ge=1), Operational] = 2048
    """Samples a shard: what is lost when an engine dies."""
    engines: Annotated[int, Field(ge=0), Operational] = 1
    """vLLM engines on this machine; 0: as many as its devices hold."""
    endpoints: Annotated[list[str], Operational] = Field(default=[])
    """Addresses of running `vllm serve` in the place of engines of our own."""
    python: Annotated[str | None, Operational] = None
    """Interpreter of the engine's process, if not this one."""
    seconds: Annotated[float, Field(gt=0.0), Operational] = 14400.0
    """Wall-clock limit of one shard."""
    start_seconds: Annotated[float, Field(gt=0.0), Operational] = 900.0
    """Wall-clock limit of the engine's start."""


class Override(Section):
    """What one benchmark has of its own."""

    samples: Annotated[int | None, Field(ge=1)] = None
    limit: Annotated[int | None, Field(ge=1)] = None


class Protocol(Section):
    """A whole protocol."""

    name: Annotated[str, Operational] = ""
    """What it is called: a preset, a file's name, or `run`."""
    sampling: Sampling = Sampling()
    prompting: Prompting = Prompting()
    grading: GradingRules = GradingRules()
    judging: Judging = Judging()
    engine: EngineSection = EngineSection()
    process: Process = Process()
    benchmarks: dict[str, Override] = Field(default={})
    """By name of the benchmark, in the place of `sampling`."""

    def samples(self, benchmark: str) -> int:
        """Samples a problem of a benchmark."""
        own = self.benchmarks.get(benchmark, Override()).samples or self.sampling.samples
        known = ENTRIES.get(benchmark)
        # Greedy samples are all alike.
        default = known.samples if known and self.sampling.temperature else 1
        return own or default

    def limit(self, benchmark: str) -> int | None:
        """Problems of a benchmark that are asked; None: all."""
        return self.benchmarks.get(benchmark, Override()).limit or self.sampling.limit

    def rules(self, kind: Kind) -> GradingRules:
        """Grading rules; an answer to a multiple choice is a letter."""
        if kind == "choice":
            return self.grading.model_copy(update={"extraction": "choice"})
        return self.grading

    def prompts(self, kind: Kind) -> PromptsSection:
        """The same settings in the words of a run's section `prompts`."""
        own = self.prompting
        room = self.engine.max_model_len - self.sampling.max_tokens
        return PromptsSection(
            k=own.shots,
            selection=own.selection,
            format=own.format,
            expert_format=own.expert_format,
            thinking=own.thinking,
            system=own.system,
            joiner=own.joiner,
            instruction=own.choice_instruction if kind == "choice" else own.instruction,
            question_template=own.question_template,
            example_template=own.example_template,
            max_tokens=max(1, room),
        )

    def asked(self) -> dict[str, Any]:
        """What decides which tokens are sampled, but for model and benchmark."""
        sampling = slice_of(self.sampling)
        for key in ("samples", "limit"):  # how many, not which
            del sampling[key]
        return {
            "sampling": sampling,
            "prompting": slice_of(self.prompting),
            "engine": slice_of(self.engine),
        }

    def graded(self) -> dict[str, Any]:
        """What decides the verdicts."""
        return {"grading": slice_of(self.grading), "judging": slice_of(self.judging)}

    def placed(self) -> list[list[str]]:
        """Devices of each engine of our own. Raises ValueError where they are too few."""
        process = self.process
        if process.endpoints:
            return []
        return place_engines(process.engines, self.engine.tensor_parallel, devices.visible())

    def fleet(self) -> Fleet:
        """The engines that sample."""
        process = self.process
        return Fleet(
            self.engine,
            self.sampling.seed,
            process.endpoints,
            process.python,
            process.seconds,
            process.start_seconds,
        )


def load(name: str, overrides: list[str] | None = None, run: Config | None = None) -> Protocol:
    """A protocol by its preset's name or its file; `run`: the configuration of a run to evaluate,
    whose prompts, grading and engine hold where the protocol says nothing. `"run"`: all of its own.

    Raises ValueError with one line that names the key and the mend.
    """
    raw: dict[str, Any] = {}
    if name != RUN:
        file = resources.find(name) if name.endswith(".toml") else PROTOCOLS / f"{name}.toml"
        if not file.is_file():
            known = sorted(path.stem for path in PROTOCOLS.glob("*.toml"))
            raise ValueError(
                f"protocol {name}: no such file; give a TOML file, or one of "
                f"{', '.join([*known, RUN])}"
            )
        raw = toml.read(file)
        toml.anchor(raw, file.resolve().parent)
    elif run is None:
        raise ValueError(
            "protocol run is what a run was trained with, and this is a model: name a protocol"
        )
    base: dict[str, Any] = {"name": Path(name).stem}
    if run is not None:
        base |= of_run(run, whole=name == RUN)
    return build(toml.merge(base, raw), overrides or [], f"protocol {name}")


def build(raw: dict[str, Any], overrides: list[str], where: str) -> Protocol:
    """A protocol of these tables and changes. Raises ValueError as `load` does."""
    changes: dict[str, Any] = {}
    for text in overrides:
        toml.put(changes, text)
    toml.anchor(changes, Path.cwd())
    try:
        made = Protocol.model_validate(toml.nones(toml.merge(raw, changes)))
    except ValidationError as error:
        raise ValueError(f"{where}: {toml.first_line(error, Protocol)}") from None
    _require_possible(made)
    return made


def of_run(config: Config, whole: bool) -> dict[str, Any]:
    """A run's own settings as a protocol, with (`whole`) or without its sampling."""
    evaluate, prompts = config.evaluate, config.prompts
    shared = set(Prompting.model_fields) & set(PromptsSection.model_fields)
    made: dict[str, Any] = {
        # Its demonstrations are for training; an evaluation has none unless it names some.
        "prompting": prompts.model_dump(include=shared - {"selection", "demonstrations"}),
        "grading": evaluate.rules.model_dump(),
        "judging": config.verify.model_dump(include={"workers", "seconds", "memory_mb"})
        | _judge(config),
        "engine": config.rollout.engine.model_dump(),
        "process": config.rollout.model_dump(
            include={"python", "start_seconds", "engines", "endpoints"}
        ),
    }
    if whole:
        shared = set(Sampling.model_fields) & set(EvaluateSection.model_fields)
        made["sampling"] = evaluate.model_dump(include=shared)
        made["benchmarks"] = {
            one.name: {"samples": one.samples, "limit": one.limit} for one in evaluate.benchmarks
        }
    return made


def _judge(config: Config) -> dict[str, Any]:
    """Who says what is right in a run: of several rewards the first."""
    if not config.own_judges:
        return {}
    verify = config.verify
    found = verify.model_dump(include={"right_from", "trusted"})
    if not verify.rewards:
        return {**found, "verifier": verify.verifier}
    first = verify.rewards[0]
    limits = first.model_dump(include={"workers", "seconds", "memory_mb", "trusted"})
    known = {key: value for key, value in limits.items() if value is not None}
    return {**found, **known, "verifier": first.verifier}


def of_training(config: Config) -> Protocol:
    """How stage `evaluate` of a run asks: one instruction for every kind of benchmark."""
    made = toml.merge(
        of_run(config, whole=True),
        {"name": RUN, "prompting": {"choice_instruction": config.prompts.instruction}},
    )
    return build(made, [], "the run's own protocol")


def of_rollouts(config: Config) -> dict[str, Any]:
    """The settings of a run's rollouts as a protocol."""
    sampling = config.rollout.model_dump(include={"temperature", "max_tokens"})
    return toml.merge(
        of_run(config, whole=False),
        {"sampling": {**sampling, "top_p": 1.0}, "grading": config.verify.rules.model_dump()},
    )


def _require_possible(protocol: Protocol) -> None:
    sampling, prompting, engine = protocol.sampling, protocol.prompting, protocol.engine
    if engine.max_model_len <= sampling.max_tokens:
        raise ValueError(
            f"sampling.max_tokens = {sampling.max_tokens} leaves no room for a prompt in "
            f"engine.max_model_len = {engine.max_model_len}: -o sampling.max_tokens=N or "
            "-o engine.max_model_len=N"
        )
    if sampling.budgets and max(sampling.budgets) > sampling.max_tokens:
        raise ValueError(
            f"sampling.budgets has {max(sampling.budgets)}, and no response is longer than "
            f"sampling.max_tokens = {sampling.max_tokens}: -o sampling.max_tokens=N"
        )
    if prompting.shots and not prompting.demonstrations:
        raise ValueError(
            f"prompting.shots = {prompting.shots} needs prompting.demonstrations: name a pool of "
            "worked examples"
        )
