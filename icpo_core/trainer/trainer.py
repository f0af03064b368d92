"""The trainer: DeepSpeed around the policy.

Its state (weights, optimizer) has a name, `state_id`: the fingerprint of the update that made it.
An update says which state it starts from. If that is not the one in memory, the last saved state
is loaded and the stored batches since are replayed, so that no step is ever taken twice and none
is left out.
"""

from __future__ import annotations

import gc
import math
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from icpo_core.common import plugins
from icpo_core.common.files import canonical_digest, model_digest, read_json
from icpo_core.config import LossSection, UpdateSection
from icpo_core.method.loss import Totals, has_signal, icpo_loss, uses_kl, uses_reference
from icpo_core.method.policy_losses import LossInputs, policy_loss
from icpo_core.models.architecture import from_config
from icpo_core.models.flops import training_flops
from icpo_core.store.batch import read
from icpo_core.store.paths import EXPERT_TOKENS
from icpo_core.trainer import average, decay, lora, state, teacher, tuning
from icpo_core.trainer.deepspeed_settings import settings_of
from icpo_core.trainer.expert_tokens import ExpertTokens
from icpo_core.trainer.layouts import choose_proven
from icpo_core.trainer.learning_rate import learning_rate
from icpo_core.trainer.microbatches import (
    BESIDE,
    Layout,
    MicroBatch,
    Row,
    choose,
    collate,
    on_all,
    padding_share,
    plan,
    rows_of,
    same_on_all,
    shown_tokens,
)
from icpo_core.trainer.policy import Policy, flash_attention, load_policy
from icpo_core.trainer.publish import publish, write_probe
from icpo_core.trainer.update_metrics import Figures, add_gap
from icpo_core.workers.jobs import Replay, Restore, Save, Saved, Taught, Teach, Update, Updated

