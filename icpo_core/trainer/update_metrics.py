"""Figures of an update: put together over its micro-batches and the trainer's ranks."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from icpo_core.method.loss import LossOutputs
from icpo_core.method.policy_losses import LossInputs


class Figures:
    """Sums and maxima of one update, which stay on the device until they are asked."""

    def __init__(self) -> None:
        self._names: tuple[list[str], list[str]] = ([], [])
        self._sums: Tensor | None = None
        self._maxima: Tensor | None = None

    def add(self, outputs: LossOutputs) -> None:
        """Those of one micro-batch; every one has the same names."""
        self._names = list(outputs.metrics), list(outputs.maxima)
        # float32 within a micro-batch, float64 over all of them.
        pairs = [part for pair in outputs.metrics.values() for part in pair]
        sums = torch.stack([outputs.loss.detach(), *pairs]).double()
        maxima = torch.stack(list(outputs.maxima.values())).double()
        self._sums = sums if self._sums is None else self._sums + sums
        self._maxima = maxima if self._maxima is None else torch.maximum(self._maxima, maxima)

    def means(self, steps: int = 1) -> dict[str, float]:
        """By name, over all ranks: sum / count, the loss by `steps`, and the maxima."""
        if self._sums is None or self._maxima is None:
            return {}
        sums, maxima = self._sums, self._maxima
        if dist.get_world_size() > 1:
            sums, maxima = sums.clone(), maxima.clone()
            dist.all_reduce(sums)
            dist.all_reduce(maxima, dist.ReduceOp.MAX)
        loss, *values = sums.tolist()
        means = {
            name: value / count if count else math.nan
            for name, value, count in zip(self._names[0], values[::2], values[1::2], strict=True)
        }
        means |= dict(zip(self._names[1], maxima.tolist(), strict=True))
        return {"loss": loss / steps, **means}


def add_gap(outputs: LossOutputs, inputs: LossInputs) -> None:
    """|trainer - engine| of each on-policy token: expert ones were sampled from another prompt."""
    assert inputs.behaviour_logprobs_BT is not None
    assert inputs.behaviour_known_B is not None
    chosen_BT = inputs.mask_BT & (inputs.behaviour_known_B & ~inputs.expert_B)[:, None]
    gap_BT = (inputs.logprobs_BT.detach() - inputs.behaviour_logprobs_BT).abs()
    gap_BT = gap_BT.masked_fill(~chosen_BT, 0.0)
    outputs.metrics["engine_gap/mean"] = (gap_BT.sum(), chosen_BT.sum())
    outputs.maxima["engine_gap/max"] = gap_BT.amax()
