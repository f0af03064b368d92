"""Configuration of a run: one Pydantic model a stage, hand-written TOML, presets and overrides.

Order of precedence, later wins: defaults, preset (`configs/presets/NAME.toml`), the TOML file,
`-o section.key=value`. What came out is written into the run as `config.json`.

A path in a TOML file that begins with `./` or `../` is relative to that file; on the command line
it is relative to the working directory. Anything else that is no existing file is a hub id.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

from pydantic import ValidationError, model_validator

from icpo_core.common import keys, plugins, resources, toml
from icpo_core.common.files import read_json
from icpo_core.common.keys import Operational, Source, slice_of
from icpo_core.config import combinations
from icpo_core.config.loss import DistillSection, LossSection
from icpo_core.config.sections import (
    Benchmark,
    CheckpointSection,
    Count,
    CountOrNone,
    EngineSection,
    EvaluateSection,
    LoraSection,
    ModelSection,
    NonNegative,
    Path_,
    Positive,
    Probability,
    PromptsSection,
    RewardSection,
    RolloutSection,
    RunSection,
    Section,
    SelectSection,
    UpdateSection,
    VerifySection,
)
from icpo_core.grading.own import TAKEN

PRESETS = resources.CONFIGS / "presets"
MAX_LORA_RANK = 512

__all__ = [
    "PRESETS",
    "Benchmark",
    "CheckpointSection",
    "Config",
    "Count",
    "CountOrNone",
    "DistillSection",
    "EngineSection",
    "EvaluateSection",
    "LoraSection",
    "LossSection",
    "ModelSection",
    "NonNegative",
    "Operational",
    "Path_",
    "Positive",
    "Probability",
    "PromptsSection",
    "RewardSection",
    "RolloutSection",
    "RunSection",
    "Section",
    "SelectSection",
    "Source",
    "UpdateSection",
    "VerifySection",
    "as_stored",
    "build",
    "check_plugins",
    "compared",
    "load",
    "override",
    "plugin_sources",
    "slice_of",
    "stored",
]


class Config(Section):
    """A run's whole configuration."""

    preset: Annotated[str | None, Operational] = None
    """Preset below `configs/presets` that this configuration began with."""
    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    prompts: PromptsSection = PromptsSection()
    rollout: RolloutSection = RolloutSection()
    verify: VerifySection = VerifySection()
    select: SelectSection = SelectSection()
    loss: LossSection = LossSection()
    update: UpdateSection = UpdateSection()
    evaluate: EvaluateSection = EvaluateSection()
    checkpoint: CheckpointSection = CheckpointSection()

    @property
    def own_judges(self) -> bool:
        """Whether evaluation is judged by other verifiers than that of `math`: the training's."""
        verify = self.verify
        other = verify.verifier != "math" or bool(verify.rewards)
        return other and self.evaluate.verifier == "training"

    @property
    def in_rounds(self) -> bool:
        """Whether what is sampled next depends on verdicts (`icpo_core.method.rounds`)."""
        return self.rollout.steer == "failed" or self.prompts.fill > 0

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Defaults of one section that come from another, filled before anything is frozen."""
        raw = {**raw}

        def value(section: str, key: str, fallback: Any) -> Any:
            part = raw.get(section)
            return part.get(key, fallback) if isinstance(part, dict) else fallback

        if value("select", "bonus", "off") != "off" and value("select", "horizon", None) is None:
            iterations = value("run", "iterations", RunSection().iterations)
            raw["select"] = {**raw["select"], "horizon": iterations}
        scheduled = value("update", "schedule", "constant") != "constant"
        if scheduled and value("update", "horizon", None) is None:
            iterations = value("run", "iterations", RunSection().iterations)
            raw["update"] = {**raw["update"], "horizon": iterations}
        fades = value("rollout", "steer_schedule", "constant") in ("linear", "cosine")
        if fades and value("rollout", "steer_horizon", None) is None:
            iterations = value("run", "iterations", RunSection().iterations)
            raw["rollout"] = {**raw["rollout"], "steer_horizon": iterations}
        distill = value("loss", "distill", {})
        fades = isinstance(distill, dict) and distill.get("schedule", "constant") != "constant"
        if fades and distill.get("horizon") is None:
            iterations = value("run", "iterations", RunSection().iterations)
            raw["loss"] = {**raw["loss"], "distill": {**distill, "horizon": iterations}}
        engine = value("rollout", "engine", {})
        heads = {
            "update": value("update", "head_dtype", None),
            "rollout": engine.get("head_dtype") if isinstance(engine, dict) else None,
        }
        if heads["update"] is None and heads["rollout"] is not None:
            raw["update"] = {**raw.get("update", {}), "head_dtype": heads["rollout"]}
        if heads["rollout"] is None and heads["update"] is not None and isinstance(engine, dict):
            engine = {**engine, "head_dtype": heads["update"]}
            raw["rollout"] = {**raw.get("rollout", {}), "engine": engine}
        constant = value("loss", "aggregation", "") == "constant"
        if constant and value("loss", "constant_length", None) is None:
            longest = value("rollout", "max_tokens", RolloutSection().max_tokens)
            raw["loss"] = {**raw["loss"], "constant_length": longest}
        return raw

    @model_validator(mode="after")
    def _possible(self) -> Config:
        """Refuse combinations that cannot run."""
        prompts, rollout, update = self.prompts, self.rollout, self.update
        in_context = rollout.expert > 0 and rollout.expert_source == "in_context"
        if not prompts.problems:
            raise ValueError("prompts.problems is not set: name the training problems")
        if rollout.on_policy + rollout.expert == 0:
            raise ValueError("rollout.on_policy and rollout.expert are both 0: nothing to sample")
        if in_context and prompts.k == 0:
            raise ValueError(
                "rollout.expert > 0 needs demonstrations: set prompts.k >= 1, "
                "or rollout.expert = 0 for GRPO"
            )
        if in_context and not prompts.demonstrations:
            raise ValueError(
                "rollout.expert > 0 needs demonstrations: set prompts.demonstrations to a pool "
                "of worked examples, or rollout.expert = 0 for GRPO"
            )
        if rollout.expert_source == "traces" and rollout.expert > 1:
            raise ValueError("rollout.expert_source = traces has one trace a problem: expert <= 1")
        if self.select.errs == "replace" and rollout.expert > rollout.on_policy:
            raise ValueError(
                "select.errs = replace puts expert rollouts in the place of on-policy ones: "
                "rollout.expert must not exceed rollout.on_policy"
            )
        combinations.require_steering(self)
        combinations.require_pool(self)
        combinations.require_verdicts(self)
        combinations.require_partial(self)
        combinations.require_tuning(self)
        combinations.require_teacher(self)
        rewards = [reward.name for reward in self.verify.rewards]
        if len(set(rewards)) < len(rewards) or TAKEN & set(rewards):
            raise ValueError(
                f"verify.rewards: every name may stand once, and none is {', '.join(sorted(TAKEN))}"
            )
        if rewards and self.verify.verifier != "math":
            raise ValueError(
                "verify.rewards are used instead of verify.verifier: leave that out, or make it "
                "one of them"
            )
        if self.select.truncated == "shaped":
            if (self.select.overlong_tokens or 1) > rollout.max_tokens:
                raise ValueError(
                    f"select.overlong_tokens = {self.select.overlong_tokens} exceeds "
                    f"rollout.max_tokens = {rollout.max_tokens}: lower it, or leave it out for a "
                    "fifth"
                )
            if self.select.advantage == "maxrl":
                raise ValueError(
                    "select.advantage = maxrl is for rewards that are never negative, which "
                    "select.truncated = shaped makes some: choose another of either"
                )
        if rollout.engine.max_model_len < prompts.max_tokens + rollout.max_tokens:
            raise ValueError(
                f"rollout.engine.max_model_len = {rollout.engine.max_model_len} is less than "
                f"prompts.max_tokens + rollout.max_tokens = "
                f"{prompts.max_tokens + rollout.max_tokens}: raise it or shorten them"
            )
        if rollout.endpoints and rollout.engines > 1:
            raise ValueError(
                "rollout.endpoints are used instead of engines of our own: leave out "
                "rollout.engines"
            )
        if rollout.endpoints and rollout.seeding == "part":
            raise ValueError(
                "rollout.seeding = part is for engines of our own, since others may ask a server "
                "meanwhile: leave out rollout.endpoints, or set rollout.seeding = rollout"
            )
        for address in rollout.endpoints:
            if not address.startswith(("http://", "https://")):
                raise ValueError(f"rollout.endpoints: {address} must begin with http://")
        if self.evaluate.every and self.evaluate.max_tokens > rollout.engine.max_model_len:
            raise ValueError("evaluate.max_tokens exceeds rollout.engine.max_model_len")
        if update.mini_batch and prompts.batch_size % update.mini_batch:
            raise ValueError(
                f"update.mini_batch = {update.mini_batch} does not divide "
                f"prompts.batch_size = {prompts.batch_size}"
            )
        if update.schedule != "constant":
            assert update.horizon is not None  # filled
            if update.horizon < self.run.iterations:
                raise ValueError(
                    f"update.horizon = {update.horizon} ends the learning rate before "
                    f"run.iterations = {self.run.iterations}: lower those, or raise the horizon "
                    "(it changes what earlier updates were made with)"
                )
            if update.horizon <= update.warmup_iterations:
                raise ValueError(
                    f"update.warmup_iterations = {update.warmup_iterations} leaves nothing of "
                    f"update.horizon = {update.horizon} for the schedule: shorten the warm-up"
                )
        if update.rendezvous and not update.hostfile:
            raise ValueError(
                f"update.rendezvous = {update.rendezvous} is where ranks of several machines meet; "
                "set update.hostfile too, or leave it out"
            )
        if update.head_dtype != rollout.engine.head_dtype:
            raise ValueError(
                f"update.head_dtype = {update.head_dtype} and rollout.engine.head_dtype = "
                f"{rollout.engine.head_dtype} differ, and so would the logprobs of trainer and "
                "engine: set both alike, or only one"
            )
        ratio_to_sampler = update.old_logprobs == "engine" or self.loss.correction != "off"
        behind = "off_policy_steps" if rollout.off_policy_steps else "partial_tokens"
        if rollout.updates_behind and not ratio_to_sampler:
            raise ValueError(
                f"rollout.{behind} = {getattr(rollout, behind)} learns from rollouts of "
                "weights before, whose probabilities must count: set update.old_logprobs = engine, "
                "or loss.correction = truncate"
            )
        if self.loss.expert_context == "shown" and rollout.expert_source == "traces":
            raise ValueError(
                "loss.expert_context = shown is about expert prompts, and traces have none: use "
                "bare, or rollout.expert_source = in_context"
            )
        if self.loss.expert_ratio == "importance" and rollout.expert_source == "traces":
            raise ValueError(
                "loss.expert_ratio = importance needs the probability that a trace was sampled "
                "with, which nobody knows: use probability"
            )
        if "{problem}" not in prompts.question_template:
            raise ValueError("prompts.question_template must contain {problem}")
        for slot in ("{problem}", "{solution}"):
            if slot not in prompts.example_template:
                raise ValueError(f"prompts.example_template must contain {slot}")
        names = [benchmark.name for benchmark in self.evaluate.benchmarks]
        if len(set(names)) < len(names):
            raise ValueError("evaluate.benchmarks: every name may stand once")
        if self.checkpoint.keep_best and self.checkpoint.keep_best not in names:
            raise ValueError(
                f"checkpoint.keep_best = {self.checkpoint.keep_best} is none of the benchmarks "
                f"({', '.join(names) or 'there are none'})"
            )
        owned = {"train_batch_size", "train_micro_batch_size_per_gpu", "optimizer", "scheduler"}
        owned |= {"gradient_accumulation_steps", "gradient_clipping", "bf16", "fp16"}
        if taken := sorted(owned & update.deepspeed.keys()):
            raise ValueError(
                f"update.deepspeed sets {taken[0]}, which this program sets: remove it there"
            )
        if rollout.engine.kind == "server" and not rollout.endpoints:
            raise ValueError(
                "rollout.engine.kind = server needs the servers' addresses: set rollout.endpoints"
            )
        if rollout.lora == "adapter":
            if not update.lora.rank:
                raise ValueError(
                    "rollout.lora = adapter needs an adapter: set update.lora.rank, or leave "
                    "rollout.lora out"
                )
            if rollout.engine.kind not in ("vllm", "server"):
                raise ValueError(
                    "rollout.lora = adapter is for vLLM: leave out rollout.engine.kind, or set "
                    "rollout.lora = merged"
                )
            if update.lora.rank > MAX_LORA_RANK:
                raise ValueError(
                    f"rollout.lora = adapter: vLLM serves ranks up to {MAX_LORA_RANK}; lower "
                    "update.lora.rank, or set rollout.lora = merged"
                )
        if update.lora.rank:
            if update.deepspeed.get("zero_optimization", {}).get("stage", 0) == 3:
                raise ValueError(
                    "update.lora.rank trains an adapter, whose merged weights ZeRO-3 has in no one "
                    "place: set update.deepspeed to configs/deepspeed/zero2.json, or lora.rank = 0"
                )
            if outer := {"lm_head", "embed_tokens"} & set(update.lora.target_modules):
                raise ValueError(
                    f"update.lora.target_modules has {min(outer)}: an adapter goes on the linear "
                    "layers between embedding and head, leave it out"
                )
        return self


def load(file: Path, overrides: list[str] | None = None, name: str | None = None) -> Config:
    """Read a TOML file, its preset and the overrides.

    Raises ValueError with one line that names the key and the mend.
    """
    file = resources.find(file)
    raw = toml.read(file)
    toml.anchor(raw, file.resolve().parent)
    changes: dict[str, Any] = {}
    for override in overrides or []:
        toml.put(changes, override)
    toml.anchor(changes, Path.cwd())
    preset = changes.get("preset", raw.get("preset"))
    merged = toml.merge(toml.merge(_preset(preset), raw), changes)
    if name:
        merged = toml.merge(merged, {"run": {"name": name}})
    elif isinstance(merged.get("run", {}), dict) and "name" not in merged.get("run", {}):
        merged = toml.merge(merged, {"run": {"name": file.stem}})
    config = build(merged, str(file))
    keys.left_to(config, _preset(preset), toml.merge(raw, changes))
    return config


def override(config: Config, overrides: list[str]) -> Config:
    """The configuration with some keys changed. Raises ValueError as `load` does."""
    if not overrides:
        return config
    changes: dict[str, Any] = {}
    for text in overrides:
        toml.put(changes, text)
    toml.anchor(changes, Path.cwd())
    return build(toml.merge(config.model_dump(mode="json"), changes), "-o")


def build(raw: dict[str, Any], where: str) -> Config:
    """Validate; every error becomes one line. Raises ValueError."""
    settings = raw.get("update", {}).get("deepspeed") if isinstance(raw.get("update"), dict) else 0
    if isinstance(settings, str):
        if not settings:
            raise ValueError(
                f"{where}: update.deepspeed is empty; name a JSON file, or leave it out"
            )
        raw = toml.merge(raw, {"update": {"deepspeed": {}}})
        raw["update"]["deepspeed"] = read_json(resources.find(settings))
    try:
        return Config.model_validate(toml.nones(raw))
    except ValidationError as error:
        raise ValueError(f"{where}: {toml.first_line(error, Config)}") from None


def stored(raw: dict[str, Any], where: str) -> Config:
    """A configuration that a run has stored, maybe by an earlier version.

    A key that the run does not know has the value with which nothing changes (`Since`), whatever
    today's default is. Raises ValueError, naming `where`, if it cannot be read.
    """
    return build(compared(raw), where)


def as_stored(config: Config, raw: Mapping[str, Any]) -> Config:
    """The configuration with what the run that stored `raw` has of keys whose default, or value in
    its preset, has moved.

    What a TOML file or `-o` says counts; where they say nothing, a run stays what it is.
    """
    return keys.keeping(config, compared(raw), raw.get("preset") == config.preset)


def compared(part: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration, or a stage's slice of one, in today's words and with the keys that it
    leaves out: of two such, each difference is a key that somebody changed.

    For what this program has written. In a TOML file, which somebody can edit, a former name is an
    error that says the new one.
    """
    return keys.in_todays_words(part, Config, whole=True)


