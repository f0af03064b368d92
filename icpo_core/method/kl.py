"""KL divergence to the reference policy, estimated on the sampled tokens.

With d = log π_θ − log π_ref of a sampled token (Schulman, "Approximating KL divergence"):

| kind | value | gradient |
|---|---|---|
| `k1` | d | ∇log π, whose mean is zero: a KL term without effect, here as a measure only |
| `k2` | d²/2 | d·∇log π, unbiased for KL(π_θ‖π_ref) on samples of π_θ |
| `k3` | exp(−d) + d − 1, clamped to ±10 | (1 − exp(−d))·∇log π |
| `k3_unbiased` | as k3 | as k2 (straight-through) |

The released code calls k1 `kl`, k2 `mse` and k3 `low_var_kl`. Its clamp is kept: a token that the
reference makes more than about 13 times as likely as the policy adds 10 and no gradient.
`k3_unbiased` has no such hole. On expert tokens none of them is unbiased: those were not sampled
from π_θ under the bare prompt.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["k1", "k2", "k3", "k3_unbiased"]

CLAMP = 10.0
_LOG_BOUND = 20.0  # keeps exp(−d) finite in float32; far beyond the clamp, so no value changes


def kl_divergence(kind: Kind, logprobs_BT: Tensor, reference_logprobs_BT: Tensor) -> Tensor:
    """Estimate of every token, nats, shape (B, T). The reference carries no gradient."""
    difference_BT = logprobs_BT - reference_logprobs_BT.detach()
    if kind == "k1":
        return difference_BT
    if kind == "k2":
        return 0.5 * difference_BT.square()
    if kind == "k3":
        return _k3(difference_BT)
    assert kind == "k3_unbiased", kind
    k2_BT = 0.5 * difference_BT.square()
    return k2_BT - k2_BT.detach() + _k3(difference_BT.detach())


def _k3(difference_BT: Tensor) -> Tensor:
    bounded_BT = difference_BT.clamp(-_LOG_BOUND, _LOG_BOUND)
    return (torch.exp(-bounded_BT) + bounded_BT - 1.0).clamp(-CLAMP, CLAMP)
