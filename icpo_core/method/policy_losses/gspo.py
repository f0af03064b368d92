"""GSPO (Zheng et al. 2025, arXiv 2507.18071): one ratio a sequence."""

from dataclasses import replace

from icpo_core.config import LossSection
from icpo_core.method.policy_losses.base import (
    LossInputs,
    PolicyTerm,
    clipped,
    ratio,
    sequence_mean,
)


def gspo(inputs: LossInputs, settings: LossSection) -> PolicyTerm:
    """L as `ppo` without dual clip, r the geometric mean over the sequence (the paper's s_i).

    The paper's loss: `aggregation = "seq-mean-token-mean"` and clips of 3e-4 and 4e-4.
    """
    ratio_BT = ratio(sequence_mean(inputs.log_ratio(), inputs.on_policy()))
    return replace(clipped(ratio_BT, inputs.advantages(), settings), of_sequence=True)
