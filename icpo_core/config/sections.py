"""The sections of a configuration: one Pydantic model a stage, a line of documentation a key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from icpo_core.common.keys import Operational, Outward, Renamed, Since, Source
from icpo_core.common.plugins import Pluggable
from icpo_core.grading.grade import GradingRules, TrainingRules

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
    mirror: Annotated[str, Operational, Outward()] = ""
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
    pool: Annotated[Literal["fixed", "expert", "bare", "all"], Since("fixed")] = "fixed"
    """Whether right rollouts of training problems join the demonstrations: not; `expert` ones,
    `bare` ones, or `all`, one a problem. Never shown: one with its own problem or a near-duplicate
    of it, and none that is a near-duplicate of a problem in `exclude` or in a benchmark of the
    run."""
    pool_age: Annotated[Count, Since(10)] = 10
    """Iterations for which a rollout that joined stays in the pool."""
    exclude: Annotated[list[str], Source] = []
    """Problem sets that must never be shown as demonstrations, the benchmarks for example. The
    question itself and near-duplicates of it are never shown with it."""
    batch_size: Count = 128
    """Problems an iteration."""
    fill: Annotated[int, Field(ge=0), Since(0)] = 0
    """Dynamic sampling (DAPO): while fewer than `batch_size` groups carry signal, the next batch of
    problems is sampled too, at most so many more an iteration. A group carries signal where the
    rewards of those who take part are not all equal; the others leave the batch (`no_signal`,
    `surplus`). 0: one batch, as it is."""
    k: CountOrNone = 1
    """Demonstrations in an expert prompt (paper: 1). Fewer, where the limit leaves no room."""
    k_growth: Annotated[int, Field(ge=0), Since(0)] = 0
    """Demonstrations more in each further try (`rollout.expert_tries`)."""
    fewer: Annotated[Literal["allow", "error"], Operational] = "allow"
    """Where a prompt has room for fewer than k demonstrations: `allow` says so in a line at the
    start, and figure `demonstrations/fewer` counts it; `error` stops."""
    selection: Literal["random", "similar", "best"] = "random"
    """How demonstrations are drawn: `random`, anew each iteration; `similar`, nearest problems by
    BM25, the nearest next to the question; `best`, highest column `score` of the pool."""
    format: Literal["chat", "raw"] = "chat"
    """`chat`: through the model's chat template, examples inside the user turn; `raw`: plain text,
    as the authors' code does."""
    expert_format: Annotated[Literal["same", "chat", "raw"], Since("same")] = "same"
    """Format of the expert prompt. `same`: as `format`. The authors' code has `chat` for the bare
    prompt and `raw` for this one."""
    thinking: bool | None = None
    """Thinking switch of the chat template, where it has one. Unset: the template's own default."""
    system: Annotated[str, Since("")] = ""
    """`chat` format: the system message before the user's, or empty for none; doubled braces stand
    for single ones."""
    instruction: str = "Please reason step by step, and put your final answer within \\boxed{{}}."
    """`chat` format: text after the problem, or empty; doubled braces stand for single ones."""
    joiner: Annotated[str, Since("\n")] = "\n"
    """`chat` format: what stands between problem and instruction: a line break, or a space for the
    same line. Between examples, and between them and the problem, stands what ends
    `example_template`."""
    question_template: str = "Question: {problem}\nAnswer:"
    """`raw` format: how the question is put."""
    example_template: str = "Question: {problem}\nAnswer: {solution}\n\n"
    """How one worked example is written, in both formats, with what parts it from the next. In
    `chat` format what stands before
    {problem} is put before the question too, if there are examples."""
    max_tokens: Count = 4096
    """Longest prompt in tokens, bare or expert. A longer bare prompt is an error; where an expert
    prompt is longer, shorter demonstrations are drawn, then fewer, then none."""

    @property
    def templated(self) -> bool:
        """Whether any prompt goes through the model's chat template."""
        return "chat" in (self.format, self.expert_format)


