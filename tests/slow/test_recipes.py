"""The recipe for one GPU, run with a small model in the place of its own."""

from pathlib import Path

import pytest
from recipes import from_prompts_to_checkpoint


@pytest.mark.parametrize("name", ["one-gpu-lora"])
def test_a_recipe_from_prompts_to_checkpoint(name: str, tmp_path: Path) -> None:
    """With an adapter, whose merged weights the engine proves that it holds
    before it evaluates them."""
    from_prompts_to_checkpoint(name, tmp_path, "rollout.lora=adapter")
