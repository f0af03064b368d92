"""Estimates against measurement: weights, activations, and a real run's memory and disk."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import Qwen3Config, Qwen3ForCausalLM

from icpo_core.capacity import machine
from icpo_core.capacity import memory as estimate
from icpo_core.capacity.forecast import forecast, measured
from icpo_core.config import LoraSection, UpdateSection, load
from icpo_core.models.architecture import KNOWN, Shape, shape_of
from icpo_core.run import plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.trainer.lora import inject
from icpo_core.trainer.policy import load_policy

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.toml"


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


def highest(pid: int) -> int:
    """Most bytes that were ever resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def stored(root: Path) -> int:
    facts = {(one.st_dev, one.st_ino): one.st_size for one in map(Path.stat, root.rglob("*"))}
    return sum(facts.values())


@pytest.mark.engine
def test_a_short_run(tmp_path: Path) -> None:
    """Memory of engine and trainer, disk, and seconds from the run's own rates, within 20%."""
    changes = ["run.iterations=6", "checkpoint.state_every=2", "update.token_budget=2048"]
    config = load(DEMO, [*changes, "evaluate.every=6", f"run.directory={tmp_path}"])
    with Run(config) as run:
        run.keep_config()
        run.workers.start_engine(run.base_model)
        run.workers.start_trainer()
        manifests = [
            perform(run, stage, iteration).manifest
            for iteration in range(1, 7)
            for stage in plan.stages_of(config, iteration)
        ]
        trainer = run.workers._trainer
        assert trainer is not None
        memory = {
            "engine": highest(run.workers._engines[0].process.pid),
            "trainer": highest(trainer.process.pid),
        }
        disk = stored(run.paths.root)
        rates = measured(run.paths.root, 1)
    assert rates is not None
    there = machine.here(tmp_path).model_copy(update={"rates": rates})
    found = forecast(config, there)
    (whole,) = found.loads
    for kind, most in memory.items():
        guess = sum(value for name, value in whole.parts.items() if name.startswith(kind))
        assert guess == pytest.approx(most, rel=0.2), kind
    # The weights that retention would have taken are still there: nobody settled the run.
    weights = estimate.model_bytes(found.shape, config)
    states = estimate.state_bytes(found.shape, config)
    guess = 6 * weights + 3 * states + found.disk["rollouts"] + found.disk["evaluations"]
    assert guess == pytest.approx(disk, rel=0.2)
    assert found.seconds is not None
    recent = [one for one in manifests if one.iteration > 1]
    sampling = [one.facts["sampling_seconds"] for one in recent if one.stage == "rollout"]
    steps = [one.facts["timing"]["step"] for one in recent if one.stage == "update"]
    assert found.seconds["rollout"] == pytest.approx(sum(sampling) / 5, rel=0.2)
    assert found.seconds["update"] == pytest.approx(sum(steps) / 5, rel=0.4)
