"""What DeepSpeed is told."""

from __future__ import annotations

from typing import Any

from icpo_core.common import limits
from icpo_core.config import UpdateSection


def settings_of(update: UpdateSection) -> dict[str, Any]:
    """The configuration of a trainer's engine. Raises ValueError for what cannot be built here."""
    zero = update.deepspeed.get("zero_optimization", {})
    offload = zero.get("offload_optimizer")
    if offload and not limits.has_compiler():
        raise ValueError(
            "update.deepspeed has offload_optimizer, which DeepSpeed compiles, and there is no "
            "C++ compiler: install one (apt-get install g++), or leave it out"
        )
    plain = update.dtype == "float32" and not zero.get("stage", 0)
    return {
        **update.deepspeed,
        # step() is the only boundary: mini-batches have as many micro-batches as they need,
        # and losses are divided once, by totals over all of them.
        "managed_gradient_accumulation": False,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if plain else update.grad_clip,
        "bf16": {"enabled": update.dtype == "bfloat16"},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": update.learning_rate,
                "betas": list(update.betas),
                "eps": update.eps,
                "weight_decay": update.weight_decay,
                "torch_adam": not offload,
            },
        },
        "steps_per_print": 1_000_000_000,
    }
