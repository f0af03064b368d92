"""The trainer: DeepSpeed around the policy, in processes of its own.

Its state (weights, optimizer) has a name, `state_id`: the fingerprint of the update that made it.
An update says which state it starts from. If that is not the one in memory, the last saved state
is loaded and the stored batches since are replayed, so that no step is ever taken twice and none
is left out.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from icpo_core import schemas
from icpo_core.config import LossSection, UpdateSection
from icpo_core.files import link_or_copy, model_digest, read_json, sync, write_json
from icpo_core.loss import LossInputs, Totals, has_signal, icpo_loss
from icpo_core.microbatches import MicroBatch, Row, collate, plan
from icpo_core.policy import load_policy
from icpo_core.worker import Handler, attempt, serve

DEFAULT_GAP = {"float32": 1e-3, "bfloat16": 0.1}
PROBE_ROWS, PROBE_TOKENS = 8, 128
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "added_tokens.json",
)


class Trainer:
    """The policy under training. Every rank holds one; they act together."""

    def __init__(
        self, model: Path, loss: LossSection, update: UpdateSection, temperature: float
    ) -> None:
        self.model, self.loss, self.settings = model, loss, update
        self.temperature = temperature
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[update.dtype]
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.base_version = model_digest(model)
        self._build()
        self.reference = self._reference() if loss.kl != "off" else None

    def _build(self) -> None:
        """A fresh policy and optimizer from the base model."""
        import deepspeed

        policy = load_policy(self.model, self.dtype, self.temperature)
        if self.settings.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable()
        policy.train()
        self.hf_config = policy.model.config
        pad = self.hf_config.pad_token_id
        self.pad_id = pad if isinstance(pad, int) else 0
        self.engine, _, _, _ = deepspeed.initialize(model=policy, config=self._deepspeed())
        self.device = self.engine.device
        self.state_id = self.base_version

    def _deepspeed(self) -> dict[str, Any]:
        offload = self.settings.deepspeed.get("zero_optimization", {}).get("offload_optimizer")
        if offload and not _has_compiler():
            raise ValueError(
                "update.deepspeed has offload_optimizer, which DeepSpeed compiles, and there is no "
                "C++ compiler: install one (apt-get install g++), or leave it out"
            )
        return {
            **self.settings.deepspeed,
            # step() is the only boundary: mini-batches have as many micro-batches as they need,
            # and losses are divided once, by totals over all of them.
            "managed_gradient_accumulation": False,
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.settings.grad_clip,
            "bf16": {"enabled": self.settings.dtype == "bfloat16"},
            "optimizer": {
                "type": "AdamW",
                "params": {
                    "lr": self.settings.learning_rate,
                    "betas": list(self.settings.betas),
                    "weight_decay": self.settings.weight_decay,
                    "torch_adam": not offload,
                },
            },
            "steps_per_print": 1_000_000_000,
        }

    def _reference(self) -> torch.nn.Module:
        """The frozen base model, for the KL term."""
        policy = load_policy(self.model, self.dtype, self.temperature).requires_grad_(False).eval()
        if self.engine.zero_optimization_stage() < 3:
            return policy.to(self.device)
        import deepspeed

        config = {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": self.settings.deepspeed["zero_optimization"],
            "bf16": {"enabled": self.settings.dtype == "bfloat16"},
        }
        return deepspeed.initialize(model=policy, config=config)[0]

    # --- one update -------------------------------------------------------------------------

    def update(self, job: dict[str, Any]) -> dict[str, Any]:
        """Optimizer steps on one stored batch, then new weights, probe and metrics in `out`.

        Raises ValueError if the batch is not of this run's engine (logprob gap past the limit).
        """
        started = time.perf_counter()
        replayed = self._restore(job["parent"], job["restore"])
        restored = time.perf_counter()
        metrics = self._step(Path(job["batch"]), job["iteration"])
        self.state_id = job["state_id"]
        stepped = time.perf_counter()
        out = Path(job["out"])
        version = self._publish(out / "model")
        self._probe(Path(job["batch"]), out / "model" / "probe.parquet")
        timing = {
            "restore": restored - started,
            "step": stepped - restored,
            "publish": time.perf_counter() - stepped,
        }
        return {
            "metrics": metrics,
            "policy_version": version,
            "replayed": replayed,
            "timing": timing,
        }

    def _restore(self, parent: str, restore: dict[str, Any]) -> list[int]:
        """Bring memory to state `parent`; the iterations that had to be replayed."""
        if self.state_id == parent:
            return []
        self.state_id = ""  # until all of it is there
        if restore["folder"] is None:
            self._build()
        else:
            self._load(Path(restore["folder"]))
        replayed = []
        for step in restore["replay"]:
            self._step(Path(step["batch"]), step["iteration"])
            replayed.append(step["iteration"])
        self.state_id = parent
        return replayed

    def _step(self, batch: Path, iteration: int) -> dict[str, float]:
        rows = _rows(batch)
        groups = list(dict.fromkeys(row.group for row in rows))
        size = self.settings.mini_batch or max(1, len(groups))
        minis = [set(groups[i : i + size]) for i in range(0, len(groups), size)]
        one_step = len(minis) == 1
        totals: dict[str, tuple[float, float]] = {}
        old: dict[int, Tensor] = {}
        if not one_step and self.settings.old_logprobs == "trainer":
            old = self._old_logprobs(rows)
        self._set_learning_rate(iteration)
        norms, skipped, used = [], 0, 0
        for number, mini in enumerate(minis):
            members = [i for i, row in enumerate(rows) if row.group in mini]
            counted = [i for i in members if len(rows[i].response_ids)]
            advantages = torch.tensor([rows[i].advantage for i in counted])
            signal = has_signal(advantages, self.loss).tolist()
            kept = [i for i, useful in zip(counted, signal, strict=True) if useful]
            skipped += len(counted) - len(kept)
            used += len(kept)
            if not kept:
                continue
            # Rows without signal are left out of the compute, not out of the mean.
            whole = Totals(
                tokens=float(sum(len(rows[i].response_ids) for i in counted)),
                sequences=float(len(counted)),
            )
            first = number == 0
            sums = self._accumulate(rows, kept, whole, old, check_gap=first)
            for name, (value, count) in sums.items():
                before = totals.get(name, (0.0, 0.0))
                totals[name] = (before[0] + value, before[1] + count)
            norms.append(self._optimizer_step())
        metrics = {
            name: value / count if count else math.nan for name, (value, count) in totals.items()
        }
        metrics |= {
            "optimizer_steps": float(len(norms)),
            "grad_norm": float(np.mean(norms)) if norms else 0.0,
            "learning_rate": self._learning_rate(iteration),
            "rows": float(used),
            "rows_without_signal": float(skipped),
        }
        return metrics

    def _accumulate(
        self,
        rows: list[Row],
        kept: list[int],
        totals: Totals,
        old: dict[int, Tensor],
        check_gap: bool,
    ) -> dict[str, tuple[float, float]]:
        """Forward and backward over this rank's micro-batches; metric sums over all ranks."""
        share = plan([rows[i].length for i in kept], self.settings.token_budget, self.ranks)
        sums: dict[str, list[Tensor]] = {}

        def add(name: str, value: Tensor | float, count: Tensor | float) -> None:
            pair = [torch.as_tensor(x, dtype=torch.float64).cpu() for x in (value, count)]
            before = sums.get(name)
            sums[name] = [a + b for a, b in zip(before, pair, strict=True)] if before else pair

        for indices in share[self.rank]:
            members = [kept[i] for i in indices]
            micro = collate([rows[i] for i in members], self.pad_id, self.device)
            logprobs_N, entropy_N = self.engine(
                micro.tokens_BS,
                micro.predictors,
                micro.targets,
                entropy_gradient=self.loss.entropy_coefficient > 0,
            )
            inputs = self._inputs(micro, members, logprobs_N, entropy_N, old)
            outputs = icpo_loss(inputs, self.loss, totals)
            # DeepSpeed averages gradients over ranks; the loss is already divided by global totals.
            self.engine.backward(outputs.loss * self.ranks)
            for name, (value, count) in outputs.metrics.items():
                add(name, value, count)
            gaps = _gaps(micro, inputs)
            add("engine_gap/mean", gaps.sum(), len(gaps))
            sums["engine_gap/max"] = [
                torch.maximum(
                    sums.get("engine_gap/max", [torch.zeros((), dtype=torch.float64)])[0],
                    gaps.max().double().cpu() if len(gaps) else torch.zeros(()).double(),
                ),
                torch.ones((), dtype=torch.float64),
            ]
            add("padding_share", micro.padding_share, 1.0)
        reduced = self._reduce(sums)
        if check_gap:
            self._check_gap(reduced)
        return reduced

    def _inputs(
        self,
        micro: MicroBatch,
        members: list[int],
        logprobs_N: Tensor,
        entropy_N: Tensor,
        old: dict[int, Tensor],
    ) -> LossInputs:
        logprobs_BT = micro.spread(logprobs_N)
        known = [row.behaviour_logprobs is not None for row in micro.rows]
        behaviour = [
            torch.from_numpy(row.behaviour_logprobs)
            if row.behaviour_logprobs is not None
            else torch.zeros(len(row.response_ids))
            for row in micro.rows
        ]
        behaviour_BT = micro.spread(_flat(behaviour, self.device))
        expert_B = torch.tensor([row.expert for row in micro.rows] or [False], device=self.device)
        known_B = torch.tensor(known or [False], device=self.device)
        if self.settings.old_logprobs == "engine":
            from_engine = (known_B & ~expert_B)[:, None]
            old_BT = torch.where(from_engine, behaviour_BT, logprobs_BT.detach())
        elif old:
            old_BT = micro.spread(_flat([old[i] for i in members], self.device))
        else:
            old_BT = logprobs_BT.detach()
        reference_BT = None
        if self.reference is not None:
            with torch.no_grad():
                reference_N, _ = self.reference(
                    micro.tokens_BS, micro.predictors, micro.targets, entropy=False
                )
            reference_BT = micro.spread(reference_N)
        advantages = [row.advantage for row in micro.rows] or [0.0]
        return LossInputs(
            logprobs_BT=logprobs_BT,
            old_logprobs_BT=old_BT,
            reference_logprobs_BT=reference_BT,
            behaviour_logprobs_BT=behaviour_BT,
            behaviour_known_B=known_B,
            advantages_B=torch.tensor(advantages, device=self.device),
            mask_BT=micro.mask_BT,
            expert_B=expert_B,
            entropy_BT=micro.spread(entropy_N),
        )

    @torch.no_grad()
    def _old_logprobs(self, rows: list[Row]) -> dict[int, Tensor]:
        """Logprobs of every row before the first step of the iteration, by row index."""
        indices = [i for i, row in enumerate(rows) if len(row.response_ids)]
        share = plan([rows[i].length for i in indices], self.settings.token_budget, self.ranks)
        mine: dict[int, Tensor] = {}
        for part in share[self.rank]:
            members = [indices[i] for i in part]
            micro = collate([rows[i] for i in members], self.pad_id, self.device)
            logprobs, _ = self.engine(
                micro.tokens_BS, micro.predictors, micro.targets, entropy=False
            )
            lengths = [len(row.response_ids) for row in micro.rows]
            mine.update(zip(members, logprobs.float().cpu().split(lengths), strict=False))
        if self.ranks == 1:
            return mine
        # The plan of a mini-batch may give a row to another rank than the plan of the batch.
        everyone: list[Any] = [None] * self.ranks
        dist.all_gather_object(everyone, {i: v.numpy() for i, v in mine.items()})
        return {i: torch.from_numpy(v) for part in everyone for i, v in part.items()}

    def _reduce(self, sums: dict[str, list[Tensor]]) -> dict[str, tuple[float, float]]:
        """Add up over ranks."""
        everyone: list[Any] = [None] * self.ranks
        local = {name: (float(value), float(count)) for name, (value, count) in sums.items()}
        if self.ranks == 1:
            return local
        dist.all_gather_object(everyone, local)
        reduced: dict[str, tuple[float, float]] = {}
        for part in everyone:
            for name, (value, count) in part.items():
                before = reduced.get(name)
                if before is None:
                    reduced[name] = (value, count)
                elif name.endswith("/max"):
                    reduced[name] = (max(before[0], value), 1.0)
                else:
                    reduced[name] = (before[0] + value, before[1] + count)
        return reduced

    def _check_gap(self, sums: dict[str, tuple[float, float]]) -> None:
        """Stop before the step if these rollouts are not from the weights in memory."""
        value, count = sums["engine_gap/mean"]
        limit = self.settings.max_logprob_gap or DEFAULT_GAP[self.settings.dtype]
        if count and not value / count <= limit:
            self.state_id = ""  # gradients are half accumulated: start from a saved state
            raise ValueError(
                f"engine and trainer disagree: the mean gap of on-policy logprobs is "
                f"{value / count:.3g} nats (limit {limit:g}, update.max_logprob_gap); the rollouts "
                f"were made by other weights, nothing was learned from them"
            )

    def _optimizer_step(self) -> float:
        """Clip, step, clear. The gradient norm before clipping."""
        in_plain_torch = not (self.engine.bfloat16_enabled() or self.engine.zero_optimization())
        norm = _norm(self.engine.module) if in_plain_torch else None
        self.engine.step()
        return float(norm if norm is not None else self.engine.get_global_grad_norm() or 0.0)

    def _learning_rate(self, iteration: int) -> float:
        warmup = self.settings.warmup_iterations
        share = min(1.0, iteration / warmup) if warmup else 1.0
        return self.settings.learning_rate * share

    def _set_learning_rate(self, iteration: int) -> None:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self._learning_rate(iteration)

    # --- weights and state on disk ----------------------------------------------------------

    def _publish(self, folder: Path) -> str:
        """Write the weights as a Hugging Face model folder; their digest."""
        weights = self._weights()
        version = [""]
        if self.rank == 0:
            from huggingface_hub import save_torch_state_dict

            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            save_torch_state_dict(weights, folder)
            config = self.hf_config.to_dict()
            config["dtype"] = self.settings.dtype
            write_json(folder / "config.json", config)
            for name in COMPANIONS:
                if (self.model / name).is_file():
                    link_or_copy(self.model / name, folder / name)
            for shard in folder.glob("*.safetensors"):
                sync(shard)
            version = [model_digest(folder)]
        if self.ranks > 1:
            dist.broadcast_object_list(version)
        return version[0]

    def _weights(self) -> dict[str, Tensor]:
        """The policy's weights on the CPU, under their Hugging Face names, on rank 0."""
        model = self.engine.module.model
        if self.engine.zero_optimization_stage() < 3:
            return {name: value.detach().cpu() for name, value in _tied_once(model)}
        import deepspeed

        weights = {}
        for name, value in _tied_once(model):
            with deepspeed.zero.GatheredParameters([value], modifier_rank=None):
                if self.rank == 0:
                    weights[name] = value.detach().cpu().clone()
        return weights

    @torch.no_grad()
    def _probe(self, batch: Path, file: Path) -> None:
        """Sequences and their logprobs at temperature 1, by which an engine proves its weights."""
        rows = [row for row in _rows(batch) if row.length > 1][:PROBE_ROWS]
        sequences = [np.concatenate([r.prompt_ids, r.response_ids])[:PROBE_TOKENS] for r in rows]
        sequences = sequences or [np.arange(min(16, self.hf_config.vocab_size))]
        table = []
        at_rollouts = self.engine.module.temperature
        self.engine.module.temperature = 1.0
        for ids in sequences:
            tokens = torch.from_numpy(ids.astype(np.int64)).to(self.device)
            logprobs, _ = self.engine(
                tokens[None], torch.arange(len(ids) - 1, device=self.device), tokens[1:], False
            )
            table.append({"token_ids": ids.tolist(), "logprobs": logprobs.cpu().tolist()})
        self.engine.module.temperature = at_rollouts
        if self.rank == 0:
            schemas.write("probe", schemas.table("probe", table), file)

    def save(self, job: dict[str, Any]) -> dict[str, Any]:
        """Save weights and optimizer, the state named `state_id`, in `out`."""
        self._restore(job["state_id"], job["restore"])
        folder = Path(job["out"])
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        if self.ranks > 1:
            dist.barrier()
        self.engine.save_checkpoint(str(folder), tag="deepspeed", save_latest=False)
        if self.rank == 0:
            write_json(folder / "state.json", {"state_id": self.state_id, "ranks": self.ranks})
            for file in (folder / "deepspeed").iterdir():
                sync(file)
        return {}

    def _load(self, folder: Path) -> None:
        saved = read_json(folder / "state.json")
        if saved["ranks"] != self.ranks:
            raise ValueError(
                f"{folder}: saved by {saved['ranks']} ranks, this trainer has {self.ranks}; "
                "set update.ranks back, or begin a new run from the published model"
            )
        self.engine.load_checkpoint(str(folder), tag="deepspeed")


