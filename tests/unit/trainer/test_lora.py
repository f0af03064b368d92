"""LoRA: settings and targets that cannot be, the adapter on disk, what merging leaves of it."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from icpo_core.config import LoraSection, load
from icpo_core.trainer import lora as adapter
from icpo_core.trainer.policy import load_policy
from icpo_core.workers.jobs import EngineSettings
from icpo_core.workers.pool import Fleet


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("update.deepspeed={zero_optimization={stage=3}}", "zero2.json, or lora.rank = 0"),
        ('update.lora.target_modules=["q_proj","lm_head"]', "has lm_head"),
        ("update.lora.target_modules=[]", "update.lora.target_modules"),
        ("update.lora.alpha=0", "update.lora.alpha"),
        ("rollout.lora=adapter update.lora.rank=0", "set update.lora.rank, or leave"),
        ("rollout.lora=adapter update.lora.rank=600", "ranks up to 512"),
        (
            "rollout.lora=adapter rollout.engine.kind=./mine.py:engine",
            "or set rollout.lora = merged",
        ),
    ],
)
def test_what_cannot_be(root: Path, change: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        load(root / "configs" / "demo.toml", ["update.lora.rank=4", *change.split()])
    assert words in str(error.value)


@pytest.mark.parametrize("target", ["c_attn", "q_norm"])
def test_a_target_that_the_model_lacks(small: Path, target: str) -> None:
    lora = LoraSection(rank=4, target_modules=["q_proj", target])
    with pytest.raises(ValueError, match=rf"{target} is no linear layer .*it has down_proj, gate"):
        load_policy(small / "base", torch.float32, 1.0, lora=lora)


def test_engines_are_told_of_the_adapter(root: Path) -> None:
    demo, base = root / "configs" / "demo.toml", Path("base")
    beside = Fleet.of(load(demo, ["update.lora.rank=4", "rollout.lora=adapter"]), base)
    assert (beside.base, beside.lora) == (base, LoraSection(rank=4))
    merged = Fleet.of(load(demo, ["update.lora.rank=4"]), base)
    assert (merged.base, merged.lora) == (None, None)
    for fleet in (beside, merged):
        said = EngineSettings(model=base, engine=fleet.engine, seed=0, lora=fleet.lora)
        assert EngineSettings.model_validate_json(json.dumps(said.wire())) == said


def test_peft_opens_the_adapter_that_is_written(small: Path, tmp_path: Path) -> None:
    settings = LoraSection(rank=4, alpha=8)
    policy = load_policy(small / "base", torch.float32, 1.0, lora=settings)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if "lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=chance))
    adapter.write(policy.model, tmp_path / "adapter", settings)
    base = AutoModelForCausalLM.from_pretrained(small / "base", dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        plain = base(input_ids=ids).logits.log_softmax(-1)
        theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")(input_ids=ids).logits
        ours, _ = policy(ids, torch.arange(36), ids[0, 1:])
    said = theirs.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
    assert torch.allclose(ours, said, atol=1e-5)
    assert float((theirs.log_softmax(-1) - plain).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("steps", "dtype", "share"),
    [
        (2, torch.bfloat16, 0.11),
        (10, torch.bfloat16, 0.51),
        (20, torch.bfloat16, 0.80),
        (2, torch.float32, 1.0),
    ],
)
def test_merging_into_half_precision_loses_small_updates(
    steps: int, dtype: torch.dtype, share: float
) -> None:
    """Width 1024 and the settings of configs/one-gpu-lora.toml: Adam has moved every number of B by
    its learning rate, 1e-5, in each step."""
    chance = torch.Generator().manual_seed(0)
    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(1024, 1024, bias=False)}).to(dtype)
    with torch.no_grad():
        model["q_proj"].weight.copy_(0.02 * torch.randn(1024, 1024, generator=chance))
    adapter.inject(model, LoraSection(rank=32, alpha=64, target_modules=["q_proj"]))
    assert math.isnan(adapter.kept(model))  # nothing is learned yet
    up = model["q_proj"].lora_B["default"].weight
    with torch.no_grad():
        up.copy_(steps * 1e-5 * torch.randn(up.shape, generator=chance).sign())
    assert adapter.kept(model) == pytest.approx(share, abs=0.03)
