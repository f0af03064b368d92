"""PPO's clipped ratio a token, with the dual clip (Ye et al. 2020, arXiv 1912.09729)."""

from dataclasses import replace

import torch

from icpo_core.config import LossSection
from icpo_core.method.policy_losses.base import LossInputs, PolicyTerm, clipped, ratio


def ppo(inputs: LossInputs, settings: LossSection) -> PolicyTerm:
    """L = −min(r·A, clip(r, 1−ε_low, 1+ε_high)·A), at most −c·A where A < 0; r = π_θ/π_old."""
    ratio_BT, advantages_BT = ratio(inputs.log_ratio()), inputs.advantages()
    term = clipped(ratio_BT, advantages_BT, settings)
    if settings.dual_clip is None:
        return term
    negative_BT = advantages_BT < 0
    bound_BT = torch.minimum(term.loss_BT, -settings.dual_clip * advantages_BT)
    dual_BT = negative_BT & (ratio_BT > settings.dual_clip)
    return replace(
        term,
        loss_BT=torch.where(negative_BT, bound_BT, term.loss_BT),
        figures={**term.figures, "clip_dual": dual_BT},
    )
