"""What a run would take, before anything starts: memory a device, disk, seconds an iteration.

Every figure is a sum of named parts, so that what does not fit can be seen. `docs/gpu.md` has the
formulas with a worked example a recipe, and how they were checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from icpo_core.capacity.machine import GIB, Machine, Rates
from icpo_core.common import resources
from icpo_core.config import Config, EngineSection, UpdateSection, override
from icpo_core.evaluation.registry import ENTRIES
from icpo_core.models.architecture import Shape

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CONTEXT = int(1.5 * GIB)
"""CUDA context, communication buffers and graphs of a process on a GPU."""
LOGITS = GIB // 2
"""Logits that the trainer holds at a time, forward and backward."""
BATCHED_TOKENS = 8192
"""Tokens that vLLM takes up at once."""

# Resident memory of a process on the CPU before its model: Python with the libraries it imports.
# Measured with `python -m benchmarks.memory`.
ENGINE_PROCESS = int(0.80 * GIB)
TRAINER_PROCESS = int(0.65 * GIB)
FLOW_PROCESS = int(0.55 * GIB)
PREFECT_SERVER = int(0.25 * GIB)
JUDGE_PROCESS = int(0.10 * GIB)

KEPT = GIB // 2
"""What glibc keeps of freed memory in a worker (workers/process.py)."""

STAGE_BYTES = 35_000
"""Manifests, figures and the fixed part of the Parquet files of an iteration."""
BOOKKEEPING = 0.4
"""Seconds an iteration of Prefect, Parquet, hashes and manifests."""
BENCHMARK_ROWS = 500
"""Problems of a benchmark that is neither on disk nor known."""

RESTING = tuple(
    f"trainer: {part}" for part in ("weights", "optimizer", "reference", "average", "context")
)
"""What of the trainer lies on its device while the engine samples."""
ZERO = resources.CONFIGS / "deepspeed"

Parts = dict[str, float]
"""Bytes or seconds, by what they are for."""


@dataclass(frozen=True)
class Load:
    """What one stage puts on one device, or on the machine itself."""

    stage: str
    parts: Parts
    room: float
    """Bytes there are."""

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.room


@dataclass(frozen=True)
class Layout:
    """How many processes of each kind there are."""

    engines: int
    """Of our own; 0 with endpoints."""
    ranks: int
    shared: bool
    """Engines and trainer lie on the same devices."""


# --- memory -----------------------------------------------------------------------------------


def kv_bytes(shape: Shape, engine: EngineSection) -> float:
    """KV cache of one token on one device."""
    shared = min(engine.tensor_parallel, shape.kv_heads)
    return 2 * shape.layers * shape.keys * BYTES[engine.dtype] / shared


def engine_memory(shape: Shape, engine: EngineSection) -> Parts:
    """The engine on one GPU without its KV cache."""
    b, shards = BYTES[engine.dtype], engine.tensor_parallel
    logits = 3 * engine.max_num_seqs * shape.vocabulary * 4
    return {
        "engine: weights": shape.parameters * b / shards,
        "engine: work": logits + BATCHED_TOKENS * 2 * (shape.width + shape.ffn / shards) * b,
        "engine: context": CONTEXT,
    }


def trained(shape: Shape, update: UpdateSection) -> int:
    """Parameters that have gradients and moments: all, or LoRA's."""
    lora = update.lora
    if not lora.rank:
        return shape.parameters
    return shape.adapter_parameters(lora.rank, lora.target_modules)


def state_memory(shape: Shape, update: UpdateSection, ranks: int) -> Parts:
    """Weights, gradients and optimizer of one rank, by DeepSpeed's own account of ZeRO
    (https://deepspeed.readthedocs.io/en/latest/memory.html)."""
    zero = update.deepspeed.get("zero_optimization", {})
    stage, parameters, b = zero.get("stage", 0), trained(shape, update), BYTES[update.dtype]
    frozen = shape.parameters if update.lora.rank else 0
    share = parameters / ranks
    # Two moments; under ZeRO and in bfloat16 a float32 master and its gradient too.
    optimizer = (8 if stage == 0 and b == 4 else 16) * (share if stage else parameters)
    parts: Parts = {
        "trainer: weights": b * (frozen + (share if stage == 3 else parameters)),
        "trainer: gradients": b * (share if stage >= 2 else parameters),
        "trainer: optimizer": 0 if "offload_optimizer" in zero else optimizer,
    }
    if stage:
        buckets = zero.get("reduce_bucket_size", 500_000_000)
        buckets *= 2 if zero.get("overlap_comm", stage == 3) else 1
        if stage == 3:
            buckets += zero.get("stage3_prefetch_bucket_size", 50_000_000)
            # The largest layer gathered, with its gradient.
            largest = max(shape.layer_parameters, shape.vocabulary * shape.width)
            parts["trainer: gathered"] = 2 * b * largest
        elif ranks > 1:
            buckets += zero.get("allgather_bucket_size", 500_000_000)
        # No bucket grows past the model.
        parts["trainer: buckets"] = b * min(buckets, 2 * parameters)
    return parts


