"""Estimates against measurement: weights and activations."""

from pathlib import Path

import pytest
import torch
from places import DEMO
from safetensors import safe_open
from transformers import Qwen3Config, Qwen3ForCausalLM

from icpo_core.capacity import doctor
from icpo_core.capacity import memory as estimate
from icpo_core.capacity.forecast import forecast, lengths
from icpo_core.capacity.machine import Devices, Host, Machine, Rates
from icpo_core.config import LoraSection, UpdateSection, load, override
from icpo_core.method.problems import read_problems
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


def test_micro_batches_follow_the_data() -> None:
    """The demo's problems have 11 characters, a token each, in `Q:{problem}\\nA:`; its limit is 128
    tokens. On the CPU a prompt stands once for its group."""
    config = load(DEMO, ["update.token_budget=100000"])
    found = lengths(config)
    assert found is not None
    rows = read_problems(config.prompts.problems).num_rows
    assert (found.problems, found.longest) == (rows // 2, 16)
    assert found.mean == 16
    host = Host(cores=2, memory_gib=8, shared_memory_gib=1, disk_free_gib=10)
    told = Machine(host=host, rates=Rates(prompt_tokens=found.mean))
    assert estimate.micro_batch_tokens(config, told) == pytest.approx(16 * (8 * 64 + 16))
    beside = override(config, ["update.packing=false"])
    assert estimate.micro_batch_tokens(beside, told) == pytest.approx(16 * 8 * (64 + 16))
    devices = told.model_copy(update={"devices": Devices(count=1, memory_gib=24.0)})
    assert estimate.micro_batch_tokens(config, devices) == pytest.approx(16 * 8 * (64 + 16))
    # Mean lengths that a run has had count for more than what is allowed.
    known = Rates(prompt_tokens=16, response_tokens=20)
    tokens = estimate.micro_batch_tokens(config, told.model_copy(update={"rates": known}))
    assert tokens == pytest.approx(16 * (8 * 20 + 16))
    # The forecast measures by itself, and says so; a limit below the data is a failure.
    alone = Machine(host=host)
    [whole] = forecast(config, alone).loads
    shape = shape_of(config.model.path)
    assert whole.parts["trainer: activations"] == pytest.approx(
        16 * (8 * 64 + 16) * (shape.layers + 1) * estimate.activation_bytes(shape, config.update)
    )
    short = override(config, ["prompts.max_tokens=15"])
    for one, level in ((config, doctor.Level.OK), (short, doctor.Level.FAIL)):
        said = {a.what: a for a in doctor.check_run(one, alone, forecast(one, alone))}["lengths"]
        assert said.level is level
        assert "bare prompts of 16 tokens, 16 at most" in said.said
    assert lengths(override(config, ["model.path=Qwen/Qwen3-8B"])) is None