class EngineSection(Section):
    """The rollout engine."""

    kind: Annotated[str, Pluggable("icpo_core.engine.kinds"), Since("vllm")] = "vllm"
    """`vllm`: engines of our own, or servers where `rollout.endpoints` names any; or your own, as
    `file.py:name` or `package.module:name`: a function from `EngineSettings` to an `Engine`."""

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Weights and activations in the engine."""
    head_dtype: Annotated[Literal["same", "float32"], Since("same")] = "same"
    """As update.head_dtype, which it follows."""
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
    block_size: Annotated[int | None, Field(ge=1), Since(None)] = None
    """Tokens in a block of the KV cache: prompts share whole blocks. Unset: vLLM's own, which is
    128 on a CPU, so that a prompt of fewer tokens shares nothing. A CPU takes multiples of 32."""


class RolloutSection(Section):
    """Stage `rollout`: sampling the groups with vLLM."""

    on_policy: CountOrNone = 7
    """N_on: rollouts of a group from the bare prompt."""
    expert: CountOrNone = 1
    """N_off: rollouts of a group from the expert prompt."""
    expert_source: Literal["in_context", "traces"] = "in_context"
    """`in_context`: sampled with demonstrations (IEF); `traces`: the data set's own solutions, one
    a problem (LUFFY)."""
    steer: Annotated[Literal["always", "failed"], Since("always")] = "always"
    """Which groups get expert rollouts. `always` (the paper): all; `failed`: bare rollouts first,
    which are judged at once, then expert rollouts for groups that the bare prompt does not solve
    (`steer_below`)."""
    steer_below: Annotated[Probability, Since(0.0)] = 0.0
    """`failed`: the largest share of right ones among a group's bare rollouts with which it gets
    expert rollouts; 0: none is right."""
    expert_tries: Annotated[int, Field(ge=1), Since(1)] = 1
    """`failed`: rounds of `expert` expert rollouts, each with other demonstrations, until one of a
    group is accepted (select.delta)."""
    steer_share: Annotated[Probability, Since(1.0)] = 1.0
    """Probability that a group may get expert rollouts, drawn by the seed; the others stay with
    their bare ones."""
    steer_schedule: Annotated[
        Literal["constant", "linear", "cosine", "pass_rate"], Since("constant")
    ] = "constant"
    """How `steer_share` changes: not; from its value in the first iteration down to 0 after
    `steer_horizon`; or `pass_rate`, for each problem: times the share of wrong ones among its bare
    rollouts of earlier iterations, the last of which counts half, the one before a quarter."""
    steer_horizon: Annotated[int | None, Field(ge=1), Since(None)] = None
    """Iterations until `steer_share` is 0. Unset: the run's iterations, as they were at its
    start."""
    temperature: Positive = 1.0
    """Divides the logits; the recorded logprobs are those of the divided ones. Training uses the
    same temperature. top-p and top-k are off: they would make those logprobs wrong."""
    max_tokens: Count = 8192
    """Longest response in tokens."""
    shards: Count = 1
    """Parts of the stage's Parquet; a stage that dies keeps its finished ones. Each is sampled by
    whichever engine is free, so there should be as many as engines or more."""
    off_policy_steps: Annotated[int, Operational, Field(ge=0, le=4)] = 0
    """k: iteration t is sampled from the weights after update t - 1 - k, so that the engines go on
    while the last k updates before it are made; which weights those were is in every row. Needs
    engines and trainer on devices of their own, and update.old_logprobs = engine or a
    loss.correction."""
    partial_tokens: Annotated[int, Field(ge=0), Since(0)] = 0
    """Partial rollouts: tokens of a response that an iteration samples at most; 0: all of it. What
    is longer goes on in the next iteration, from that one's policy, and its group is learned from
    when all of it has ended. A divisor of `max_tokens`; needs update.old_logprobs = engine or a
    loss.correction."""
    engines: Annotated[int, Field(ge=0), Operational] = 1
    """vLLM engines on this machine; 0: as many as its devices hold, or one without devices."""
    endpoints: Annotated[list[str], Operational, Outward()] = []
    """Addresses of running `vllm serve`, as http://gpu-1:8000, instead of engines of our own. They
    must see the run's folder under the same path; docs/scale.md has their command line."""
    lora: Annotated[Literal["merged", "adapter"], Since("merged")] = "merged"
    """With `update.lora.rank`: what the engine samples from. `merged`: weights with the adapter
    merged, and rounded to their dtype, which little updates do not survive (figure `lora/kept`);
    `adapter`: the base model and the adapter beside it, by vLLM's LoRA requests."""
    seeding: Annotated[Literal["rollout", "part"], Since("rollout")] = "rollout"
    """What has a seed of its own. `rollout`: each, which is the same whatever is beside it. `part`:
    all rollouts of a shard are drawn from one generator, which a CPU is 3% faster at (docs/
    benchmarks.md); the shard comes out the same when it is made again, but another `shards`, engine
    or machine makes other rollouts. Not for `endpoints`."""
    deterministic: Annotated[bool, Since(False)] = False
    """One seed gives the same samples whatever else is in the batch: vLLM's batch-invariant
    kernels, on NVIDIA GPUs of compute capability 8.0 and more. The CPU has none and needs no
    switch for one machine (docs/gpu.md). Servers of `endpoints` are to be started with it."""
    max_logprob_gap: Annotated[float | None, Field(gt=0.0), Operational] = None
    """Largest difference between engine and trainer in the logprob of one probe token, nats, before
    the engine is said to hold other weights. Unset: judged by the median and the 90% quantile of
    the tokens' differences in probability against what is usual; in float32 also by 3e-4 nats."""
    python: Annotated[str | None, Operational, Outward()] = None
    """Interpreter of the engine's process, if not this one."""
    seconds: Annotated[float, Field(gt=0.0), Operational] = 7200.0
    """Wall-clock limit of one job."""
    start_seconds: Annotated[float, Field(gt=0.0), Operational] = 900.0
    """Wall-clock limit of the engine's start."""
    engine: EngineSection = EngineSection()

    @property
    def updates_behind(self) -> int:
        """Updates that may lie between the weights that sampled a token and those that learn from
        it."""
        carried = self.max_tokens // self.partial_tokens - 1 if self.partial_tokens else 0
        return self.off_policy_steps + carried