def activation_bytes(shape: Shape, update: UpdateSection) -> float:
    """What one layer keeps of one token for backward."""
    b, lora = BYTES[update.dtype], update.lora
    kept = 16 * shape.width + 10 * shape.queries + 10 * shape.keys + 8 * shape.ffn
    if b == 4:
        kept = 24 * shape.width + 16 * shape.queries + 16 * shape.keys + 16 * shape.ffn
    if lora.rank:
        # LoRA's products A x; and frozen norms need not know what they multiply.
        kept += b * lora.rank * len(lora.target_modules)
        kept -= b * (2 * shape.width + shape.queries + shape.keys)
    return kept


def micro_batch_tokens(config: Config, machine: Machine) -> float:
    """Tokens that the trainer computes at once at most: as many rows as the budget takes, of the
    lengths that are known. Without devices a prompt stands once for all its responses."""
    longest = config.prompts.max_tokens + config.rollout.max_tokens
    prompt, response = mean_lengths(config, machine.rates)
    row = prompt + response
    rows = (config.update.mini_batch or config.prompts.batch_size) * group_size(config)
    tokens = min(max(config.update.token_budget, longest), rows * row)
    if not machine.devices.count and config.update.packing is not False:
        tokens *= (response + prompt / group_size(config)) / row
    return tokens


def mean_lengths(config: Config, rates: Rates) -> tuple[float, float]:
    """Tokens of a bare prompt and of a response; the longest allowed where they are not known."""
    return (
        rates.prompt_tokens or config.prompts.max_tokens,
        rates.response_tokens or config.rollout.max_tokens,
    )


def trainer_memory(shape: Shape, config: Config, machine: Machine, ranks: int) -> Parts:
    """One rank at its highest, without its process."""
    update = config.update
    b, layer = BYTES[update.dtype], activation_bytes(shape, update)
    tokens = micro_batch_tokens(config, machine)
    parts = state_memory(shape, update, ranks)
    if (config.loss.kl != "off" or config.loss.teacher == "start") and not update.lora.rank:
        sharded = update.deepspeed.get("zero_optimization", {}).get("stage", 0) == 3
        parts["trainer: reference"] = b * shape.parameters / (ranks if sharded else 1)
    if config.loss.teacher == "average":  # float32, and in its turn what it takes the place of
        parts["trainer: average"] = trained(shape, update) * (4 + b)
    kept = shape.layers * (shape.width * b if update.gradient_checkpointing else layer)
    # One layer more: the one that is made again, or its gradients.
    parts["trainer: activations"] = tokens * (kept + layer)
    parts["trainer: logits"] = min(LOGITS, tokens * shape.vocabulary * 4 * 4)
    return parts


def host_memory(shape: Shape, config: Config, layout: Layout) -> Parts:
    """The machine's own memory while everything is up."""
    weights = shape.parameters * BYTES[config.rollout.engine.dtype]
    judges = config.verify.workers * (2 if config.evaluate.benchmarks else 1)
    parts: Parts = {
        "flow and Prefect": FLOW_PROCESS + PREFECT_SERVER,
        "judges": judges * JUDGE_PROCESS,
        "engine processes": layout.engines * ENGINE_PROCESS,
        "trainer processes": layout.ranks * TRAINER_PROCESS,
        # Built anew beside every reload (engine/contents.py).
        "engine: weights compared": layout.engines * weights,
    }
    if "offload_optimizer" in config.update.deepspeed.get("zero_optimization", {}):
        parts["offloaded optimizer"] = (
            trained(shape, config.update) * 1.5 * max(4 * layout.ranks, 16)
        )
    return parts


