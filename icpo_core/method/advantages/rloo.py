"""RLOO, REINFORCE with the mean of the others as baseline (Ahmadian et al. 2024, 2402.14740)."""

import numpy as np

from icpo_core.method.advantages.base import Floats, Groups


def rloo(groups: Groups) -> Floats:
    """A = R − mean of the group's other rewards = n/(n − 1) · (R − mean), 0 in a group of one."""
    scale_N: Floats = groups.size_N / np.maximum(groups.size_N - 1, 1)
    return groups.centred_N * scale_N