def _norm(module: torch.nn.Module) -> Tensor:
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads)


def _tied_once(model: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers; a weight that two layers share comes once."""
    return [*model.named_parameters(), *_persistent_buffers(model)]


def _persistent_buffers(model: torch.nn.Module) -> list[tuple[str, Tensor]]:
    kept = model.state_dict(keep_vars=True).keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]


def _flat(pieces: list[Tensor], device: torch.device) -> Tensor:
    return torch.cat(pieces).to(device) if pieces else torch.zeros(0, device=device)


def _gaps(micro: MicroBatch, inputs: LossInputs) -> Tensor:
    """|trainer - engine| of each on-policy token: expert ones were sampled from another prompt."""
    assert inputs.behaviour_logprobs_BT is not None
    comparable_B = inputs.behaviour_known_B & ~inputs.expert_B
    chosen = micro.mask_BT.bool() & comparable_B[:, None]
    return (inputs.logprobs_BT.detach() - inputs.behaviour_logprobs_BT)[chosen].abs()


def _rows(batch: Path) -> list[Row]:
    table = schemas.read("batch", batch)
    columns = {name: table.column(name) for name in table.column_names}

    def lists(name: str) -> list[np.ndarray | None]:
        return [
            None if value is None or not value.is_valid else value.values.to_numpy()
            for value in columns[name]
        ]

    prompts, responses, behaviours = map(
        lists, ("prompt_ids", "response_ids", "behaviour_logprobs")
    )
    rows = []
    for index in range(table.num_rows):
        prompt, response, behaviour = prompts[index], responses[index], behaviours[index]
        assert prompt is not None and response is not None
        rows.append(
            Row(
                prompt_ids=prompt,
                response_ids=response,
                behaviour_logprobs=None if behaviour is None else behaviour.copy(),
                advantage=columns["advantage"][index].as_py(),
                expert=columns["origin"][index].as_py() != schemas.Origin.ON_POLICY,
                group=columns["prompt_id"][index].as_py(),
            )
        )
    return rows


def main() -> None:
    """Serve jobs. The one argument is JSON: `model`, `loss`, `update`, `temperature`."""
    settings = json.loads(sys.argv[1])
    update = UpdateSection.model_validate(settings["update"])
    if "RANK" not in os.environ:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    rank = int(os.environ["RANK"])
    if update.threads:
        torch.set_num_threads(update.threads)

    def build() -> tuple[dict[str, Any], dict[str, Handler]]:
        import deepspeed

        if os.environ["WORLD_SIZE"] == "1" or not _has_compiler():
            # An op by which ranks of one CPU machine share memory. A single rank has no use for
            # it, and would compile it for 40 s at its first start; without it gloo does the same.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # Ranks wait for jobs as long as sampling takes.
        deepspeed.init_distributed(timeout=timedelta(days=7), verbose=False)
        trainer = Trainer(
            Path(settings["model"]),
            LossSection.model_validate(settings["loss"]),
            update,
            settings["temperature"],
        )
        ready = {"state_id": trainer.state_id, "ranks": trainer.ranks}
        return ready, {
            "update": lambda job, _: trainer.update(job),
            "save": lambda job, _: trainer.save(job),
        }

    def build_leader() -> tuple[dict[str, Any], dict[str, Handler]]:
        ready, handlers = build()
        return ready, {name: _together(handler) for name, handler in handlers.items()}

    if rank == 0:
        serve(build_leader)
    _follow(build()[1])


def _together(handler: Handler) -> Handler:
    """Rank 0's handler: hand the job to the other ranks, then do it."""

    def handle(job: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        _say(job)
        dist.broadcast_object_list([job])
        return handler(job, progress)

    return handle


def _follow(handlers: dict[str, Handler]) -> NoReturn:
    """Other ranks: do what rank 0 does. They end with the process group that rank 0 kills."""
    while True:
        job: list[Any] = [None]
        dist.broadcast_object_list(job)
        _say(job[0])
        reply = attempt(handlers[job[0]["job"]], job[0], lambda news: None)
        if "failure" in reply:
            raise SystemExit(reply["failure"])


def _say(job: dict[str, Any]) -> None:
    """Into the rank's log: by it one sees where a rank was when all of them stood still."""
    if dist.get_world_size() > 1:
        print(f"rank {dist.get_rank()} begins {job['job']} of {job['out']}", flush=True)


def _has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "c++")) is not None


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
