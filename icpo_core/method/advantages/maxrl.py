"""MaxRL (Tajwar et al. 2026, arXiv 2602.02710)."""

import numpy as np

from icpo_core.method.advantages.base import Floats, Groups


def maxrl(groups: Groups) -> Floats:
    """A = (R − mean) / mean, and 0 where the mean is 0 (nothing was solved).

    With rewards of 0 and 1 the expected gradient is that of log p, up to the order that the group
    allows, where p is the problem's success rate: rare successes count for more. Made for rewards
    that are never negative.
    """
    solved_N = groups.mean_N > 0
    return np.divide(
        groups.centred_N, groups.mean_N, out=np.zeros_like(groups.mean_N), where=solved_N
    )
