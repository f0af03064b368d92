"""Log-probabilities of tokens without holding tokens × vocabulary in memory.

Legend: N tokens, V vocabulary, W width of the hidden state.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 64 << 20
"""Float32 logits held at a time."""


def token_logprobs(
    hidden_NW: Tensor,
    head: Callable[[Tensor], Tensor],
    vocabulary: int,
    targets_N: Tensor,
    temperature: float = 1.0,
    entropy: bool = True,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Logprob of each target and entropy of each distribution, nats, float32, shape [N].

    `head` maps hidden states to logits [n, V]. The logits are made, used and dropped chunk by
    chunk, and made again in backward: one more product with the head, a third more arithmetic,
    for memory that does not grow with N × V. Entropy is zeros when not asked for.
    """
    size = max(1, CHUNK_BYTES // (4 * vocabulary))

    def piece(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden).float()
        if temperature != 1.0:
            logits = logits / temperature
        total = logits.logsumexp(-1)
        logprobs = logits.gather(-1, targets[:, None]).squeeze(-1) - total
        if not entropy:
            return logprobs, torch.zeros_like(logprobs)
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            spread = total - (logits.softmax(-1) * logits).sum(-1)
        return logprobs, spread

    if len(targets_N) <= size:
        return piece(hidden_NW, targets_N)
    pieces = []
    for start in range(0, len(targets_N), size):
        part = hidden_NW[start : start + size], targets_N[start : start + size]
        if torch.is_grad_enabled():
            pieces.append(checkpoint(piece, *part, use_reentrant=False))
        else:
            pieces.append(piece(*part))
    logprobs, spreads = zip(*pieces, strict=True)
    return torch.cat(logprobs), torch.cat(spreads)
