"""GRPO (Shao et al. 2024, arXiv 2402.03300), and ICPO over the mixed group."""

from icpo_core.method.advantages.base import Floats, Groups

EPSILON = 1e-6


def group(groups: Groups) -> Floats:
    """A = (R − mean) / (std + 1e-6), with the unbiased standard deviation.

    The released code leaves a one-member group its raw reward; here it gets 0: nothing can be
    learned from a group of one.
    """
    return groups.centred_N / (groups.std_N + EPSILON)
