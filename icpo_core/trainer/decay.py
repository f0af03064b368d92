"""Which weights are pulled towards zero (decoupled weight decay, arXiv 1711.05101)."""

from __future__ import annotations

from typing import Any

from torch import nn

from icpo_core.config import UpdateSection


def spares(settings: UpdateSection) -> bool:
    """Whether norms and biases are left out of a decay that there is."""
    return settings.weight_decay > 0 and not settings.decay_norms


def groups(module: nn.Module, settings: UpdateSection) -> list[dict[str, Any]]:
    """The trained parameters as an optimizer's groups: the first decays, a second one does not.

    Of one dimension are the scales of norms, and biases.
    """
    trained = [value for value in module.parameters() if value.requires_grad]
    if not spares(settings):
        return [{"params": trained}]
    parts = [[v for v in trained if (v.ndim < 2) is flat] for flat in (False, True)]
    return [
        {"params": part, "weight_decay": decay}
        for part, decay in zip(parts, (settings.weight_decay, 0.0), strict=True)
        if part
    ]