class RewardSection(Section):
    """One of several rewards. What is not set is as in `verify`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of its column and figure, `reward/NAME`."""
    verifier: Annotated[str, Pluggable("icpo_core.grading.verifiers")] = "math"
    """Who gives it, as `verify.verifier`."""
    weight: float = 1.0
    """What it is multiplied by in the sum."""
    version: str = ""
    """As `verify.version`."""
    seconds: Annotated[float | None, Field(gt=0.0)] = None
    """Wall-clock limit of one verdict."""
    memory_mb: Annotated[int | None, Field(ge=256)] = None
    """Memory limit of one judge, MiB."""
    workers: Annotated[int | None, Field(ge=1), Operational] = None
    """Judge processes."""
    trusted: Annotated[bool | None, Operational, Outward()] = None
    """Whether it may use the network, write files and start programs."""
    retries: Annotated[int | None, Field(ge=0), Operational] = None
    """Further tries after a timeout or an error."""


class VerifySection(Section):
    """Stage `verify`: a verifier in a pool of processes that can be killed."""

    verifier: Annotated[str, Pluggable("icpo_core.grading.verifiers"), Since("math")] = "math"
    """Who judges. `math`: answers by `rules`, compared by algebra; `math-verify`: that package as
    it is, on the whole response, for numbers that compare with other papers'; `choice`: the letter
    of a multiple choice; `code`: the program in the response, by tests in the problem set's column
    `extra`; `reasoning-gym`: that package's scorers; or your own, as `file.py:name` or
    `package.module:name`: a function of response, answer and row, or a class
    (docs/extending.md)."""
    rewards: Annotated[list[RewardSection], Since([])] = []
    """Several rewards instead of one verifier: their weighted sum is the reward. The first that
    does not abstain says whether a response is right, and what its answer is."""
    right_from: Annotated[float, Since(1.0)] = 1.0
    """The reward of one's own verifier from which a response counts as right."""
    partial: Annotated[bool, Since(False)] = False
    """`code`: the reward is the share of tests that are passed, instead of 1 for all and else 0."""
    version: Annotated[str, Since("")] = ""
    """Names what one's own verifier is beside its source, as the model behind an address: another
    text judges again."""
    trusted: Annotated[bool, Operational, Outward()] = False
    """Whether one's own verifier may use the network, write files and start programs."""
    retries: Annotated[int, Field(ge=0), Operational] = 0
    """Further tries of one's own verifier after a timeout or an error; waits 1, 2, 4 … 30 s."""
    workers: Annotated[int, Field(ge=1), Operational] = 2
    """Judge processes."""
    seconds: Annotated[float, Field(gt=0.0)] = 2.0
    """Wall-clock limit of one verdict; past it the judge is killed and the row is a `timeout`."""
    memory_mb: Annotated[int, Field(ge=256)] = 512
    """Memory limit of one judge, MiB."""
    max_failure_rate: Annotated[Probability, Operational] = 0.05
    """Share of timeouts and errors past which the run stops."""
    pool: Annotated[str, Operational] = ""
    """Prefect work pool whose workers judge the parts of the rollouts, one flow run a part. Empty:
    this machine judges. They need run.directory at the same path (docs/scale.md)."""
    pool_seconds: Annotated[Positive, Operational] = 600.0
    """How long a part may be with the pool, the wait for a worker included; then this machine
    judges it."""
    rules: TrainingRules = TrainingRules()


