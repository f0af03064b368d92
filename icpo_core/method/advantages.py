"""Group-relative advantages (GRPO, paper's section on mixed-policy GRPO)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EPSILON = 1e-6


def group_advantages(
    rewards_N: npt.ArrayLike,
    group_ids_N: npt.ArrayLike,
    divide_by_std: bool,
    counted_N: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float64]:
    """A = (R − mean) / (std + 1e-6) within each group, or R − mean without `divide_by_std`.

    rewards_N: shaped rewards; group_ids_N: anything NumPy can sort, one value a group;
    counted_N: rows that belong to their group's statistics (default all), others get 0.
    The standard deviation is the unbiased one (n − 1). A group whose rewards are all exactly equal,
    or that has one member, gets exactly 0. The released code leaves a one-member group its raw
    reward; here nothing can be learned from a group of one.
    """
    rewards_N = np.asarray(rewards_N, dtype=np.float64)
    _, groups_N = np.unique(np.asarray(group_ids_N), return_inverse=True)
    counted_N = np.ones(len(rewards_N), bool) if counted_N is None else np.asarray(counted_N, bool)
    advantages_N = np.zeros(len(rewards_N))
    if not counted_N.any():
        return advantages_N
    rewards, groups = rewards_N[counted_N], groups_N[counted_N]
    count = int(groups_N.max()) + 1
    sizes = np.bincount(groups, minlength=count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, groups, rewards)
    np.maximum.at(high, groups, rewards)
    means = np.bincount(groups, rewards, count) / np.maximum(sizes, 1)
    centred = rewards - means[groups]
    if divide_by_std:
        variances = np.bincount(groups, centred**2, count) / np.maximum(sizes - 1, 1)
        centred = centred / (np.sqrt(variances) + EPSILON)[groups]
    # By comparison, not by a small std: a mean of equal floats can be off by a rounding, and
    # 1e-17 / 1e-6 would be an advantage made of nothing.
    varied = high > low
    advantages_N[counted_N] = np.where(varied[groups], centred, 0.0)
    return advantages_N
