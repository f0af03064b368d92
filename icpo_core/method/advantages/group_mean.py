"""Dr.GRPO (Liu et al. 2025, arXiv 2503.20783)."""

from icpo_core.method.advantages.base import Floats, Groups


def group_mean(groups: Groups) -> Floats:
    """A = R − mean: a group counts for as much as its rewards differ."""
    return groups.centred_N
