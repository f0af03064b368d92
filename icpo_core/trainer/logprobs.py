"""Log-probabilities of tokens without holding tokens × vocabulary in memory.

Legend: N tokens, V vocabulary, W width of the hidden state, B words of a block of the vocabulary,
M targets of a token, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Ranges = Sequence[tuple[int, int]]

ABSENT = -1e30
"""Logit of what cannot be: its probability is exactly 0, and 0 times it is no NaN."""
BLOCK_BYTES = 64 << 20
"""Float32 logits held at a time, unless told otherwise."""


def token_logprobs(
    hidden_NW: Tensor,
    weight_VW: Tensor,
    targets_N: Tensor,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    entropy: bool = True,
    entropy_gradient: bool = False,
    block_bytes: int | None = None,
    absent: Ranges = (),
    float32: bool = False,
) -> tuple[Tensor, Tensor]:
    """Logprob of each target and entropy of each distribution, nats, float32, shape [N].

    targets_N: [N], or [N, M] for several of each distribution, whose logprobs are then [N, M]; the
    first is the token that was sampled.
    The distribution is softmax((hidden · weightᵀ + bias) / temperature); it is taken in float32
    whatever the dtype of the product: that of the weight, or float32 if `float32`. Logits are made,
    used and dropped block by block of the vocabulary, and made again in backward: one more product
    with the head, a third more arithmetic, for memory that does not grow with N × V. If all fit in
    one block they are kept instead.
    Entropy is zeros when not asked for, and has no gradient unless `entropy_gradient`.
    absent: ranges [first, end) of ids that have no part in the distribution, a target aside.
    """
    alone = targets_N.dim() == 1
    targets_NM = targets_N[:, None] if alone else targets_N
    block_bytes = block_bytes or BLOCK_BYTES
    float32 = float32 and weight_VW.dtype != torch.float32
    # A float32 head has no product that autograd knows.
    if not float32 and 4 * len(targets_N) * len(weight_VW) <= block_bytes:
        logits_NV = _logits(hidden_NW, weight_VW, bias_V, temperature, targets_NM, absent, 0)
        logprobs_NM, entropy_N = _in_one_block(logits_NV, targets_NM, entropy, entropy_gradient)
        return logprobs_NM[:, 0] if alone else logprobs_NM, entropy_N
    logprobs_NM, entropy_N = _InBlocks.apply(  # type: ignore[no-untyped-call]
        hidden_NW,
        weight_VW,
        bias_V,
        targets_NM,
        temperature,
        entropy or entropy_gradient,
        entropy_gradient,
        # In float32 a block of the weight is cast, too.
        max(1, block_bytes // (4 * max(len(targets_N), weight_VW.shape[1] if float32 else 1))),
        absent,
        float32,
    )
    return logprobs_NM[:, 0] if alone else logprobs_NM, entropy_N


@torch.no_grad()
def top_logprobs(
    hidden_NW: Tensor,
    weight_VW: Tensor,
    count: int,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    block_bytes: int | None = None,
    absent: Ranges = (),
    float32: bool = False,
) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each distribution of `token_logprobs`, or all where there are
    fewer: ids and logprobs, [N, K], the likeliest first. No gradient; logits are made and dropped
    for some of the N at a time."""
    float32 = float32 and weight_VW.dtype != torch.float32
    vocabulary = len(weight_VW)
    kept = vocabulary - sum(min(b, vocabulary) - min(a, vocabulary) for a, b in absent)
    rows = max(1, (block_bytes or BLOCK_BYTES) // (4 * vocabulary))
    ids, logprobs = [], []
    for part_NW in hidden_NW.split(rows) if len(hidden_NW) else [hidden_NW]:
        # Nobody sampled a token here: no id that is absent is kept for being a target.
        none_N0 = torch.zeros(len(part_NW), 0, dtype=torch.long, device=part_NW.device)
        logits_NV = _logits(part_NW, weight_VW, bias_V, temperature, none_N0, absent, 0, float32)
        top = logits_NV.log_softmax(-1).topk(min(count, kept), dim=-1)
        ids.append(top.indices)
        logprobs.append(top.values)
    return torch.cat(ids), torch.cat(logprobs)


def _logits(
    hidden_NW: Tensor,
    weight_BW: Tensor,
    bias_B: Tensor | None,
    temperature: float,
    targets_NM: Tensor,
    absent: Ranges,
    first: int,
    float32: bool = False,
) -> Tensor:
    """Logits of the block of the vocabulary that begins at `first`."""
    if float32:
        logits_NB = _product(hidden_NW, weight_BW)
        logits_NB = logits_NB if bias_B is None else logits_NB + bias_B.float()
    else:
        logits_NB = torch.nn.functional.linear(hidden_NW, weight_BW, bias_B).float()
    logits_NB = logits_NB if temperature == 1.0 else logits_NB / temperature
    size = logits_NB.shape[1]
    inside = [(max(a - first, 0), min(b - first, size)) for a, b in absent]
    inside = [(a, b) for a, b in inside if a < b]
    if not inside:
        return logits_NB
    # A stored target may be such an id: sampled by an engine that did not leave them out.
    place_N1, here_N1 = _places(targets_NM[:, :1], first, size)
    own_N1 = logits_NB.gather(1, place_N1)
    left_NB = logits_NB.clone()
    for a, b in inside:
        left_NB[:, a:b] = ABSENT
    kept_N1 = torch.where(here_N1, own_N1, left_NB.gather(1, place_N1))
    return left_NB.scatter(1, place_N1, kept_N1)


def _product(hidden_NW: Tensor, weight_BW: Tensor) -> Tensor:
    """hidden · weightᵀ of half precision, each product and all sums in float32."""
    if hidden_NW.is_cuda:  # without a copy of the weight, on tensor cores; as vLLM's head does it
        return torch.mm(hidden_NW, weight_BW.T, out_dtype=torch.float32)
    return hidden_NW.float() @ weight_BW.float().T


def _in_one_block(
    logits_NV: Tensor, targets_NM: Tensor, entropy: bool, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    all_NV = logits_NV.log_softmax(-1)
    logprobs_NM = all_NV.gather(-1, targets_NM)
    if not (entropy or entropy_gradient):
        return logprobs_NM, torch.zeros_like(logprobs_NM[:, 0])
    if not entropy_gradient:
        all_NV = all_NV.detach()
    return logprobs_NM, -(all_NV.exp() * all_NV).sum(-1)


class _InBlocks(torch.autograd.Function):
    """The softmax over V, block by block: its normaliser is known after the first pass.

    Saves what the head is given and its normaliser [N], nothing of size V but the head itself. The
    head's weight is saved as the parameter it is, so that ZeRO-3 can have gathered it again when
    backward looks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NW: Tensor,
        weight_VW: Tensor,
        bias_V: Tensor | None,
        targets_NM: Tensor,
        temperature: float,
        entropy: bool,
        entropy_gradient: bool,
        size: int,
        absent: Ranges,
        float32: bool,
    ) -> tuple[Tensor, Tensor]:
        lowest = torch.finfo(torch.float32).min
        # Of the logits so far: the largest, the sum of exp(logit - largest), and the sum of those
        # times (logit - largest).
        top_N = hidden_NW.new_full(targets_NM.shape[:1], lowest, dtype=torch.float32)
        sum_N, dot_N = torch.zeros_like(top_N), torch.zeros_like(top_N)
        target_NM = torch.zeros_like(targets_NM, dtype=torch.float32)
        for first in range(0, len(weight_VW), size):
            block = slice(first, first + size)
            bias_B = None if bias_V is None else bias_V[block]
            logits_NB = _logits(
                hidden_NW, weight_VW[block], bias_B, temperature, targets_NM, absent, first, float32
            )
            place_NM, inside_NM = _places(targets_NM, first, logits_NB.shape[1])
            target_NM = torch.where(inside_NM, logits_NB.gather(1, place_NM), target_NM)
            before_N, top_N = top_N, torch.maximum(top_N, logits_NB.amax(1))
            fall_N = before_N - top_N
            scale_N = fall_N.exp()
            below_NB = logits_NB.sub_(top_N[:, None])
            exp_NB = below_NB.exp() if entropy else below_NB.exp_()
            if entropy:
                dot_N = (dot_N + fall_N * sum_N) * scale_N
            sum_N = sum_N * scale_N + exp_NB.sum(1)
            if entropy:
                dot_N += exp_NB.mul_(below_NB).sum(1)
        log_N = sum_N.log()
        entropy_N = log_N - dot_N / sum_N if entropy else torch.zeros_like(log_N)
        ctx.save_for_backward(hidden_NW, weight_VW, bias_V, targets_NM, top_N, sum_N, entropy_N)
        ctx.temperature, ctx.size, ctx.absent, ctx.float32 = temperature, size, absent, float32
        ctx.set_materialize_grads(False)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_N)
        return target_NM - top_N[:, None] - log_N[:, None], entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """d logprob/d logits = onehot - p; d entropy/d logits = -p · (log p + entropy)."""
        hidden_NW, weight_VW, bias_V, targets_NM, top_N, sum_N, entropy_N = ctx.saved_tensors
        zeros_NM = torch.zeros_like(targets_NM, dtype=torch.float32)
        of_logprob_NM = zeros_NM if grads[0] is None else grads[0]
        of_logprob_N = of_logprob_NM.sum(1)
        of_entropy_N = grads[1]
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        # Partial sums over blocks stay in float32; each block of the weight is written once.
        hidden_grad_NW = torch.zeros_like(hidden_NW, dtype=torch.float32) if for_hidden else None
        weight_grad_VW = torch.empty_like(weight_VW) if for_weight else None
        bias_grad_V = torch.empty_like(bias_V) if for_bias else None
        for first in range(0, len(weight_VW), ctx.size):
            block = slice(first, first + ctx.size)
            weight_BW = weight_VW[block]
            bias_B = None if bias_V is None else bias_V[block]
            logits_NB = _logits(
                hidden_NW,
                weight_BW,
                bias_B,
                ctx.temperature,
                targets_NM,
                ctx.absent,
                first,
                ctx.float32,
            )
            below_NB = logits_NB.sub_(top_N[:, None])  # p = exp(below) / sum
            if of_entropy_N is None:
                grad_NB = below_NB.exp_().mul_(-(of_logprob_N / sum_N)[:, None])
            else:
                factor_NB = below_NB + (entropy_N - sum_N.log())[:, None]
                factor_NB.mul_(of_entropy_N[:, None]).add_(of_logprob_N[:, None])
                grad_NB = below_NB.exp_().mul_(factor_NB).mul_(-(1 / sum_N)[:, None])
            place_NM, inside_NM = _places(targets_NM, first, grad_NB.shape[1])
            grad_NB.scatter_add_(1, place_NM, of_logprob_NM * inside_NM)
            if ctx.temperature != 1.0:
                grad_NB.div_(ctx.temperature)
            if bias_grad_V is not None:
                bias_grad_V[block] = grad_NB.sum(0)
            grad_NB = grad_NB.to(hidden_NW.dtype)
            if weight_grad_VW is not None:
                torch.mm(grad_NB.T, hidden_NW, out=weight_grad_VW[block])
            if hidden_grad_NW is not None:
                hidden_grad_NW += grad_NB @ weight_BW
        if hidden_grad_NW is not None:
            hidden_grad_NW = hidden_grad_NW.to(hidden_NW.dtype)
        return hidden_grad_NW, weight_grad_VW, bias_grad_V, *[None] * 7


def _places(targets_NM: Tensor, first: int, size: int) -> tuple[Tensor, Tensor]:
    """Where in the block that begins at `first` each target stands, and whether it does."""
    place_NM = targets_NM - first
    inside_NM = (place_NM >= 0) & (place_NM < size)
    return place_NM.clamp(0, size - 1), inside_NM
