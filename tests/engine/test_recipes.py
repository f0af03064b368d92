"""A recipe of the paper, run with a small model in the place of its own."""

from pathlib import Path

import pytest
from recipes import from_prompts_to_checkpoint


@pytest.mark.parametrize("name", ["paper/qwen3-8b"])
def test_a_recipe_from_prompts_to_checkpoint(name: str, tmp_path: Path) -> None:
    """Qwen3-8B's: bfloat16, ZeRO-3, checkpointed activations, two steps an iteration; and a head
    in float32, which an engine that has none refuses."""
    from_prompts_to_checkpoint(name, tmp_path, "update.head_dtype=float32")
