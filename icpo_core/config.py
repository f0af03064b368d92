"""Configuration of a run: one Pydantic model a stage, hand-written TOML, presets and overrides.

Order of precedence, later wins: defaults, preset (`configs/presets/NAME.toml`), the TOML file,
`-o section.key=value`. What came out is written into the run as `config.json`.

A path in a TOML file that begins with `./` or `../` is relative to that file; on the command line
it is relative to the working directory. Anything else that is no existing file is a hub id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from icpo_core.common import toml
from icpo_core.grading.grade import GradingRules

PRESETS = Path(__file__).resolve().parent.parent / "configs" / "presets"

# Marks: an operational field changes how the work is done, never its result, and a source field
# names data whose content counts rather than its place. Neither is part of a fingerprint.
Operational = Field(json_schema_extra={"mark": "operational"})
Source = Field(json_schema_extra={"mark": "source"})

Path_ = Annotated[str, Source]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class RunSection(Section):
    """The run as a whole."""

    name: Annotated[str, Operational, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    """Folder of the run below `directory`."""
    directory: Annotated[str, Operational] = "runs"
    """Folder of all runs, relative to the working directory."""
    seed: int = 0
    """Root of every seed: batch order, demonstrations, sampling."""
    iterations: Annotated[int, Operational, Field(ge=1)] = 400
    """Training iterations T."""
    placement: Annotated[Literal["colocated", "split"], Operational] = "colocated"
    """`colocated`: engines and trainer share the devices, and the engines sleep while the trainer
    works; `split`: the trainer has the first devices, the engines the rest."""
    trackers: Annotated[list[Literal["tensorboard", "wandb", "mlflow"]], Operational] = [
        "tensorboard"
    ]
    """Where the figures of an iteration are sent beside metrics.parquet."""
    mirror: Annotated[str, Operational] = ""
    """URL of a folder of runs, as s3://bucket/runs: a copy of the run is kept there, and a machine
    that does not have the run goes on from it. Empty: none."""


class ModelSection(Section):
    """The policy at the start, which is also the KL reference."""

    path: Path_ = "Qwen/Qwen3-1.7B"
    """Folder in Hugging Face format, or a hub id."""


class PromptsSection(Section):
    """Stage `prompts`: the batch of problems and their demonstrations."""

    problems: Path_ = ""
    """Training problems: Parquet, JSONL or CSV with problem and answer, and where there are any id,
    solution and source."""
    demonstrations: Annotated[str | None, Source] = None
    """Pool of worked examples: problems whose solution (text, or a program) is filled."""
    exclude: Annotated[list[str], Source] = []
    """Problem sets that must never be shown as demonstrations, the benchmarks for example. The
    question itself and near-duplicates of it are never shown with it."""
    batch_size: Count = 128
    """Problems an iteration."""
    k: CountOrNone = 1
    """Demonstrations in an expert prompt (paper: 1). Fewer, where the limit leaves no room."""
    selection: Literal["random", "similar", "best"] = "random"
    """How demonstrations are drawn: `random`, anew each iteration; `similar`, nearest problems by
    BM25, the nearest next to the question; `best`, highest column `score` of the pool."""
    format: Literal["chat", "raw"] = "chat"
    """`chat`: through the model's chat template, examples inside the user turn; `raw`: plain text,
    as the authors' code does."""
    thinking: bool | None = None
    """Thinking switch of the chat template, where it has one. Unset: the template's own default."""
    instruction: str = "Please reason step by step, and put your final answer within \\boxed{{}}."
    """`chat` format: text on the line after the problem, or empty; doubled braces stand for single
    ones."""
    question_template: str = "Question: {problem}\nAnswer:"
    """`raw` format: how the question is put."""
    example_template: str = "Question: {problem}\nAnswer: {solution}\n\n"
    """How one worked example is written, in both formats. In `chat` format what stands before
    {problem} is put before the question too, if there are examples."""
    max_tokens: Count = 4096
    """Longest prompt in tokens, bare or expert. A longer bare prompt is an error; where an expert
    prompt is longer, shorter demonstrations are drawn, then fewer, then none."""


class EngineSection(Section):
    """The vLLM engine."""

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Weights and activations in the engine."""
    max_model_len: Count = 12288
    """Longest prompt and response together, tokens."""
    tensor_parallel: Count = 1
    """Devices that share one engine."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0), Operational] = 0.85
    """Share of a GPU's memory for weights and KV cache."""
    cpu_kv_cache_gib: Annotated[int, Field(ge=1), Operational] = 4
    """KV cache of the CPU build, GiB."""
    cpu_threads: Annotated[int, Field(ge=0), Operational] = 0
    """Threads of the CPU build; 0: all cores. Another number may round logprobs otherwise, by their
    last bit (1e-7)."""
    max_num_seqs: Count = 256
    """Sequences in flight."""
    enforce_eager: bool = True
    """No CUDA graphs and no compilation: a shorter start."""
    prefix_caching: bool = True
    """Share the prompt's KV cache within a group."""


