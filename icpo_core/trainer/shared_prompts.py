"""Attention by rows, for a model that is shown each prompt once for all its responses.

The responses of a group follow the same prompt, and a causal model computes the same of it for each
of them. In a shared row its tokens stand once. Linear layers and norms run over the tokens as they
stand; attention alone needs rows, and gathers them: prompt and response, one row beside the other,
padded on the right and causal, so that no mask is needed.

Legend: N tokens of a shared row, B rows of S tokens, H heads of D numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "icpo_by_rows"
"""Of this attention, among those of transformers."""
LARGEST_GAP = {torch.float32: 1e-3}
OTHER_GAP = 0.05
"""Of hidden states, as a share of their norm, beyond which a model is not shown shared rows. In
half precision a product of another shape rounds otherwise."""


@dataclass(frozen=True)
class SharedRows:
    """Where in a shared row the tokens of its rows stand."""

    places: tuple[Tensor, ...]
    """[B, S] each, of rows of like lengths; what stands behind the end of a row does not matter."""
    back_N: Tensor
    """Of each token one of its places in all `places`, flat, one behind another."""


def by_rows(
    module: torch.nn.Module,
    query_1HND: Tensor,
    key_1HND: Tensor,
    value_1HND: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared: SharedRows | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers wants it; [1, N, H, D]. Without `shared` it is SDPA."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if shared is None:
        return sdpa_attention_forward(
            module, query_1HND, key_1HND, value_1HND, attention_mask, dropout, scaling, **more
        )
    rows = []
    for places_BS in shared.places:
        query, key, value = (_gather(x, places_BS) for x in (query_1HND, key_1HND, value_1HND))
        done, _ = sdpa_attention_forward(module, query, key, value, None, dropout, scaling)
        rows.append(done.flatten(0, 1))
    return torch.cat(rows).index_select(0, shared.back_N)[None], None


def _gather(states_1HND: Tensor, places_BS: Tensor) -> Tensor:
    """[B, H, S, D]."""
    states_NHD = states_1HND.transpose(1, 2)[0]
    chosen = states_NHD.index_select(0, places_BS.flatten())
    chosen_BSHD: Tensor = chosen.unflatten(0, places_BS.shape)
    return chosen_BSHD.transpose(1, 2)


@torch.no_grad()
def share_prompts(model: PreTrainedModel) -> bool:
    """Let a model be shown shared rows, if it can: as it is otherwise, and False, if not.

    It can where tokens meet in nothing but full causal attention, which transformers dispatches.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        return False
    AttentionInterface.register(NAME, by_rows)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    before = config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        if config._attn_implementation == NAME and _is_exact(model):
            return True
    # It has attention of its own, or does not hand `shared` on.
    except (ValueError, TypeError, RuntimeError):
        pass
    model.set_attn_implementation(before)
    return False


def _is_exact(model: PreTrainedModel) -> bool:
    """Whether two rows with one prompt give the same hidden states in a shared row as alone."""
    prompt, first, second = torch.arange(9).remainder(model.config.vocab_size).split([3, 4, 2])
    tokens = torch.cat([prompt, first, second])[None]
    places = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 7, 8, 0, 0]])
    back = torch.tensor([0, 1, 2, 3, 4, 5, 6, 10, 11])
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 3, 4]])
    body = model.base_model
    found = hidden_states(body, tokens, positions, SharedRows((places,), back))[0]
    alone = [
        body(input_ids=torch.cat([prompt, one])[None], use_cache=False).last_hidden_state[0]
        for one in (first, second)
    ]
    expected = torch.cat([alone[0], alone[1][len(prompt) :]])
    gap = (found - expected).float().norm() / expected.float().norm()
    return bool(gap <= LARGEST_GAP.get(expected.dtype, OTHER_GAP))


def hidden_states(
    body: torch.nn.Module, tokens: Tensor, positions: Tensor | None, shared: SharedRows | None
) -> Tensor:
    """Last hidden states, [*, *, W], of tokens in rows of their own or in a shared one."""
    more: dict[str, Any] = {}
    if shared is not None:
        # A mask of four dimensions is taken as it is: else one of N x N would be made for nothing.
        # True: what does not hand `shared` on attends to all, which the trial then sees.
        more = {"shared": shared, "attention_mask": tokens.new_ones(1, 1, 1, 1, dtype=torch.bool)}
    if positions is not None:
        more["position_ids"] = positions
    states: Tensor = body(input_ids=tokens, use_cache=False, **more).last_hidden_state
    return states