PLUGGED = {
    "rollout.engine.kind": ("rollout", "evaluate"),
    "verify.verifier": ("verify",),
    "verify.rewards.verifier": ("verify",),
    "select.advantage": ("select",),
    "loss.policy": ("update",),
}
"""Keys that may name one's own source, and the stages that execute it."""


def _named(config: Config, key: str) -> dict[str, str]:
    """What a key of `PLUGGED` names, by the key; of each reward by its name."""
    above, _, last = key.rpartition(".")
    holder = attrgetter(above)(config)
    if isinstance(holder, list):
        return {f"{above}.{one.name}": getattr(one, last) for one in holder}
    return {key: getattr(holder, last)}


def check_plugins(config: Config) -> None:
    """Look whether one's own sources are there, before a run begins; executes none of them.

    Raises ValueError, in one line that names key and fix.
    """
    for plugged in PLUGGED:
        for key, spec in _named(config, plugged).items():
            try:
                plugins.check(spec)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None


def plugin_sources(config: Config, stage: str) -> dict[str, str]:
    """sha256 of one's own sources that a stage executes, by the key that names them.

    {} where all is built in. They belong to what the stage is made from: after an edit it is made
    again. Raises ValueError, in one line that names the fix, if a source is not there.
    """
    found = {}
    judges = (stage == "evaluate" and config.own_judges) or (
        stage == "rollout" and config.in_rounds
    )
    executed = {stage, "verify"} if judges else {stage}
    for plugged, stages in PLUGGED.items():
        for key, spec in _named(config, plugged).items() if executed & {*stages} else ():
            digest = plugins.source_digest(spec)
            if digest is not None:
                found[key] = digest
    return found


def _preset(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    file = PRESETS / f"{name}.toml"
    if not file.is_file():
        known = sorted(path.stem for path in PRESETS.glob("*.toml"))
        raise ValueError(f"preset {name!r} is not known; there are {', '.join(known)}")
    return toml.read(file)
