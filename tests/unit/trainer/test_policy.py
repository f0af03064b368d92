"""The policy: logprobs of a real model, which models are taken and which refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from alone import one_by_one, rows, saved
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from icpo_core.trainer.microbatches import Layout, Row, collate
from icpo_core.trainer.policy import load_policy

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@torch.no_grad()
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_rows_are_alone(small: Path, layout: Layout, temperature: float) -> None:
    """Beside others or behind them, a row's logprobs are those it has by itself. The pad id is
    that of EOS."""
    model = AutoModelForCausalLM.from_pretrained(small / "base", dtype=torch.float32)
    expected = one_by_one(model, temperature)
    policy = load_policy(small / "base", torch.float32, temperature).train()
    micro = collate(rows(), 1, torch.device("cpu"), layout)
    found, entropy = policy(**micro.inputs)
    assert torch.allclose(found, expected, atol=2e-6)
    assert (entropy > 0).all()
    at_one, _ = policy(**micro.inputs, temperature=1.0)
    assert torch.allclose(at_one, one_by_one(model), atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_other_families(tmp_path: Path, tied: bool) -> None:
    models = [
        LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied, attention_dropout=0.5)),
        GPT2LMHeadModel(
            GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=2, tie_word_embeddings=tied)
        ),
    ]
    for model in models:
        folder = saved(model, tmp_path / type(model).__name__)
        policy = load_policy(folder, torch.float32, 1.0).train()  # dropout would show
        expected = one_by_one(model.eval())
        assert policy.shares_prompts
        for layout in Layout:
            found, _ = policy(**collate(rows(), 0, torch.device("cpu"), layout).inputs)
            assert torch.allclose(found, expected, atol=2e-6)
        names = [name for name, _ in policy.model.named_parameters()]
        assert names == [name for name, _ in model.named_parameters()]
        assert ("lm_head.weight" in names) != tied


@torch.no_grad()
def test_models_that_cannot_share_prompts_are_left_as_they_were(tmp_path: Path) -> None:
    """Attention within a window, which the few tokens of a trial would not show; attention of their
    own, with a bias by distance."""
    models = [
        MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4096)),
        BloomForCausalLM(BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=2)),
    ]
    for model in models:
        folder = saved(model, tmp_path / type(model).__name__)
        policy = load_policy(folder, torch.float32, 1.0)
        assert not policy.shares_prompts
        assert policy.model.config._attn_implementation == model.config._attn_implementation
        found, _ = policy(**collate(rows(), 0, torch.device("cpu")).inputs)
        assert torch.allclose(found, one_by_one(model.eval()), atol=2e-6)
    shown = load_policy(saved(LlamaForCausalLM(LlamaConfig(**SHAPE)), tmp_path), torch.float32, 1.0)
    assert shown.shares_prompts
    assert not load_policy(tmp_path, torch.float32, 1.0, shared_rows=False).shares_prompts


def test_models_whose_logits_are_no_plain_product_are_refused(tmp_path: Path) -> None:
    config = Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=5.0)
    folder = saved(Gemma2ForCausalLM(config), tmp_path / "gemma")
    with pytest.raises(ValueError, match="Gemma2ForCausalLM"):
        load_policy(folder, torch.float32, 1.0)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be loaded as a language model") as caught:
        load_policy(tmp_path, torch.float32, 1.0)
    assert "\n" not in str(caught.value)


def test_gradients_are_the_same_whichever_thread_is_first(small: Path) -> None:
    """Many responses to one prompt are predicted at its last token: their gradients meet there."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        policy = load_policy(small / "base", torch.float32, 1.0)
        rows = [Row(np.arange(4), np.array([i % 90, 1, 2])) for i in range(400)]
        micro = collate(rows, 0, torch.device("cpu"), Layout.SHARED)

        def gradient() -> torch.Tensor:
            policy.zero_grad()
            policy(**micro.inputs)[0].sum().backward()
            grad = policy.model.get_input_embeddings().weight.grad
            assert grad is not None
            return grad

        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(12))
    finally:
        torch.set_num_threads(before)
