"""The tensors that vLLM holds beside those of a model folder, bit for bit.

Rounding cannot blur this: what an engine says may differ from what the trainer says by more than an
iteration's step moves it, what it holds may not. No table of architectures is needed. vLLM builds
the model a second time, empty and in plain layouts on the CPU, and the architecture's own
`load_weights` fills it from the folder: fused, sharded and renamed tensors come to lie where the
engine has them. A layer that was packed for a kernel is read through that kernel, by rows of the
unit matrix, which no product rounds.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icpo_core.engine.kinds.base import Compared

UNITS, CHEAP = 64, 1 << 25
"""A packed layer is read at so many input channels at least, drawn anew for each comparison, with
all their outputs; at more where that takes so few products."""


def compare(runner: Any, folder: Path, seed: int) -> dict[str, Any]:
    """`Compared` of what a worker's model runner holds, as plain values.

    seed: draws the channels at which packed layers are read.
    """
    try:
        plain, loaded = _plain(runner.vllm_config, folder)
    except Exception as error:  # noqa: BLE001 - an architecture that is built once, or not here
        return asdict(Compared(0, [f"{type(error).__name__}: {error}"[:200]]))
    # A layer that takes adapters is wrapped, and comes after its wrapper.
    held = {name.replace(".base_layer", ""): one for name, one in runner.model.named_modules()}
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, bool | None] = {}
    for name, module in plain.named_modules():
        wanted = dict(module.named_parameters(name, recurse=False))
        # By identity: a tied head is in no folder under its own name.
        wanted = {kind: value for kind, value in wanted.items() if id(value) in loaded}
        these = {kind: _same(held.get(name), kind, value, draw) for kind, value in wanted.items()}
        if not all(these.values()) and _process(module, runner.device):
            # A kernel's own order of what is in the folder: what was done to one is done to both.
            for kind in wanted:
                value = getattr(module, kind.rpartition(".")[2], None)
                if isinstance(value, Tensor) and value.numel():
                    these[kind] = these[kind] or _same(held.get(name), kind, value, draw)
        found |= these
    _release(plain, held)
    answers = list(found.values())
    return asdict(
        Compared(
            answers.count(True),
            [kind for kind, same in found.items() if same is None],
            [kind for kind, same in found.items() if same is False],
        )
    )


def _plain(config: Any, folder: Path) -> tuple[nn.Module, set[int]]:
    """The folder's weights in a model that no kernel has changed, and the ids of its parameters
    that were in the folder (all of them, if the architecture does not say)."""
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    # Layers enter themselves into the configuration, under names that may be there once.
    compilation = copy.copy(config.compilation_config)
    compilation.static_forward_context = {}
    config = copy.copy(config)
    config.compilation_config = compilation
    settings = copy.copy(config.model_config)
    settings.model, settings.model_weights, settings.revision = str(folder), "", None
    with set_default_torch_dtype(settings.dtype), torch.device("cpu"):
        model = initialize_model(config, model_config=settings)
    loader: Any = get_model_loader(config.load_config)
    names = model.load_weights(loader.get_all_weights(settings, model))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return model, {id(parameters[name]) for name in names or parameters if name in parameters}


def _release(plain: nn.Module, held: dict[str, nn.Module]) -> None:
    """Give the second model's memory back now. Its layers hold each other in circles, which Python
    finds some iterations and models later."""
    shared = {id(module) for module in held.values()}  # tables of positions, for one
    for module in plain.modules():
        if id(module) not in shared:
            vars(module).pop("cpu_linear", None)
            for value in module.parameters(recurse=False):
                value.data = value.data.new_empty(0)


def _process(module: nn.Module, device: torch.device) -> bool:
    """Whether the module's kernel has put its tensors into the order that it needs."""
    method = getattr(module, "quant_method", None)
    if method is None or not hasattr(method, "process_weights_after_loading"):
        return False
    try:
        method.process_weights_after_loading(module.to(device))
    except Exception:  # noqa: BLE001 - a kernel's code, which may want more than one layer
        return False
    return True


def _same(there: nn.Module | None, kind: str, wanted: Tensor, draw: torch.Generator) -> bool | None:
    """Whether a layer of the engine holds a tensor; None: nobody can tell."""
    leaf = kind.rpartition(".")[2]
    held: Any = getattr(there, leaf, None)
    # The CPU build multiplies by a packed copy; the weight itself is gone, or tied to another's.
    packed = getattr(there, "cpu_linear", None) if leaf == "weight" and wanted.ndim == 2 else None
    plain = isinstance(held, Tensor) and held.shape == wanted.shape
    if not plain and packed is None:
        return None
    if plain and not torch.equal(held.detach().to(wanted.device, wanted.dtype), wanted):
        return False
    if packed is None:
        return True
    outputs, inputs = wanted.shape
    rows = min(inputs, max(UNITS, CHEAP // (inputs * outputs)))
    chosen = torch.randperm(inputs, generator=draw)[:rows]
    units = torch.zeros(rows, inputs, dtype=wanted.dtype)
    units[torch.arange(rows), chosen] = 1
    with torch.no_grad():
        read = packed(units, held, None)
    return torch.equal(read.to(wanted.dtype), wanted.detach()[:, chosen].T)