class SelectSection(Section):
    """Stage `select`: ERRS, RS and group advantages."""

    errs: Literal["drop", "replace", "mask", "off"] = "drop"
    """Expert region reject sampling: what happens to an expert rollout with reward < delta. `drop`:
    it leaves the group; `mask`: it counts in the group's statistics, without loss; `off`: it takes
    part. `replace` (the paper's Algorithm 1): it leaves, and an accepted one takes the place of a
    random on-policy rollout, so set rollout.on_policy to the full group."""
    delta: float = 1.0
    """Lowest reward with which an expert rollout or a trace is accepted (paper: 1.0)."""
    bonus: Literal["off", "linear", "cosine", "exponential", "constant"] = "off"
    """RS: annealing gamma(t) of the bonus on accepted correct expert rollouts, by the true
    iteration: t = 0 in the first, 0 bonus past the horizon. `constant`: gamma = 1 always, as in the
    authors' code, which never counts t."""
    alpha: NonNegative = 1.0
    """Size of the bonus at t = 0."""
    bonus_on: Annotated[Literal["reward", "advantage"], Since("reward")] = "reward"
    """What the bonus is added to. `reward` (the paper's formula, literally): to rewards before the
    group is normalised; where a group is solved, division by the deviation undoes the annealing.
    `advantage`: to the advantage after that; mean, deviation and zero variance are of rewards
    without it."""
    horizon: Annotated[int | None, Field(ge=1)] = None
    """T of the annealing, iterations. Unset: the run's iterations, while `bonus` is on."""
    decay: Positive = 5.0
    """Rate of the `exponential` annealing: gamma(T) = exp(-decay)."""
    advantage: Annotated[
        str,
        Pluggable("icpo_core.method.advantages"),
        Renamed("0.2.0", "divide_by_std", {True: "group", False: "group-mean"}),
    ] = "group"
    """How rewards of a group become advantages. `group`: minus the mean, divided by the standard
    deviation; `group-mean`: minus the mean (Dr.GRPO); `rloo`: minus the mean of the others;
    `maxrl`: minus the mean, divided by the mean; or your own, as ./file.py:name (see
    docs/extending.md)."""
    tuning_buffer: Annotated[CountOrNone, Since(0)] = 0
    """ReLIFT: expert rollouts and traces have no part in their group. Those of groups without a
    right bare rollout wait until they are so many; then the update takes one more step, of
    cross-entropy on them under the bare prompt. 0: off."""
    truncated: Annotated[Literal["wrong", "mask", "drop", "shaped"], Since("wrong")] = "wrong"
    """What a rollout that was cut off at rollout.max_tokens counts for. `wrong`: what its verdict
    says, 0 unless verify.rules.accept_truncated; `mask`: it counts in the group's statistics,
    without loss (DAPO's overlong filtering); `drop`: it leaves the group; `shaped`: as `wrong`, and
    DAPO's soft penalty is added to every reward, from 0 down to -1 over the last `overlong_tokens`
    before rollout.max_tokens."""
    overlong_tokens: Annotated[int | None, Field(ge=1), Since(None)] = None
    """`shaped`: tokens before rollout.max_tokens over which the penalty grows. Unset: a fifth of it
    (DAPO: 4096 of 20480)."""