def memory(shape: Shape, config: Config, machine: Machine, layout: Layout) -> list[Load]:
    """The highest load of each stage that has one, on one device and on the machine."""
    host = host_memory(shape, config, layout)
    room = machine.host.memory_gib * GIB
    engine = config.rollout.engine
    trainer = trainer_memory(shape, config, machine, layout.ranks)
    if not machine.devices.count:
        weights = shape.parameters * BYTES[engine.dtype]
        host["engine: weights"] = layout.engines * weights
        # The CPU build lays its matrices out for its kernels, and keeps what a reload writes into.
        host["engine: packed weights"] = layout.engines * weights
        host["engine: kept for the next reload"] = layout.engines * min(KEPT, weights)
        work = engine_memory(shape, engine)["engine: work"]
        host["engine: work"] = layout.engines * work
        host["engine: KV cache"] = layout.engines * engine.cpu_kv_cache_gib * GIB
        return [Load("whole run", host | {k: v * layout.ranks for k, v in trainer.items()}, room)]
    device = machine.devices.memory_gib * GIB
    allowed = engine.gpu_memory_utilization * device
    base = engine_memory(shape, engine)
    least = base | {
        "engine: KV cache of one sequence": kv_bytes(shape, engine) * engine.max_model_len
    }
    sampling = base | {"engine: KV cache": max(0.0, allowed - sum(base.values()))}
    training = trainer | {"trainer: context": float(CONTEXT)}
    if layout.shared:
        sampling |= {name: training[name] for name in RESTING if name in training}
        training["engine: asleep"] = CONTEXT
    if not layout.engines:
        return [Load("update", training, device), Load("machine", host, room)]
    return [
        # vLLM does not start below this.
        Load("engine start", least, allowed),
        Load("rollout, evaluate", sampling, device),
        Load("update", training, device),
        Load("machine", host, room),
    ]


def what_helps(shape: Shape, config: Config, machine: Machine, layout: Layout) -> list[str]:
    """Changes that make the run fit, the cheapest first; empty if none do.

    A change is kept only if what does not fit yet gets smaller by it.
    """

    def excess(candidate: Config) -> float:
        loads = memory(shape, candidate, machine, layout)
        return sum(max(0.0, load.total - load.room) for load in loads)

    longest = config.prompts.max_tokens + config.rollout.max_tokens
    kept: list[str] = []
    best = excess(config)

    def attempt(change: str) -> None:
        nonlocal kept, best
        key = change.partition("=")[0]
        changes = [line for line in kept if line.partition("=")[0] != key] + [change]
        left = excess(override(config, changes))
        if left < best:
            kept, best = changes, left

    budget = f"update.token_budget={min(config.update.token_budget, longest)}"
    # On the CPU smaller micro-batches cost nothing, and a second forward pass a third.
    if not machine.devices.count:
        attempt(budget)
    if best:
        attempt("update.gradient_checkpointing=true")
    attempt(budget)
    for name in ("zero2", "zero3") if layout.ranks > 1 else ():
        attempt(f"update.deepspeed={ZERO / name}.json")
    attempt(f"update.deepspeed={ZERO / 'offload'}.json")
    if best and machine.devices.count and layout.engines:
        room = machine.devices.memory_gib * GIB
        changed = override(config, kept)
        _, sampling, *_ = memory(shape, changed, machine, layout)
        resting = sum(value for name, value in sampling.parts.items() if name in RESTING)
        share = math.floor(100 * (1 - resting / room)) / 100
        if 0 < share <= 1:
            attempt(f"rollout.engine.gpu_memory_utilization={share:.2f}")
    return [] if best else [line.replace(f"{ZERO.parent.parent}/", "") for line in kept]


def group_size(config: Config) -> int:
    """Rollouts of a problem, at most."""
    return config.rollout.on_policy + config.rollout.expert * config.rollout.expert_tries


# --- disk -------------------------------------------------------------------------------------


def model_bytes(shape: Shape, config: Config) -> float:
    """Published weights."""
    return shape.parameters * BYTES[config.update.dtype]


def state_bytes(shape: Shape, config: Config) -> float:
    """A saved trainer state: what is trained, moments, and under ZeRO or in bfloat16 a float32
    master."""
    stage = config.update.deepspeed.get("zero_optimization", {}).get("stage", 0)
    b = BYTES[config.update.dtype]
    return trained(shape, config.update) * (b + (8 if stage == 0 and b == 4 else 12))


