"""The policy as one module: token ids in, logprobs of the response tokens out.

Legend: B rows, S tokens of a row, N response tokens of all rows, W width of the hidden state, M
targets and K likeliest tokens of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from icpo_core.config import LoraSection
from icpo_core.models import tokens
from icpo_core.trainer import lora as adapter
from icpo_core.trainer.logprobs import Ranges, token_logprobs, top_logprobs
from icpo_core.trainer.shared_prompts import SharedRows, hidden_states, share_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBED_TOKENS = 8


class LogprobHead(nn.Module):
    """In the place of the LM head, with its very parameters: logprobs instead of logits.

    It is a module, so that ZeRO-3's hooks gather the weight when it is called and again in
    backward, and it stands where the head stood, so that weights keep their published names.
    """

    def __init__(self, head: nn.Linear, absent: Ranges = (), float32: bool = False) -> None:
        """absent: ranges of ids that have no part in the distribution. float32: the product is."""
        super().__init__()
        self.weight, self.bias, self.absent = head.weight, head.bias, absent
        self.float32 = float32

    def forward(
        self,
        hidden_NW: Tensor,
        targets_N: Tensor,
        temperature: float,
        entropy: bool,
        entropy_gradient: bool,
        top: int,
    ) -> tuple[Tensor, ...]:
        likeliest: tuple[Tensor, ...] = ()
        if top:
            likeliest = top_logprobs(
                hidden_NW,
                self.weight,
                top,
                self.bias,
                temperature,
                absent=self.absent,
                float32=self.float32,
            )
        return likeliest + token_logprobs(
            hidden_NW,
            self.weight,
            targets_N,
            self.bias,
            temperature,
            entropy,
            entropy_gradient,
            absent=self.absent,
            float32=self.float32,
        )


class Policy(nn.Module):
    """A causal language model whose forward gives logprobs, so that logits never leave it."""

    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        temperature: float,
        shares_prompts: bool = False,
        absent: Ranges = (),
        float32_head: bool = False,
    ) -> None:
        """shares_prompts: the model's attention is that of `icpo_core.trainer.shared_prompts`.
        absent: ranges of ids that the tokenizer does not have. float32_head: as
        `update.head_dtype`."""
        super().__init__()
        head = LogprobHead(model.get_output_embeddings(), absent, float32_head)
        model.set_output_embeddings(head)
        self.absent = absent
        self.model = model
        self.temperature = temperature
        self.shares_prompts = shares_prompts

    def forward(
        self,
        tokens_BS: Tensor,
        predictors_N: Tensor,
        targets_N: Tensor,
        positions_BS: Tensor | None = None,
        shared: SharedRows | None = None,
        temperature: float | None = None,
        entropy: bool = True,
        entropy_gradient: bool = False,
        top: int = 0,
    ) -> tuple[Tensor, ...]:
        """Logprobs and entropies [N], float32, nats, of `targets` predicted at the flat positions
        `predictors` of [B * S], at `temperature` (default: that of the rollouts).

        targets_N: also [N, M], whose logprobs are [N, M]. top: before these, ids and logprobs
        [N, K] of so many of the likeliest tokens, without gradient.

        No attention mask is needed: rows are padded on the right and attention is causal, so no
        real token sees a pad. In a packed row `positions` begin at 0 with every sequence, by which
        attention is kept within it; in a shared one `shared` says where the sequences are.
        """
        assert shared is None or self.shares_prompts
        hidden_BSW = hidden_states(self.model.base_model, tokens_BS, positions_BS, shared)
        # Not by indexing: on a CPU its backward adds up what came from one place (a shared prompt's
        # last token) in the order in which threads arrive.
        found: tuple[Tensor, ...] = self.model.get_output_embeddings()(
            hidden_BSW.flatten(0, 1).index_select(0, predictors_N),
            targets_N,
            self.temperature if temperature is None else temperature,
            entropy,
            entropy_gradient,
            top,
        )
        return found


def flash_attention(dtype: torch.dtype) -> bool:
    """Whether the platform has attention that keeps packed rows apart without a mask."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    return torch.cuda.is_available() and dtype != torch.float32 and is_flash_attn_2_available()


def load_policy(
    folder: Path,
    dtype: torch.dtype,
    temperature: float,
    flash_attention: bool = False,
    lora: LoraSection | None = None,
    shared_rows: bool = True,
    float32_head: bool = False,
) -> Policy:
    """Read a model folder; with `lora` of a rank only an adapter on it is trained and saved.

    shared_rows: let it be shown each prompt once for all its responses, if it can and there is no
    flash attention (`Policy.shares_prompts`). float32_head: as `update.head_dtype`.

    Raises ValueError if it is no causal language model we can train.
    """
    from transformers import AutoModelForCausalLM

    attention = {"attn_implementation": "flash_attention_2"} if flash_attention else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **attention)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{folder}: cannot be loaded as a language model ({first})") from error
    _drop_nothing(model)
    _require_numbers(model, folder)
    _require_plain_logits(model, folder)
    shares_prompts = shared_rows and not flash_attention and share_prompts(model)
    absent = tokens.read(folder).unknown
    if lora is None or not lora.rank:
        return Policy(model, temperature, shares_prompts, absent, float32_head)
    adapter.inject(model, lora)
    policy = Policy(model, temperature, shares_prompts, absent, float32_head)
    adapter.save_only(policy)
    return policy


def _drop_nothing(model: nn.Module) -> None:
    """Dropout would make the ratio of the first step differ from 1. Some layers are modules, some
    attention takes its rate from an attribute."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


@torch.no_grad()
def _require_numbers(model: PreTrainedModel, folder: Path) -> None:
    for name, value in model.named_parameters():
        if value.is_floating_point() and value.numel():
            low, high = value.aminmax()  # both are NaN where one value is
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                what = "NaN" if bool(low.isnan()) else "infinity"
                raise ValueError(
                    f"{folder}: the weight {name} holds {what}: these weights are damaged, or came "
                    "out of a training that diverged; take another folder"
                )


@torch.no_grad()
def _require_plain_logits(model: PreTrainedModel, folder: Path) -> None:
    """Models that cap or scale their logits would be trained on other ones."""
    tokens_1S = torch.arange(min(PROBED_TOKENS, model.config.vocab_size))[None]
    head = model.get_output_embeddings()
    hidden_1SW = model.base_model(input_ids=tokens_1S, use_cache=False).last_hidden_state
    theirs = model(input_ids=tokens_1S, use_cache=False).logits.float()
    ours = head(hidden_1SW).float() if isinstance(head, nn.Linear) else None
    # Half precision may round a product one step otherwise in another kernel.
    if ours is None or not torch.allclose(ours, theirs, rtol=2e-2, atol=1e-3):
        raise ValueError(
            f"{folder}: the logits of this model ({type(model).__name__}) are not just the product "
            "of its last hidden state with its head (softcapped, scaled?): it cannot be trained"
        )
