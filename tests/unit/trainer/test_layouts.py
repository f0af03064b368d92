"""A layout is used for a model that is exact in it, and for no other: every family that
transformers builds tiny from its default configuration, and hybrids from one of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from alone import one_by_one, rows, saved
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from icpo_core.trainer.layouts import choose_proven
from icpo_core.trainer.microbatches import Layout, collate, plan
from icpo_core.trainer.policy import Policy, load_policy
from icpo_core.trainer.shared_prompts import share_prompts

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models of this size are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "ffn_dim": 48,
    "word_embed_proj_dim": 32, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
FULL = [
    "apertus", "arcee", "aria_text", "bitnet", "ctrl", "cwm", "diffllama", "doge", "dots1",
    "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "flex_olmo", "gemma",
    "gemma3_text", "glm", "glm4", "glm4_moe", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo",
    "gpt_neox", "gpt_neox_japanese", "granite_swa", "granitemoe_swa", "helium",
    "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "hyperclovax", "jais2", "jetmoe",
    "laguna", "llama", "mellum", "mimo_v2_flash", "minimax_m2", "minimax_m3_vl_text",
    "ministral", "ministral3", "mistral", "mixtral", "moshi", "nemotron", "olmo", "olmo2",
    "olmo3", "olmoe", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2",
]  # fmt: skip
"""Exact in packed rows."""
RUNNING_ON = [
    "afmoe", "biogpt", "bloom", "deepseek_v4", "gpt_oss", "minimax", "mpt", "olmo_hybrid",
    "openai-gpt", "opt", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "trocr", "xglm",
    "zaya",
]  # fmt: skip
"""In packed rows something of a row goes on into the next."""
MIXED = {
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 16,
              "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 8},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 2,
                  "mamba_d_state": 8, "mamba_chunk_size": 8, "head_dim": 8},
    "falcon_mamba": {"state_size": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 4,
                         "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 8,
                         "mamba_chunk_size": 8, "num_local_experts": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "num_experts": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 8},
    "nemotron_h": {"head_dim": 8, "layers_block_type": ["mamba", "attention"],
                   "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2,
                   "chunk_size": 8},
    "rwkv": {"attention_hidden_size": 32},
}  # fmt: skip
LIKE_LLAMA = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads",
              "num_key_value_heads", "num_hidden_layers")  # fmt: skip


def tiny(family: str) -> PreTrainedModel:
    kind: Any = CONFIG_MAPPING[family]
    if family in MIXED:
        config = kind(**{key: SIZES[key] for key in LIKE_LLAMA} | MIXED[family])
    else:
        config = kind()
        for key, value in SIZES.items():
            if hasattr(config, key):
                setattr(config, key, value)
        if types := getattr(config, "layer_types", None):
            several = list(dict.fromkeys(types))
            config.layer_types = several[:2] if len(several) > 1 else types[:2]
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("family", [*FULL, *RUNNING_ON, *MIXED])
def test_the_layout_of_every_family_is_exact(family: str) -> None:
    model = tiny(family)
    expected = one_by_one(model)
    shares = share_prompts(model)
    policy = Policy(model, 1.0, shares)
    for wanted in [Layout.PADDED, Layout.PACKED] + [Layout.SHARED] * shares:
        chosen = choose_proven(policy, policy, wanted, 0, CPU)
        found, _ = policy(**collate(rows(), 0, CPU, chosen.layout).inputs)
        assert torch.allclose(found, expected, atol=1e-5)
        falls = wanted is Layout.PACKED and family not in FULL
        assert chosen.layout is (Layout.PADDED if falls else wanted)
        assert bool(chosen.note) == falls
    assert not (shares and family in MIXED)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2_moe", "qwen3_5_text", "nemotron_h", "gpt_oss"])
def test_in_half_precision_it_is_told_from_rounding(family: str) -> None:
    model = tiny(family).to(torch.bfloat16)
    policy = Policy(model, 1.0, share_prompts(model))
    assert policy.shares_prompts == (family == "llama")
    assert not choose_proven(policy, policy, Layout.PADDED, 0, CPU).note
    chosen = choose_proven(policy, policy, Layout.PACKED, 0, CPU)
    assert chosen.layout is (Layout.PACKED if family in FULL else Layout.PADDED)


@torch.no_grad()
@pytest.mark.parametrize("family", ["stablelm", "nemotron"])
def test_attention_that_does_not_hand_on_is_no_crash(family: str) -> None:
    model = tiny(family)
    before = model.config._attn_implementation
    assert not share_prompts(model)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_what_sees_the_tokens_after_is_refused(family: str) -> None:
    policy = Policy(tiny(family), 1.0)
    with pytest.raises(ValueError, match="no causal language model") as caught:
        choose_proven(policy, policy, Layout.PADDED, 0, CPU)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_rows_that_feel_each_other_beside_each_other_stand_alone() -> None:
    """A stand-in for experts of bounded capacity: what is in a batch weighs in each of its rows."""
    model = tiny("llama")

    def crowded(_module: Any, _given: Any, states: torch.Tensor) -> torch.Tensor:
        return states * len(states)

    model.get_input_embeddings().register_forward_hook(crowded)
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(crowded)
    policy = Policy(model, 1.0)
    chosen = choose_proven(policy, policy, Layout.PADDED, 0, CPU)
    assert chosen.layout is Layout.ALONE
    assert chosen.note.endswith("(LlamaForCausalLM): alone instead")
    (batches,) = plan(rows(), 16_384, 1, chosen.layout)
    assert sorted(batches) == [[place] for place in range(len(rows()))]


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_damaged_weights_are_named(tmp_path: Path, value: float, word: str) -> None:
    model = LlamaForCausalLM(LlamaConfig(**{key: SIZES[key] for key in LIKE_LLAMA}))
    saved(model, tmp_path)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = value
    model.save_pretrained(tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=f"the weight {name} holds {word}"):
        load_policy(tmp_path, torch.bfloat16, 1.0)