def row_bytes(shape: Shape, response: float) -> float:
    """A rollout in all tables: ids and logprobs twice, the text once; as little compressed as they
    are in real text, the small problems' take less."""
    ids = math.log2(max(2, shape.vocabulary)) / 8
    return response * (2 * (ids + 4) + 2)


def disk(shape: Shape, config: Config, rates: Rates, rows: dict[str, int]) -> Parts:
    """The run's folder at its fullest, bytes; `rows`: problems of each benchmark on disk."""
    keep, iterations = config.checkpoint, config.run.iterations
    response = rates.response_tokens or config.rollout.max_tokens
    # Off-policy, those that are yet to be sampled from.
    kept = max(keep.keep_last, config.rollout.off_policy_steps) + (1 if keep.keep_best else 0)
    kept += iterations // keep.keep_every if keep.keep_every else 0
    saved = -(-iterations // keep.state_every)
    newest = -(-keep.keep_last // keep.state_every)
    every = config.evaluate.every
    times = iterations // every + config.evaluate.at_start if every else 0
    sampled = evaluation_samples(config, rows) * row_bytes(shape, response) / 2
    rollouts = config.prompts.batch_size * group_size(config) * row_bytes(shape, response)
    return {
        # One more of each, while the new is there and the old is not yet gone.
        "weights": model_bytes(shape, config) * min(iterations, kept + 1),
        "trainer states": state_bytes(shape, config) * min(saved, newest + 1),
        "rollouts": iterations * (STAGE_BYTES + rollouts),
        "evaluations": times * sampled,
    }


# --- time -------------------------------------------------------------------------------------


def evaluation_samples(config: Config, rows: dict[str, int] | None = None) -> float:
    """Samples of one evaluation; `rows`: problems of each benchmark, where it is on disk."""

    def problems(name: str) -> int:
        known = ENTRIES[name].sizes if name in ENTRIES else ()
        return (rows or {}).get(name) or (known[-1] if known else BENCHMARK_ROWS)

    return sum(
        one.samples * min(problems(one.name), one.limit or math.inf)
        for one in config.evaluate.benchmarks
    )


def passes(config: Config) -> float:
    """What an update computes, in units of one forward and backward over its tokens."""
    update, whole = config.update, config.prompts.batch_size
    several = 0 < update.mini_batch < whole
    # Forward alone is a third: for the reference, for the old policy, and made again in backward.
    thirds = (
        (config.loss.kl != "off")
        + config.loss.distills
        + (several and update.old_logprobs == "trainer")
    )
    # Weights that an adapter leaves frozen get no gradient, which is a third of all.
    return (2 if update.lora.rank else 3) / 3 + (thirds + update.gradient_checkpointing) / 3


def seconds(
    shape: Shape, config: Config, machine: Machine, layout: Layout, rows: dict[str, int]
) -> Parts | None:
    """Seconds an iteration by stage; None where no rates are known. One-step off-policy, of rollout
    and update only the longer one takes time."""
    rates = machine.rates
    if rates.sample_tokens_per_second is None or rates.train_tokens_per_second is None:
        return None
    prompt, response = mean_lengths(config, rates)
    rollouts = config.prompts.batch_size * group_size(config)
    samplers = layout.engines or len(config.rollout.endpoints)
    wide = samplers * config.rollout.engine.tensor_parallel
    sampling = rates.sample_tokens_per_second * wide
    training = rates.train_tokens_per_second * layout.ranks
    judging = rates.verdicts_per_second * config.verify.workers
    weights = model_bytes(shape, config) / GIB / rates.disk_gib_per_second
    state = state_bytes(shape, config) / GIB / rates.disk_gib_per_second
    parts: Parts = {
        "rollout": rollouts * response / sampling + weights,
        "verify": rollouts / judging,
        "update": rollouts * (prompt + response) * passes(config) / training + 2 * weights,
        "checkpoint": state / config.checkpoint.state_every,
        "bookkeeping": BOOKKEEPING,
    }
    if config.evaluate.every and config.evaluate.benchmarks:
        samples = evaluation_samples(config, rows)
        once = samples * response / sampling + samples / judging
        parts["evaluate"] = once / config.evaluate.every
    if config.rollout.off_policy_steps:
        parts[min(("rollout", "update"), key=lambda stage: parts[stage])] = 0.0
    return parts
