"""CISPO (MiniMax 2025, arXiv 2506.13585): the clipped ratio weighs, and no token loses its
gradient."""

from icpo_core.config import LossSection
from icpo_core.method.policy_losses.base import LossInputs, PolicyTerm, bounds, ratio


def cispo(inputs: LossInputs, settings: LossSection) -> PolicyTerm:
    """L = −sg(clip(r, 1−ε_low, 1+ε_high))·A·log π_θ, r = π_θ/π_old."""
    low, high = bounds(settings)
    ratio_BT = ratio(inputs.log_ratio())
    weight_BT = ratio_BT.clamp(low, high).detach()
    return PolicyTerm(
        -weight_BT * inputs.advantages() * inputs.logprobs_BT,
        ratio_BT,
        # The ratio itself is clipped, whatever the sign of the advantage.
        figures={"clip_low": ratio_BT < low, "clip_high": ratio_BT > high},
    )