DEFAULT_GAP = {"float32": 1e-4, "bfloat16": 0.1}
MUST_BE_FINITE = ("loss", "grad_norm", "tuning/loss", "tuning/grad_norm")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Trainer:
    """The policy under training. Every rank holds one; they act together."""

    def __init__(
        self,
        model: Path,
        loss: LossSection,
        update: UpdateSection,
        temperature: float,
        updates_behind: int = 0,
    ) -> None:
        """updates_behind: updates that may lie between the weights that sampled and these."""
        self.model, self.loss, self.settings = model, loss, update
        self.now = loss
        """The loss in the iteration at work."""
        self.temperature, self.updates_behind = temperature, updates_behind
        self.policy_source = plugins.source_digest(loss.policy)
        self.policy_loss = policy_loss(loss.policy, self.policy_source)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.base_version = model_digest(model)
        self.flash_attention = flash_attention(DTYPES[update.dtype])
        self.engine: Any = None
        self.layout, self._proven = Layout.PADDED, False
        self.layout_note = ""
        self.adapted = bool(update.lora.rank)
        self._build()
        # With an adapter the reference is the policy with it switched off.
        self.reference = self._reference() if uses_reference(loss) and not self.adapted else None

    def _build(self) -> None:
        """A fresh policy and optimizer from the base model, in the place of any there are."""
        import deepspeed

        if self.engine is not None:
            self.engine.destroy()
            self.engine = None
            gc.collect()
        policy = self._policy()
        if self.settings.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable()
        policy.train()
        wanted = same_on_all(
            choose(self.settings.packing, self.flash_attention, policy.shares_prompts), self.ranks
        )
        pad = policy.model.config.pad_token_id
        self.pad_id = pad if isinstance(pad, int) else 0
        self.engine, _, _, _ = deepspeed.initialize(
            model=policy,
            model_parameters=decay.groups(policy, self.settings),
            config=settings_of(self.settings),
        )
        self.device = self.engine.device
        self._norm: Tensor | None = None
        self._trained: list[tuple[int, int, int]] = []
        if self._in_plain_torch():
            self.engine.optimizer.register_step_pre_hook(self._clip)
        self._set_groups()
        self.average = average.kept(self.loss, self.engine.module)
        if not self._proven:
            self._prove(wanted)
        self.state_id = self.base_version

    def _prove(self, wanted: Layout) -> None:
        """Find the layout that is exact for this model here, and say so if it is another."""
        agreed = partial(on_all, ranks=self.ranks, device=self.device)
        module = self.engine.module
        chosen = choose_proven(module, self.engine, wanted, self.pad_id, self.device, agreed)
        self.layout, self.layout_note, self._proven = chosen.layout, chosen.note, True
        print(chosen.note or f"{chosen.layout} rows are exact for this model", flush=True)

    def _policy(self) -> Policy:
        return load_policy(
            self.model,
            DTYPES[self.settings.dtype],
            self.temperature,
            self.flash_attention,
            self.settings.lora,
            self.settings.packing is not False,
            self.settings.head_dtype == "float32",
        )

    def _in_plain_torch(self) -> bool:
        """No optimizer of DeepSpeed's own around torch's: no bfloat16 and no ZeRO."""
        return not (self.engine.bfloat16_enabled() or self.engine.zero_optimization())

    def _clip(self, *_: Any) -> None:
        """Clip as DeepSpeed does, and keep the norm, which in this one case it does not."""
        self._norm = torch.nn.utils.clip_grad_norm_(
            self.engine.module.parameters(), self.settings.grad_clip
        )

    def _reference(self) -> torch.nn.Module:
        """The frozen base model, for the KL term."""
        policy = self._policy()
        policy.requires_grad_(False).eval()
        if self.engine.zero_optimization_stage() < 3:
            return policy.to(self.device)
        import deepspeed

        zero = self.settings.deepspeed["zero_optimization"]
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {k: v for k, v in zero.items() if k != "offload_optimizer"},
            "bf16": {"enabled": self.settings.dtype == "bfloat16"},
        }
        reference: torch.nn.Module = deepspeed.initialize(model=policy, config=config)[0]
        return reference

    def require_policy_source(self, digest: str | None) -> None:
        """Refuse what was to be made with another source of one's own policy loss than the one that
        this trainer loaded at its start (`config.plugin_sources`; None: built in).

        Raises ValueError, in one line that names the fix.
        """
        if digest != self.policy_source:
            raise ValueError(
                f"loss.policy = {self.loss.policy}: its file was edited while the run was at work; "
                "start the run again, or put the file back"
            )

    # --- one update -------------------------------------------------------------------------

    def update(self, job: Update) -> Updated:
        """Optimizer steps on one stored batch, then new weights and their proof in `out`.

        Raises ValueError if the batch is not of this run's engine (logprob gap past the limit).
        """
        self.require_policy_source(job.policy_source)
        started = time.perf_counter()
        replayed = self._restore(job.parent, job.restore)
        restored = time.perf_counter()
        rows = self._rows(job)
        self.state_id = ""  # a step that fails half-way has no name: nothing starts from it
        metrics = self._step(rows, job.iteration, job.tuning)
        work = self._work()
        self.state_id = job.state_id
        stepped = time.perf_counter()
        folder = job.out / "model"
        weights = publish(self.engine, self.model, folder, self.settings.dtype, self.settings.lora)
        if self.adapted:
            metrics["lora/kept"] = lora.kept(self.engine.module.model)
        write_probe(self.engine, rows, self.pad_id, folder / "probe.parquet", self.layout)
        if job.expert_tokens:
            self.expert_tokens.write(rows, job.out / EXPERT_TOKENS, job.state_id)
        timing = {
            "restore": restored - started,
            "step": stepped - restored,
            "publish": time.perf_counter() - stepped,
        }
        return Updated(
            metrics=metrics,
            policy_version=canonical_digest(weights),
            weights=weights,
            replayed=replayed,
            timing=timing,
            work=work,
            layout=str(self.layout),
            layout_note=self.layout_note,
        )

    def _rows(self, job: Update | Replay) -> list[Row]:
        """Of a stored batch, with what the teacher says of them."""
        taught = self.loss.at(job.iteration).distills
        said = teacher.read(job.teacher) if taught else None
        return rows_of(read(job.batch), self.loss.expert_context, said)

    def teach(self, job: Teach) -> Taught:
        """Write what the teacher of self-distillation says of a part of the rollouts.

        It is the policy in state `parent` or its slow average there, or the base model.
        """
        if job.parent is None:
            return teacher.teach(self, job, self._as_reference, [])
        replayed = self._restore(job.parent, job.restore)
        with self.average.in_place() if self.average else nullcontext():
            return teacher.teach(self, job, lambda **given: self.engine(**given), replayed)

    def _work(self) -> dict[str, Any]:
        """What the last step took through the model, and on what: tokens, FLOPs where the model's
        shape is known, devices and their name (on a CPU: none)."""
        sizes = self._trained
        try:
            shape = from_config(read_json(self.model / "config.json"), str(self.model))
            flops = training_flops(shape, sizes)
        except ValueError:  # a model of a kind that is not counted
            flops = None
        bfloat16 = self.device.type == "cuda" and self.settings.dtype == "bfloat16"
        return {
            "tokens": sum(tokens for tokens, _, _ in sizes),
            "flops": flops,
            "device": torch.cuda.get_device_name(self.device) if bfloat16 else "",
            "devices": self.ranks,
        }

    def _restore(self, parent: str, restore: Restore) -> list[int]:
        """Bring memory to state `parent`; the iterations that had to be replayed.

        Raises ValueError if `restore` does not lead to it.
        """
        if self.state_id == parent:
            return []
        if self.state_id != self.base_version:
            self._build()
        if restore.folder is not None:
            self._load(restore.folder)
        replayed = []
        for step in restore.replay:
            self.state_id = ""  # until all of it is there
            self._step(self._rows(step), step.iteration, step.tuning)
            replayed.append(step.iteration)
        if not replayed and self.state_id != parent:
            raise ValueError(
                f"the trainer was to start from state {parent[:12]}, and what is stored leads to "
                f"{self.state_id[:12]}: make the update before this one again"
            )
        self.state_id = parent
        return replayed

    def _step(self, rows: list[Row], iteration: int, tuned: Path | None = None) -> dict[str, float]:
        """The optimizer steps of one iteration, a step of fine-tuning last; its metrics, means over
        all tokens they count."""
        self.now = self.loss.at(iteration)
        groups = list(dict.fromkeys(row.group for row in rows))
        size = self.settings.mini_batch or max(1, len(groups))
        mini_of = {group: place // size for place, group in enumerate(groups)}
        counted: list[list[int]] = [[] for _ in range(0, len(groups), size)]
        for index, row in enumerate(rows):
            if len(row.response_ids):
                counted[mini_of[row.group]].append(index)
        kept = [self._with_signal(rows, members) for members in counted]
        # Rows without signal are left out of the compute, not out of the mean.
        whole = [
            Totals(float(sum(len(rows[i].response_ids) for i in members)), float(len(members)))
            for members in counted
        ]
        steps = [(mini, total) for mini, total in zip(kept, whole, strict=True) if mini]
        self.state_id = ""  # what is in memory has no name until the last step is taken
        old: dict[int, Tensor] = {}
        if self.settings.old_logprobs == "trainer":
            # Those of the first step are its own: the weights have not moved yet.
            old = self._old_logprobs(rows, [i for mini, _ in steps[1:] for i in mini])
        rate = learning_rate(self.settings, iteration)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        figures, self.expert_tokens = Figures(), ExpertTokens()
        norms: list[Tensor | float] = []
        plans = [self._plan(rows, mini) for mini, _ in steps]
        for shares, (_, total) in zip(plans, steps, strict=True):
            self._accumulate(rows, shares[self.rank], total, old, figures)
            # To the weights before, a gap is what was learned since (in the first iteration none).
            if not norms and not (self.updates_behind and iteration > 1):
                self._check_gap(figures.means())
            norms.append(self._optimizer_step())
        used = sum(map(len, kept))
        metrics = figures.means(len(steps)) | {
            **self._count(rows, [batch for ranks in plans for rank in ranks for batch in rank]),
            "optimizer_steps": float(len(steps)),
            "grad_norm": float(np.mean([float(norm) for norm in norms])) if norms else 0.0,
            "learning_rate": rate,
            "rows": float(used),
            "rows_without_signal": float(sum(map(len, counted)) - used),
        }
        metrics |= tuning.step(self, tuned)
        if self.average:
            self.average.follow()
        if not math.isfinite(sum(metrics.get(name, 0.0) for name in MUST_BE_FINITE)):
            raise FloatingPointError(
                f"loss {metrics.get('loss')} and gradient norm {metrics['grad_norm']} in iteration "
                f"{iteration}: no weights were published"
            )
        return metrics

    def _with_signal(self, rows: list[Row], members: list[int]) -> list[int]:
        advantages = torch.tensor([rows[i].advantage for i in members])
        useful = has_signal(advantages, self.now).tolist()
        return [i for i, one in zip(members, useful, strict=True) if one]

    def _plan(self, rows: list[Row], members: list[int]) -> list[list[list[int]]]:
        """Indices into `rows` by rank and micro-batch."""
        chosen = [rows[i] for i in members]
        shares = plan(chosen, self.settings.token_budget, self.ranks, self.layout)
        return [[[members[i] for i in batch] for batch in batches] for batches in shares]

    def _collate(self, rows: list[Row]) -> MicroBatch:
        return collate(rows, self.pad_id, self.device, self.layout)

    def _count(self, rows: list[Row], batches: list[list[int]]) -> dict[str, float]:
        """Keep what was trained on, and say how much of it the model was not shown, or for nothing.

        Shares of padding in what it was shown, and of prompts in what it would have been shown if
        they were not shared.
        """
        lengths = [row.length for row in rows]
        of_rows = [lengths[i] for batch in batches for i in batch]
        shown = shown_tokens(rows, batches) if self.layout is Layout.SHARED else of_rows
        responses = [len(rows[i].response_ids) for batch in batches for i in batch]
        self._trained = list(zip(of_rows, shown, responses, strict=True))
        padded = self.layout in BESIDE
        return {
            "padding_share": padding_share(lengths, batches) if padded else 0.0,
            "shared_share": 1.0 - sum(shown) / max(1, sum(of_rows)),
        }

    def _accumulate(
        self,
        rows: list[Row],
        batches: list[list[int]],
        totals: Totals,
        old: dict[int, Tensor],
        figures: Figures,
    ) -> None:
        """Forward and backward over this rank's micro-batches of a mini-batch."""
        for members in batches:
            micro = self._collate([rows[i] for i in members])
            given = {**micro.inputs, "targets_N": micro.all_targets}
            logprobs_N, entropy_N = self.engine(
                **given, entropy_gradient=self.loss.entropy_coefficient > 0
            )
            inputs = self._inputs(micro, [old.get(i) for i in members], logprobs_N, entropy_N)
            self.expert_tokens.add(rows, members, inputs.logprobs_BT)
            outputs = icpo_loss(inputs, self.now, totals, self.policy_loss)
            add_gap(outputs, inputs)
            figures.add(outputs)
            # DeepSpeed averages gradients over ranks; the loss is already divided by global totals.
            self.engine.backward(outputs.loss * self.ranks)

    def _inputs(
        self,
        micro: MicroBatch,
        old: list[Tensor | None],
        logprobs_N: Tensor,
        entropy_N: Tensor,
    ) -> LossInputs:
        top_NK = logprobs_N[:, 1:] if logprobs_N.dim() > 1 else micro.teacher_top_NK
        logprobs_BT = micro.spread(logprobs_N[:, 0] if logprobs_N.dim() > 1 else logprobs_N)
        old_BT = logprobs_BT.detach()
        if self.settings.old_logprobs == "engine":
            from_engine_B = micro.known_B & ~micro.expert_B
            old_BT = torch.where(from_engine_B[:, None], micro.behaviour_BT, old_BT)
        elif any(one is not None for one in old):
            # Expert rows have none: their loss is not a ratio to the old policy.
            old_BT = old_BT.clone()
            for place, one in enumerate(old):
                if one is not None:
                    old_BT[place, : len(one)] = one.to(self.device, non_blocking=True)
        return LossInputs(
            logprobs_BT=logprobs_BT,
            old_logprobs_BT=old_BT,
            reference_logprobs_BT=self._reference_logprobs(micro) if uses_kl(self.loss) else None,
            behaviour_logprobs_BT=micro.behaviour_BT,
            behaviour_known_B=micro.known_B,
            advantages_B=micro.advantages_B,
            mask_BT=micro.mask_BT,
            expert_B=micro.expert_B,
            entropy_BT=micro.spread(entropy_N),
            teacher_logprobs_BT=micro.teacher_BT,
            taught_B=micro.taught_B,
            top_logprobs_BTK=micro.spread(top_NK),
            teacher_top_BTK=micro.spread(micro.teacher_top_NK),
        )

    @torch.no_grad()
    def _reference_logprobs(self, micro: MicroBatch) -> Tensor:
        """Of the response tokens under the base model, [B, T]."""
        return micro.spread(self._as_reference(**micro.inputs, entropy=False)[0])

    def _as_reference(self, **given: Any) -> tuple[Tensor, ...]:
        """`Policy.forward` of the base model."""
        policy = self.engine.module
        with lora.switched_off(policy) if self.reference is None else nullcontext():
            found: tuple[Tensor, ...] = (self.reference or policy)(**given)
        return found

    @torch.no_grad()
    def _old_logprobs(self, rows: list[Row], members: list[int]) -> dict[int, Tensor]:
        """Logprobs of on-policy rows before the first step of the iteration, by row index."""
        members = [i for i in members if not rows[i].expert]
        if not members:
            return {}
        mine: dict[int, Tensor] = {}
        for batch in self._plan(rows, members)[self.rank]:
            micro = self._collate([rows[i] for i in batch])
            logprobs_N, _ = self.engine(**micro.inputs, entropy=False)
            parts = logprobs_N.cpu().split([len(rows[i].response_ids) for i in batch])
            mine.update(zip(batch, parts, strict=False))  # an empty micro-batch has one part
        if self.ranks == 1:
            return mine
        # The plan of a mini-batch may give a row to another rank than this one did.
        everyone: list[Any] = [None] * self.ranks
        dist.all_gather_object(everyone, {i: part.numpy() for i, part in mine.items()})
        return {i: torch.from_numpy(part) for one in everyone for i, part in one.items()}

    def _check_gap(self, means: dict[str, float]) -> None:
        """Stop before the first step if these rollouts are not from the weights in memory."""
        gap = means["engine_gap/mean"]  # NaN where no logprob of an engine is known
        limit = self.settings.max_logprob_gap or DEFAULT_GAP[self.settings.dtype]
        if gap > limit:
            raise ValueError(
                f"engine and trainer disagree: the mean gap of on-policy logprobs is {gap:.3g} "
                f"nats (limit {limit:g}, update.max_logprob_gap); the rollouts were made by other "
                f"weights, nothing was learned from them"
            )

    def _optimizer_step(self) -> Tensor | float:
        """Clip, step, clear. The gradient norm before clipping."""
        self.engine.step()
        norm = self._norm if self._norm is not None else self.engine.get_global_grad_norm()
        assert norm is not None
        return norm

    # --- state on disk ----------------------------------------------------------------------

    def save(self, job: Save) -> Saved:
        """Save weights and optimizer, the state named `state_id`, in `out`."""
        self._restore(job.state_id, job.restore)
        state.save(self.engine, job.out, self.state_id, self._shape(), self.average)
        return Saved()

    def _shape(self) -> dict[str, Any]:
        """What a saved state fits only if it is the same."""
        more: dict[str, Any] = {"undecayed": True} if decay.spares(self.settings) else {}
        more |= {"average": self.average.decay} if self.average else {}
        return more | {
            "ranks": self.ranks,
            "zero_stage": int(self.engine.zero_optimization_stage()),
            "dtype": self.settings.dtype,
            "lora": self.settings.lora.model_dump() if self.adapted else None,
        }

    def _load(self, folder: Path) -> None:
        self.state_id = state.load(self.engine, folder, self._shape(), self.average)
        self._set_groups()

    def _set_groups(self) -> None:
        """Give the optimizer this trainer's settings: a state brings those that it was saved with,
        and in a branch they may be others now. Also where nothing was loaded, for objects of its
        own: a list that it shares with DeepSpeed's settings makes other bytes of a state."""
        for place, group in enumerate(self.engine.optimizer.param_groups):
            group["betas"] = tuple(self.settings.betas)
            group["eps"] = self.settings.eps
            group["weight_decay"] = 0.0 if place else self.settings.weight_decay
