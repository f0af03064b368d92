"""LoRA: a low-rank adapter on the linear layers of a frozen model (arXiv 2106.09685), by `peft`.

A layer computes W x + (alpha / rank) B A x. W stays as the base model has it, A and B are trained;
B begins at zero, so that the first policy is the base model. What is published is
W + (alpha / rank) B A, always made anew from W: nothing is ever merged into W, so nothing drifts.
But the sum is rounded to W's dtype, and of a B A that is smaller than half a step of W nothing is
left (`kept`). So A and B are published beside it, as PEFT writes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from icpo_core.common.files import write_json
from icpo_core.config import LoraSection

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

FOLDER = "adapter"
"""Beside the merged weights."""

NAME = "default"
SEED = 0
"""Of A's first values: the same in every run, rank and restart."""
_TRAINED, _BASE = ".lora_", ".base_layer."


def inject(model: nn.Module, settings: LoraSection) -> None:
    """Put the adapter on the target modules, in place, and freeze everything else.

    Raises ValueError if a target is no linear layer of the model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    kinds: dict[str, type[nn.Module]] = {}
    for name, module in model.named_modules():
        kinds[name.rpartition(".")[2]] = type(module)
    for target in settings.target_modules:
        if kinds.get(target) is not nn.Linear:
            linear = sorted(
                {name for name, kind in kinds.items() if kind is nn.Linear} - {"lm_head"}
            )
            raise ValueError(
                f"update.lora.target_modules: {target} is no linear layer of this model "
                f"({type(model).__name__}); it has {', '.join(linear)}"
            )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=settings.target_modules,
        lora_dropout=0.0,  # dropout would make the ratio of the first step differ from 1
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        inject_adapter_in_model(config, model, NAME)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained
    assert all(_TRAINED in name for name in trained)


def layers(model: nn.Module) -> dict[str, Linear]:
    """The layers with an adapter, by name; none in a model that is trained whole."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    }


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Within it the model is the base model."""
    adapted = layers(model).values()
    for layer in adapted:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapted:
            layer.enable_adapters(True)


def published(model: nn.Module, named: list[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """`named` under the names that the base model gives them, adapters merged in float32 and
    rounded once; those of a model without adapters as they are."""
    adapted = layers(model)
    for name, value in named:
        if _TRAINED in name:
            continue
        layer = adapted.get(name.removesuffix(".base_layer.weight"))
        yield name.replace(_BASE, "."), value if layer is None else _merged(layer, value)


@torch.no_grad()
def _added(layer: Linear) -> Tensor:
    """(alpha / rank) B A in float32."""
    down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    assert isinstance(down, Tensor)
    assert isinstance(up, Tensor)
    scale: float = layer.scaling[NAME]
    return scale * (up.float() @ down.float())


@torch.no_grad()
def _merged(layer: Linear, base: Tensor) -> Tensor:
    return (base.float() + _added(layer)).to(base.dtype)


@torch.no_grad()
def kept(model: nn.Module) -> float:
    """Share of the adapters' product that merging leaves: the component of merged − base along it,
    over all layers; 0 where rounding undoes all of it, NaN where there is none yet."""
    along = whole = 0.0
    for layer in layers(model).values():
        base, added = layer.base_layer.weight, _added(layer)
        assert isinstance(base, Tensor)
        left = _merged(layer, base).float() - base.float()
        along += float((left * added).sum())
        whole += float(added.square().sum())
    return along / whole if whole else math.nan


def write(model: nn.Module, folder: Path, settings: LoraSection) -> None:
    """The adapters by themselves, in PEFT's format: `PeftModel.from_pretrained(base, folder)`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tensors = {
        f"base_model.model.{name.replace(f'.{NAME}.', '.')}": value.detach().to("cpu", copy=True)
        for name, value in model.named_parameters()
        if _TRAINED in name
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,  # a path of this machine would be another file elsewhere
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "target_modules": sorted(settings.target_modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_json(folder / "adapter_config.json", config, durable=False)


def save_only(module: nn.Module) -> None:
    """Have the state of `module` be its adapter's: the rest is in the base model's folder."""

    def leave(_module: nn.Module, state: dict[str, Any], _prefix: str, _metadata: Any) -> None:
        for name in [name for name in state if _TRAINED not in name]:
            del state[name]

    module.register_state_dict_post_hook(leave)
