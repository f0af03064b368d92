"""The policy as one module: token ids in, logprobs of the response tokens out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from icpo_core.logprobs import token_logprobs


class Policy(nn.Module):
    """A causal language model whose forward gives logprobs, so that logits never leave it.

    DeepSpeed wraps this module: its hooks (ZeRO-3 gathers a layer's weights when the layer is
    called) then see every layer, the LM head too.
    """

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.vocabulary = model.config.vocab_size

    def forward(
        self,
        tokens_BS: Tensor,
        predictors_N: Tensor,
        targets_N: Tensor,
        entropy: bool = True,
        entropy_gradient: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Logprobs and entropies [N], float32, of `targets` predicted at the flat positions
        `predictors` of [B * S], at the rollouts' temperature.

        Rows are padded on the right and attention is causal, so no real token sees a pad and no
        attention mask is needed.
        """
        hidden_BSW = self.model.model(input_ids=tokens_BS, use_cache=False).last_hidden_state
        hidden_NW = hidden_BSW.flatten(0, 1)[predictors_N]
        return token_logprobs(
            hidden_NW,
            self.model.lm_head,
            self.vocabulary,
            targets_N,
            self.temperature,
            entropy,
            entropy_gradient,
        )


def load_policy(folder: Path, dtype: torch.dtype, temperature: float) -> Policy:
    """Read a model folder. Raises ValueError if it is no causal language model we can train."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{folder}: cannot be loaded as a language model ({first})") from error
    if getattr(model.config, "final_logit_softcapping", None):
        raise ValueError(f"{folder}: models with softcapped logits are not supported")
    # Dropout would make the ratio of the first step differ from 1.
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return Policy(model, temperature)