class LoraSection(Section):
    """LoRA: an adapter of low rank is trained instead of all weights, and published merged, and by
    itself beside that (`rollout.lora`)."""

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
    """Iterations of linear warm-up."""
    schedule: Annotated[Literal["constant", "linear", "cosine"], Since("constant")] = "constant"
    """The learning rate after the warm-up: `constant`, or from its peak down to 0 at `horizon`, by
    the iteration, the same for all optimizer steps of one."""
    horizon: Annotated[int | None, Field(ge=1), Since(None)] = None
    """`linear` and `cosine`: iteration after which the learning rate is 0. Unset: the run's
    iterations, as they were at its start."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    eps: Annotated[Positive, Since(1e-8)] = 1e-8
    """AdamW's term beside the root of the second moment."""
    weight_decay: NonNegative = 0.0
    decay_norms: Annotated[bool, Since(True)] = False
    """Weight decay for norms and biases too. Runs of 0.1.0 have it on, and keep it."""
    grad_clip: Positive = 1.0
    """Largest global gradient norm."""
    mini_batch: CountOrNone = 0
    """Prompts an optimizer step; 0: the whole batch in one step."""
    token_budget: Count = 16384
    """Tokens of a micro-batch, with their padding; those of a shared prompt count with each row."""
    packing: bool | None = None
    """Rows of a micro-batch one behind another, without padding; without flash attention each
    prompt stands once for all its responses. false: beside each other, padded. Unset: packed, but
    padded where there is no flash attention and the model cannot share prompts: tokens² is dear.
    What is not exact for the model is not used (docs/method.md, Layouts prove themselves)."""
    old_logprobs: Literal["trainer", "engine"] = "trainer"
    """Who says what the old policy's logprobs were."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Weights and activations of the trainer. Softmax and loss are float32 always; the logits are a
    product in this dtype that is cast afterwards, unless `head_dtype` says otherwise."""
    head_dtype: Annotated[Literal["same", "float32"], Since("same")] = "same"
    """Product of the last hidden state with the head. `same`: in `dtype`, so that logits in
    bfloat16 are rounded to 8 bits; `float32`: in float32, the weights as they are. For trainer and
    engine alike: one that is set sets the other, and they must not differ."""
    gradient_checkpointing: bool = False
    deterministic: Annotated[bool, Since(False)] = False
    """Only operations that give the same bits each time, on the same machine: PyTorch's
    deterministic algorithms, no TF32, flash attention's deterministic backward. One that has no
    such form ends the update with PyTorch's words."""
    lora: LoraSection = LoraSection()
    deepspeed: Annotated[dict[str, Any], Outward(paths=True)] = {"zero_optimization": {"stage": 0}}
    """DeepSpeed's own settings, or the path of a JSON file that holds them. Batch sizes, optimizer,
    clipping and dtype are set by this program."""
    ranks: CountOrNone = 1
    """Processes of the trainer, by DeepSpeed's launcher; 0: one a device, or one without devices;
    with a hostfile: its slots."""
    hostfile: Annotated[str | None, Operational, Outward()] = None
    """DeepSpeed hostfile, for several machines, this one first. All of them see the run's folder,
    the model and the same interpreter under the same paths."""
    rendezvous: Annotated[
        str | None,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*:[1-9][0-9]{0,4}$"),
        Operational,
        Outward(),
        Since(None),
    ] = None
    """With a hostfile: address and TCP port of this machine at which the ranks meet, as
    `10.0.0.1:29500`, for a network of one's own and its firewall. Unset: the first address that
    `hostname -I` says, and a free port."""
    max_logprob_gap: Annotated[float | None, Field(gt=0.0), Operational] = None
    """Largest mean difference between engine and trainer over a batch's on-policy tokens, nats.
    Unset: 1e-4 in float32, 0.1 in half precision."""
    python: Annotated[str | None, Operational, Outward()] = None
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
    top_k: Annotated[CountOrNone, Since(0)] = 0
    """Only so many of the likeliest tokens are sampled; 0: all."""
    max_tokens: Count = 8192
    verifier: Annotated[Literal["training", "math"], Since("math")] = "training"
    """Who says what is right. `training`: whoever judges in training (`verify.verifier`, or
    `verify.rewards`); `math`: answers, compared by algebra. A multiple choice is judged by its
    letter. Accuracy is the share of responses that are right, whatever reward is given for them."""
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
