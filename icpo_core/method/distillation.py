"""In-context self-distillation: reverse KL of the bare policy to a teacher that sees examples.

KL(π_θ‖π_T) of the distributions of one token after the same response so far: π_θ under the bare
prompt, π_T, the teacher's, with demonstrations or a worked solution before the question (SDPO,
arXiv 2601.20802, and OPSD have the idea with contexts and divergences of their own). The teacher
has no gradient.

Legend: B sequences, T response tokens, K of the teacher's likeliest tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icpo_core.method.kl import kl_divergence

LEAST_REST = 1e-6
"""Probability below which what is beside the K tokens is not told apart from nothing."""


def on_sampled(logprobs_BT: Tensor, teacher_BT: Tensor) -> Tensor:
    """Estimate on the sampled token, nats, shape (B, T): with d = log π_θ − log π_T the value is
    k3's, exp(−d) + d − 1, and the gradient d·∇log π_θ, whose mean over tokens that π_θ samples is
    that of the KL."""
    return kl_divergence("k3_unbiased", logprobs_BT, teacher_BT)


def on_top(logprobs_BTK: Tensor, teacher_BTK: Tensor) -> Tensor:
    """KL of the distributions in which all tokens but K are one, nats, shape (B, T).

    Exact where K is the vocabulary, and never more than the KL of all tokens.
    """
    teacher_BTK = teacher_BTK.detach()
    inside_BT = (logprobs_BTK.exp() * (logprobs_BTK - teacher_BTK)).sum(-1)
    rest_BT, theirs_BT = _rest(logprobs_BTK), _rest(teacher_BTK)
    return inside_BT + rest_BT.exp() * (rest_BT - theirs_BT)


def _rest(logprobs_BTK: Tensor) -> Tensor:
    """Log of the probability that is left for all other tokens."""
    return torch.log1p(-logprobs_BTK.exp().sum(-1).clamp_max(1.0 - LEAST_REST))
