"""What a loss of on-policy tokens is given and returns.

Shapes: B sequences, T response tokens (padded). Every token tensor is aligned with the response:
`logprobs_BT[b, t]` is of response token t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

from torch import Tensor

from icpo_core.common import plugins
from icpo_core.config import LossSection

PACKAGE = "icpo_core.method.policy_losses"

LOG_BOUND = 20.0
"""A log ratio beyond this says only "far": exp stays finite in float32, so that no 0·inf reaches a
gradient through the branch that `min` and `where` did not take."""


@dataclass(frozen=True)
class LossInputs:
    """What the loss needs of B sequences. Values where the mask is 0 are never looked at."""

    logprobs_BT: Tensor
    """Under the policy being trained, given the bare prompt, nats; carries the gradient."""
    old_logprobs_BT: Tensor
    """Under the policy that sampled, by the trainer, given the bare prompt. On-policy rows only."""
    advantages_B: Tensor
    mask_BT: Tensor
    """1 on response tokens, by position: a pad token may have the id of EOS."""
    expert_B: Tensor
    """True where the origin is expert or trace."""
    reference_logprobs_BT: Tensor | None = None
    behaviour_logprobs_BT: Tensor | None = None
    """The engine's, given the prompt that was sampled from; zeros where unknown."""
    behaviour_known_B: Tensor | None = None
    """Rows whose behaviour logprobs are known (default: all, if there are any)."""
    entropy_BT: Tensor | None = None
    """Of the policy being trained, nats; carries the gradient."""
    teacher_logprobs_BT: Tensor | None = None
    """Of the sampled tokens under the teacher of self-distillation."""
    taught_B: Tensor | None = None
    """Rows that the teacher has spoken on."""
    top_logprobs_BTK: Tensor | None = None
    """Of the teacher's K likeliest tokens, under the policy being trained; carries the gradient."""
    teacher_top_BTK: Tensor | None = None
    """Those under the teacher."""

    def on_policy(self) -> Tensor:
        """True on on-policy tokens, those that a policy loss is for; shape (B, T)."""
        return self.mask_BT.bool() & ~self.expert_B.bool()[:, None]

    def advantages(self) -> Tensor:
        """The advantage of its sequence at every token, in the logprobs' dtype; shape (B, T)."""
        advantages_B1 = self.advantages_B.to(self.logprobs_BT.dtype)[:, None]
        return advantages_B1.expand(self.mask_BT.shape)

    def log_ratio(self) -> Tensor:
        """log π_θ/π_old of on-policy tokens, 0 elsewhere; shape (B, T)."""
        difference_BT = self.logprobs_BT - self.old_logprobs_BT.detach()
        return difference_BT.masked_fill(~self.on_policy(), 0.0)


@dataclass(frozen=True)
class PolicyTerm:
    """What a policy loss comes to."""

    loss_BT: Tensor
    """Loss of every token, before correction and aggregation; looked at where it is on-policy."""
    ratio_BT: Tensor
    """The ratio to the old policy, for the figures `policy/ratio` and `policy/ratio_max`."""
    of_sequence: bool = False
    """Whether the ratio is one of whole sequences; `loss.correction` then weighs those."""
    figures: Mapping[str, Tensor] = field(default_factory=dict)
    """Values a token, whose mean over on-policy tokens is the figure `policy/NAME`."""


class PolicyLoss(Protocol):
    """A loss of on-policy tokens: a plain function, without state.

    Padding holds zeros in all token tensors, `old_logprobs_BT` wherever a token is not on-policy,
    so plain arithmetic is safe. Returns the loss of every token, shape (B, T), or a `PolicyTerm`,
    which adds figures. What it returns for expert tokens is not looked at. `loss.aggregation` makes
    one number of it; sequences with advantage 0 may never be shown.
    """

    def __call__(self, inputs: LossInputs, settings: LossSection, /) -> Tensor | PolicyTerm: ...


def policy_loss(spec: str, digest: str | None = None) -> PolicyLoss:
    """The function that `spec` (`loss.policy`) names. `digest`: what its source must have.

    Raises ValueError as `icpo_core.common.plugins.resolve`.
    """
    return cast(PolicyLoss, plugins.resolve(spec, PACKAGE, digest))


def ratio(log_ratio_BT: Tensor) -> Tensor:
    """π_θ/π_old, finite."""
    return log_ratio_BT.clamp(-LOG_BOUND, LOG_BOUND).exp()


def bounds(settings: LossSection) -> tuple[float, float]:
    """Between which the ratio is clipped."""
    low = -math.inf if settings.clip_low is None else 1.0 - settings.clip_low
    high = math.inf if settings.clip_high is None else 1.0 + settings.clip_high
    return low, high


def sequence_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over a row's tokens, at every token. Values off the mask must be 0."""
    mean_B1 = values_BT.sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True).clamp_min(1)
    return mean_B1.expand(values_BT.shape)


def clipped(ratio_BT: Tensor, advantages_BT: Tensor, settings: LossSection) -> PolicyTerm:
    """L = −min(r·A, clip(r, 1−ε_low, 1+ε_high)·A), with the shares of tokens that were clipped."""
    low, high = bounds(settings)
    loss_BT = (-ratio_BT * advantages_BT).maximum(-ratio_BT.clamp(low, high) * advantages_BT)
    figures = {
        "clip_low": (ratio_BT < low) & (advantages_BT < 0),
        "clip_high": (ratio_BT > high) & (advantages_BT > 0),
    }
    return PolicyTerm(loss_BT, ratio_BT, figures=figures)