class RolloutSection(Section):
    """Stage `rollout`: sampling the groups with vLLM."""

    on_policy: CountOrNone = 7
    """N_on: rollouts of a group from the bare prompt."""
    expert: CountOrNone = 1
    """N_off: rollouts of a group from the expert prompt."""
    expert_source: Literal["in_context", "traces"] = "in_context"
    """`in_context`: sampled with demonstrations (IEF); `traces`: the data set's own solutions, one
    a problem (LUFFY)."""
    temperature: Positive = 1.0
    """Divides the logits; the recorded logprobs are those of the divided ones. Training uses the
    same temperature. top-p and top-k are off: they would make those logprobs wrong."""
    max_tokens: Count = 8192
    """Longest response in tokens."""
    shards: Count = 1
    """Parts of the stage's Parquet; a stage that dies keeps its finished ones. Each is sampled by
    whichever engine is free, so there should be as many as engines or more."""
    off_policy_steps: Annotated[int, Operational, Field(ge=0, le=1)] = 0
    """1: an iteration is sampled while the update before it is made, with the weights from before
    that update (one-step off-policy); which weights those were is in every row. Needs engines and
    trainer on devices of their own, and update.old_logprobs = engine or a loss.correction."""
    engines: Annotated[int, Field(ge=0), Operational] = 1
    """vLLM engines on this machine; 0: as many as its devices hold, or one without devices."""
    endpoints: Annotated[list[str], Operational] = []
    """Addresses of running `vllm serve`, as http://gpu-1:8000, instead of engines of our own. They
    must see the run's folder under the same path; docs/scale.md has their command line."""
    max_logprob_gap: Annotated[float | None, Field(gt=0.0), Operational] = None
    """Largest difference between engine and trainer in the logprob of one probe token, nats, before
    the engine is said to hold other weights. Unset: 3e-4 in float32, 0.5 in half precision."""
    python: Annotated[str | None, Operational] = None
    """Interpreter of the engine's process, if not this one."""
    seconds: Annotated[float, Field(gt=0.0), Operational] = 7200.0
    """Wall-clock limit of one job."""
    start_seconds: Annotated[float, Field(gt=0.0), Operational] = 900.0
    """Wall-clock limit of the engine's start."""
    engine: EngineSection = EngineSection()


class VerifySection(Section):
    """Stage `verify`: math-verify in a pool of processes that can be killed."""

    workers: Annotated[int, Field(ge=1), Operational] = 2
    """Judge processes."""
    seconds: Annotated[float, Field(gt=0.0)] = 2.0
    """Wall-clock limit of one verdict; past it the judge is killed and the row is a `timeout`."""
    memory_mb: Annotated[int, Field(ge=256)] = 512
    """Memory limit of one judge, MiB."""
    max_failure_rate: Annotated[Probability, Operational] = 0.05
    """Share of timeouts and errors past which the run stops."""
    rules: GradingRules = GradingRules()


class SelectSection(Section):
    """Stage `select`: ERRS, RS and group advantages."""

    errs: Literal["drop", "replace", "mask", "off"] = "drop"
    """Expert region reject sampling: what happens to an expert rollout with reward < delta. `drop`:
    it leaves the group; `mask`: it counts in the group's statistics, without loss; `off`: it takes
    part. `replace` (the paper's Algorithm 1): it leaves, and an accepted one takes the place of a
    random on-policy rollout, so set rollout.on_policy to the full group."""
    delta: float = 1.0
    """Lowest reward with which an expert rollout or a trace is accepted (paper: 1.0)."""
    bonus: Literal["off", "linear", "cosine", "exponential"] = "off"
    """RS: annealing gamma(t) of the bonus on accepted correct expert rollouts, by the true
    iteration: t = 0 in the first, 0 bonus past the horizon."""
    alpha: NonNegative = 1.0
    """Size of the bonus at t = 0."""
    horizon: Annotated[int | None, Field(ge=1)] = None
    """T of the annealing, iterations. Unset: the run's iterations, while `bonus` is on."""
    decay: Positive = 5.0
    """Rate of the `exponential` annealing: gamma(T) = exp(-decay)."""
    divide_by_std: bool = True
    """Divide the advantage by the group's standard deviation (off: Dr.GRPO)."""


