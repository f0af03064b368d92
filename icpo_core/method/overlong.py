"""DAPO's soft overlong punishment (Yu et al. 2025, arXiv 2503.14476, section 3.4, equation 13)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SHARE = 5
"""The penalty grows over a fifth of the longest response, as in DAPO: 4096 of 20480 tokens."""


def penalty(
    length_N: npt.NDArray[np.int64], max_tokens: int, overlong_tokens: int | None = None
) -> npt.NDArray[np.float64]:
    """What is added to the rewards of N responses, in [-1, 0], by their length in tokens.

    0 up to max_tokens − overlong_tokens, from there linear to −1 at max_tokens. overlong_tokens:
    by default a fifth of max_tokens.
    """
    width = overlong_tokens or max(1, max_tokens // SHARE)
    return np.clip((max_tokens - width - length_N) / width, -1.0, 0.0)
