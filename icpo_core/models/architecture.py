"""The shape of a model, read off its configuration without loading it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icpo_core.common.files import read_json


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer with gated feed-forward layers (Llama, Qwen2, Qwen3)."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    """Width of one attention head."""
    ffn: int
    vocabulary: int
    positions: int
    """Longest sequence the model was made for, tokens."""
    tied: bool
    """LM head and embedding are one matrix."""
    family: str = "qwen3"

    @property
    def queries(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.kv_heads * self.head

    def adapter_parameters(self, rank: int, modules: Collection[str]) -> int:
        """Of LoRA on the named linear layers. Raises ValueError for a name that is none of them."""
        width, queries, keys, ffn = self.width, self.queries, self.keys, self.ffn
        sides = {
            "q_proj": width + queries,
            "k_proj": width + keys,
            "v_proj": width + keys,
            "o_proj": queries + width,
            "gate_proj": width + ffn,
            "up_proj": width + ffn,
            "down_proj": ffn + width,
        }
        if unknown := set(modules) - sides.keys():
            raise ValueError(
                f"update.lora.target_modules: {min(unknown)} is none of {', '.join(sides)}, the "
                "linear layers of Llama, Qwen2 and Qwen3"
            )
        return self.layers * rank * sum(sides[name] for name in set(modules))

    @property
    def layer_parameters(self) -> int:
        attention = 2 * self.width * self.queries + 2 * self.width * self.keys
        norms = 2 * self.width
        if self.family == "qwen3":
            norms += 2 * self.head
        if self.family == "qwen2":
            attention += self.queries + 2 * self.keys  # biases
        return attention + 3 * self.width * self.ffn + norms

    @property
    def parameters(self) -> int:
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.width


KNOWN = {
    "Qwen/Qwen3-0.6B": Shape(28, 1024, 16, 8, 128, 3072, 151936, 40960, True),
    "Qwen/Qwen3-1.7B": Shape(28, 2048, 16, 8, 128, 6144, 151936, 40960, True),
    "Qwen/Qwen3-4B": Shape(36, 2560, 32, 8, 128, 9728, 151936, 40960, True),
    "Qwen/Qwen3-8B": Shape(36, 4096, 32, 8, 128, 12288, 151936, 40960, False),
    "Qwen/Qwen2.5-Math-7B": Shape(28, 3584, 28, 4, 128, 18944, 152064, 4096, False, "qwen2"),
    "Elliott/Qwen2.5-Math-7B-16k-think": Shape(
        28, 3584, 28, 4, 128, 18944, 152064, 16384, False, "qwen2"
    ),
}
"""Models of the recipes, so that a run can be planned where they are not on disk yet."""


def shape_of(path: str) -> Shape:
    """The shape of a model folder, or of a hub id that is in the local cache or known.

    Never reaches for the network. Raises ValueError with one line.
    """
    folder = Path(path)
    if folder.is_dir():
        return from_config(read_json(folder / "config.json"), str(folder))
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        cached = None
    if isinstance(cached, str):
        return from_config(read_json(Path(cached)), path)
    if path in KNOWN:
        return KNOWN[path]
    raise ValueError(
        f"model.path = {path}: its size is not known before it is on disk; download it first "
        f"(`hf download {path}`), or name a folder"
    )


def from_config(config: dict[str, Any], where: str) -> Shape:
    """Read a `config.json`. Raises ValueError if it is of another kind of model."""
    try:
        heads = config["num_attention_heads"]
        return Shape(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head=config.get("head_dim") or config["hidden_size"] // heads,
            ffn=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
            tied=bool(config.get("tie_word_embeddings", False)),
            family=config.get("model_type", ""),
        )
    except KeyError as missing:
        raise ValueError(
            f"{where}: config.json has no {missing.args[0]}; estimates are for decoder-only "
            "transformers such as Llama and Qwen"
        ) from None
