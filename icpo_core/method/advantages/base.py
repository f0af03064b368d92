"""What an advantage estimator is, and how one is applied to a batch.

Legend: N rollouts, all groups one behind another; a group holds the rollouts of one problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from icpo_core.common import plugins

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PACKAGE = "icpo_core.method.advantages"


@dataclass(frozen=True)
class Groups:
    """The rollouts that count in their groups' statistics, N in all, groups of any size mixed.

    What is said of a group (size, mean, std) stands at each of its rollouts, so that an estimator
    is arithmetic on arrays of one shape.
    """

    rewards_N: Floats
    """Shaped rewards: the verifier's, with expert bonus and length penalty where there are any."""
    group_N: Ints
    """Which group a rollout belongs to: 0, 1, …, those of one group not always side by side."""
    expert_N: Bools
    """True where the rollout is an expert's (or a trace), false where it is on-policy."""
    tokens_N: Ints
    """Length of the response, in tokens."""
    size_N: Ints
    """Rollouts in the group, 1 or more."""
    mean_N: Floats
    """Mean reward of the group; exactly the reward where all of them are equal."""
    centred_N: Floats
    """Reward − mean, so exactly 0 in a group without variance."""
    std_N: Floats
    """Unbiased standard deviation of the group (n − 1); 0 in a group of one."""

    @classmethod
    def of(cls, rewards_N: Floats, group_N: Ints, expert_N: Bools, tokens_N: Ints) -> Groups:
        """The groups of N rollouts, N at least 1."""
        count = int(group_N.max()) + 1
        size_G = np.bincount(group_N)
        low_G, high_G = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(low_G, group_N, rewards_N)
        np.maximum.at(high_G, group_N, rewards_N)
        mean_G = np.bincount(group_N, rewards_N) / size_G
        # By comparison, not by a small std: a mean of equal floats can be off by a rounding, and
        # 1e-17 / 1e-6 would be an advantage made of nothing.
        mean_G = np.where(high_G > low_G, mean_G, low_G)
        centred_N: Floats = rewards_N - mean_G[group_N]
        std_G = np.sqrt(np.bincount(group_N, centred_N**2) / np.maximum(size_G - 1, 1))
        return cls(
            rewards_N,
            group_N,
            expert_N,
            tokens_N,
            size_N=size_G[group_N],
            mean_N=mean_G[group_N],
            centred_N=centred_N,
            std_N=std_G[group_N],
        )


class Advantage(Protocol):
    """An estimator: a plain function of the groups.

    Returns N finite floats, the advantage of each rollout, in any unit: it multiplies the loss of
    each token. A rollout with advantage exactly 0 is left out of the update's compute where neither
    KL nor entropy needs it, and never out of its means.
    """

    def __call__(self, groups: Groups, /) -> Floats:
        """Depends on its argument alone: a rerun must come to the same."""
        ...


def advantages(
    spec: str,
    rewards_N: npt.ArrayLike,
    group_ids_N: npt.ArrayLike,
    counted_N: npt.ArrayLike | None = None,
    expert_N: npt.ArrayLike | None = None,
    tokens_N: npt.ArrayLike | None = None,
    digest: str | None = None,
) -> Floats:
    """Advantages of N rollouts by the estimator that `spec` (`select.advantage`) names.

    rewards_N: shaped rewards; group_ids_N: anything NumPy can sort, one value a group;
    counted_N: rows that belong to their group's statistics (default all), others get 0;
    expert_N, tokens_N: see `Groups` (default: on-policy, 0); digest: what the source of one's own
    estimator must have (`icpo_core.common.plugins.resolve`).
    Raises ValueError, naming the estimator, if it cannot be loaded or returns anything else than
    one finite number a rollout.
    """
    estimate = cast(Advantage, plugins.resolve(spec, PACKAGE, digest))
    rewards_N = np.asarray(rewards_N, dtype=np.float64)
    size = len(rewards_N)
    counted_N = np.ones(size, bool) if counted_N is None else np.asarray(counted_N, bool)
    expert_N = np.zeros(size, bool) if expert_N is None else np.asarray(expert_N, bool)
    tokens_N = np.zeros(size, np.int64) if tokens_N is None else np.asarray(tokens_N, np.int64)
    _, group_N = np.unique(np.asarray(group_ids_N)[counted_N], return_inverse=True)
    found_N = np.zeros(size)
    if counted_N.any():
        groups = Groups.of(rewards_N[counted_N], group_N, expert_N[counted_N], tokens_N[counted_N])
        estimated_N = np.asarray(estimate(groups), dtype=np.float64)
        if estimated_N.shape != groups.rewards_N.shape:
            raise ValueError(
                f"select.advantage = {spec} returned an array of shape {estimated_N.shape} for "
                f"{groups.rewards_N.size} rollouts: it must return one number for each"
            )
        if not np.isfinite(estimated_N).all():
            where = int(np.flatnonzero(~np.isfinite(estimated_N))[0])
            group = groups.rewards_N[groups.group_N == groups.group_N[where]]
            raise ValueError(
                f"select.advantage = {spec} returned {estimated_N[where]} for a rollout of a group "
                f"with rewards {', '.join(f'{reward:g}' for reward in group[:8])}: it must return "
                "finite numbers"
            )
        found_N[counted_N] = estimated_N
    return found_N