class LossSection(Section):
    """The loss of stage `update`; every term of the paper and its GRPO variants."""

    policy: Literal["ppo", "cispo", "gspo"] = "ppo"
    """On-policy objective: token ratios, clipped; CISPO; GSPO (sequence ratios; its paper's loss is
    had with aggregation `seq-mean-token-mean` and clips of 3e-4 and 4e-4)."""
    clip_low: Annotated[float | None, Field(ge=0.0)] = 0.2
    """Ratio is clipped below at 1 - clip_low. `"none"`: never."""
    clip_high: Annotated[float | None, Field(ge=0.0)] = 0.2
    """Ratio is clipped above at 1 + clip_high (clip-higher of DAPO: 0.28). `"none"`: never."""
    dual_clip: Annotated[float | None, Field(gt=1.0)] = 3.0
    """`ppo`: bound c of the loss where the advantage is negative. `"none"`: off."""
    expert: Literal["shaped", "unshaped"] = "shaped"
    """`shaped`: f(rho) = rho / (rho + lambda); `unshaped`: rho itself."""
    expert_lambda: Positive = 0.01
    """lambda of the shaping (paper: 0.01; released code and LUFFY: 0.1)."""
    expert_ratio: Literal["probability", "importance"] = "probability"
    """rho of an expert token: its probability under the bare prompt (behaviour probability 1), or
    that divided by the probability it was sampled with under the expert prompt."""
    expert_clip: Annotated[float | None, Field(gt=0.0)] = None
    """Upper bound of rho, beyond which there is no gradient; `"none"`: unclipped, as in the
    paper."""
    kl: Literal["off", "k1", "k2", "k3", "k3_unbiased"] = "k3"
    """Estimator of the KL divergence to the reference, on all response tokens. `k3_unbiased` has
    the value of k3 and the gradient of k2; k1's gradient has mean zero."""
    kl_coefficient: NonNegative = 0.001
    """Weight of the KL term; 0: the reference is not needed."""
    entropy_coefficient: NonNegative = 0.0
    """Weight of the entropy bonus, on all response tokens."""
    aggregation: Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "constant"] = (
        "token-mean"
    )
    """How token losses become one number, always over mini-batch, micro-batches and ranks."""
    constant_length: Annotated[int | None, Field(ge=1)] = None
    """`constant` aggregation: tokens a sequence counts for (Dr.GRPO). Unset: rollout.max_tokens."""
    correction: Literal["off", "truncate", "mask"] = "off"
    """Importance correction of on-policy tokens by w = trainer's / engine's probability under the
    weights that sampled: `truncate` min(w, cap), `mask` 0 unless 1/cap <= w <= cap."""
    correction_cap: Annotated[float, Field(gt=1.0)] = 2.0
    """Cap of the correction."""


