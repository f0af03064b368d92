"""Estimates against measurement: weights and activations."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import Qwen3Config, Qwen3ForCausalLM

from icpo_core.capacity import memory as estimate
from icpo_core.config import LoraSection, UpdateSection
from icpo_core.models.architecture import KNOWN, Shape, shape_of
from icpo_core.trainer.lora import inject
from icpo_core.trainer.policy import load_policy


def test_parameters(small: Path) -> None:
    with safe_open(small / "base" / "model.safetensors", "pt") as weights:
        count = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    assert shape_of(str(small / "base")).parameters == count
    billions = {name.rpartition("/")[2]: shape.parameters / 1e9 for name, shape in KNOWN.items()}
    assert billions["Qwen3-0.6B"] == pytest.approx(0.596, abs=0.001)
    assert billions["Qwen3-1.7B"] == pytest.approx(1.721, abs=0.001)
    assert billions["Qwen3-8B"] == pytest.approx(8.191, abs=0.001)
    assert billions["Qwen2.5-Math-7B"] == pytest.approx(7.616, abs=0.001)


def test_parameters_of_an_adapter(small: Path) -> None:
    policy = load_policy(small / "base", torch.float32, 1.0, lora=LoraSection(rank=8))
    count = sum(value.numel() for value in policy.parameters() if value.requires_grad)
    update = UpdateSection(lora=LoraSection(rank=8))
    shape = shape_of(str(small / "base"))
    assert estimate.trained(shape, update) == count
    parts = estimate.state_memory(shape, update, 1)
    assert parts["trainer: weights"] == 2 * (shape.parameters + count)
    assert parts["trainer: optimizer"] == 16 * count
    with pytest.raises(ValueError, match=r"target_modules: c_attn is none of q_proj"):
        shape.adapter_parameters(8, ["c_attn"])


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_activations(dtype: str, rank: int) -> None:
    """What autograd keeps of one more layer, counted by its own hooks."""

    update = UpdateSection(dtype=dtype, lora=LoraSection(rank=rank))  # type: ignore[arg-type]

    def kept(layers: int) -> int:
        torch.manual_seed(0)
        config = Qwen3Config(
            hidden_size=128, intermediate_size=512, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, head_dim=64, vocab_size=32,
        )  # fmt: skip
        model = Qwen3ForCausalLM(config).to(getattr(torch, dtype)).train()
        if rank:
            inject(model, update.lora)
        weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
        found: dict[int, int] = {}
        held = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
                held.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.model(input_ids=torch.zeros((1, 256), dtype=torch.long), use_cache=False)
        return sum(found.values())

    shape = Shape(1, 128, 4, 2, 64, 512, 32, 4096, True)
    measured = (kept(3) - kept(1)) / 2 / 256
    assert estimate.activation_bytes(shape, update) == pytest.approx(measured, rel=0.05)
