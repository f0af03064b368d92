"""LoRA settings and targets that cannot be."""

from pathlib import Path

import pytest
import torch

from icpo_core.config import LoraSection, load
from icpo_core.trainer.policy import load_policy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("update.deepspeed={zero_optimization={stage=3}}", "zero2.json, or lora.rank = 0"),
        ('update.lora.target_modules=["q_proj","lm_head"]', "has lm_head"),
        ("update.lora.target_modules=[]", "update.lora.target_modules"),
        ("update.lora.alpha=0", "update.lora.alpha"),
    ],
)
def test_what_cannot_be(root: Path, change: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        load(root / "configs" / "demo.toml", ["update.lora.rank=4", change])
    assert words in str(error.value)


@pytest.mark.parametrize("target", ["c_attn", "q_norm"])
def test_a_target_that_the_model_lacks(small: Path, target: str) -> None:
    lora = LoraSection(rank=4, target_modules=["q_proj", target])
    with pytest.raises(ValueError, match=rf"{target} is no linear layer .*it has down_proj, gate"):
        load_policy(small / "base", torch.float32, 1.0, lora=lora)