class LoraSection(Section):
    """LoRA: an adapter of low rank is trained instead of all weights, and published merged."""

    rank: CountOrNone = 0
    """Rank of the adapter; 0: no adapter, all weights are trained."""
    alpha: Count = 32
    """The adapter's product is multiplied by alpha / rank."""
    target_modules: Annotated[list[str], Field(min_length=1)] = [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip
    """Linear layers that get one, by the last part of their name."""


class UpdateSection(Section):
    """Stage `update`: the optimizer steps, in DeepSpeed."""

    learning_rate: Positive = 1e-6
    """Peak learning rate of AdamW."""
    warmup_iterations: CountOrNone = 0
    """Iterations of linear warm-up; constant afterwards."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    grad_clip: Positive = 1.0
    """Largest global gradient norm."""
    mini_batch: CountOrNone = 0
    """Prompts an optimizer step; 0: the whole batch in one step."""
    token_budget: Count = 16384
    """Tokens of a micro-batch, with their padding; those of a shared prompt count with each row."""
    packing: bool | None = None
    """Rows of a micro-batch one behind another, without padding; without flash attention each
    prompt stands once for all its responses. false: beside each other, padded. Unset: packed, but
    padded where there is no flash attention and the model cannot share prompts: tokens² is dear."""
    old_logprobs: Literal["trainer", "engine"] = "trainer"
    """Who says what the old policy's logprobs were."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Weights and activations of the trainer; logits and loss are float32 always."""
    gradient_checkpointing: bool = False
    lora: LoraSection = LoraSection()
    deepspeed: dict[str, Any] = {"zero_optimization": {"stage": 0}}
    """DeepSpeed's own settings, or the path of a JSON file that holds them. Batch sizes, optimizer,
    clipping and dtype are set by this program."""
    ranks: CountOrNone = 1
    """Processes of the trainer, by DeepSpeed's launcher; 0: one a device, or one without devices;
    with a hostfile: its slots."""
    hostfile: Annotated[str | None, Operational] = None
    """DeepSpeed hostfile, for several machines, this one first. All of them see the run's folder,
    the model and the same interpreter under the same paths."""
    max_logprob_gap: Annotated[float | None, Field(gt=0.0), Operational] = None
    """Largest mean difference between engine and trainer over a batch's on-policy tokens, nats.
    Unset: 1e-4 in float32, 0.1 in half precision."""
    python: Annotated[str | None, Operational] = None
    """Interpreter of the trainer's process, if not this one."""
    threads: Annotated[int, Field(ge=0), Operational] = 0
    """CPU threads a rank; 0: PyTorch's own choice."""
    seconds: Annotated[float, Field(gt=0.0), Operational] = 7200.0
    """Wall-clock limit of one job."""
    start_seconds: Annotated[float, Field(gt=0.0), Operational] = 900.0
    """Wall-clock limit of the trainer's start."""


class Benchmark(Section):
    """One evaluation set."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    problems: Path_
    """Problems: Parquet or JSONL with id, problem, answer, solution, source."""
    samples: Count = 1
    """Samples a problem; accuracy is their mean (avg@k)."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """Only the first so many problems."""


class EvaluateSection(Section):
    """Stage `evaluate`: accuracy under the bare prompt."""

    every: Annotated[int, Field(ge=0), Operational] = 10
    """Evaluate after every so many iterations, and after the last; 0: never."""
    at_start: Annotated[bool, Operational] = True
    """Evaluate the untrained model too."""
    benchmarks: list[Benchmark] = []
    temperature: NonNegative = 0.6
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_tokens: Count = 8192
    rules: GradingRules = GradingRules()


class CheckpointSection(Section):
    """Stage `checkpoint`: publishing weights, saving optimizer state, pruning."""

    state_every: Annotated[int, Field(ge=1), Operational] = 1
    """Save optimizer state after every so many iterations, and after the last. Iterations after the
    last saved state are replayed from their stored batches."""
    keep_last: Annotated[int, Field(ge=1), Operational] = 2
    """Newest checkpoints to keep."""
    keep_every: Annotated[int, Field(ge=0), Operational] = 50
    """Keep every so many for good; 0: none."""
    keep_best: Annotated[str | None, Operational] = None
    """Keep the best by this benchmark."""


STAGES = ("prompts", "rollout", "verify", "select", "update", "evaluate", "checkpoint")


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
        ratio_to_sampler = update.old_logprobs == "engine" or self.loss.correction != "off"
        if rollout.off_policy_steps and not ratio_to_sampler:
            raise ValueError(
                "rollout.off_policy_steps = 1 learns from rollouts of the weights before, whose "
                "probabilities must count: set update.old_logprobs = engine, or loss.correction = "
                "truncate"
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


def slice_of(section: BaseModel) -> dict[str, Any]:
    """The part of a section that can change a result: no operational and no source fields."""
    part: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        mark = (field.json_schema_extra or {}) if isinstance(field.json_schema_extra, dict) else {}
        if mark.get("mark") in ("operational", "source"):
            continue
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            part[name] = slice_of(value)
        elif isinstance(value, list):
            part[name] = [slice_of(v) if isinstance(v, BaseModel) else v for v in value]
        else:
            part[name] = list(value) if isinstance(value, tuple) else value
    return part


def load(file: Path, overrides: list[str] | None = None, name: str | None = None) -> Config:
    """Read a TOML file, its preset and the overrides.

    Raises ValueError with one line that names the key and the mend.
    """
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
    elif "name" not in merged.get("run", {}):
        merged = toml.merge(merged, {"run": {"name": file.stem}})
    return build(merged, str(file))


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
        from icpo_core.common.files import read_json

        raw = toml.merge(raw, {"update": {"deepspeed": {}}})
        raw["update"]["deepspeed"] = read_json(Path(settings))
    try:
        return Config.model_validate(toml.nones(raw))
    except ValidationError as error:
        raise ValueError(f"{where}: {toml.first_line(error, Config)}") from None


def _preset(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    file = PRESETS / f"{name}.toml"
    if not file.is_file():
        known = sorted(path.stem for path in PRESETS.glob("*.toml"))
        raise ValueError(f"preset {name!r} is not known; there are {', '.join(known)}")
    return toml.read(file)
