"""How much of what a device can do an update used: model FLOPs utilization (MFU).

Counted is the arithmetic that the model asks for, not what was done for it: forward and backward
without what checkpointing repeats, attention as if it were not causal (PaLM, appendix B), the LM
head at the response tokens only.
"""

from __future__ import annotations

from collections.abc import Iterable

from icpo_core.models.architecture import Shape

PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
}
"""Dense bfloat16 FLOP/s by the beginning of the device's name; NVIDIA's data sheets."""


def peak(device: str) -> float | None:
    """FLOP/s of a device by its name; None if it is not known."""
    names = [
        name for name in PEAK_FLOPS if device == name or device.startswith((f"{name} ", f"{name}-"))
    ]
    return PEAK_FLOPS[max(names, key=len)] if names else None


def training_flops(shape: Shape, rows: Iterable[tuple[int, int, int]]) -> float:
    """Of one forward and backward pass over rows of (tokens, tokens shown, response tokens).

    Attention is over all tokens of a row; shown are those that no other row had shown already.
    """
    layers = 6.0 * shape.layers * shape.layer_parameters
    head = 6.0 * shape.vocabulary * shape.width
    attention = 12.0 * shape.layers * shape.queries
    return sum(
        layers * shown + attention * tokens**2 + head * responses
        for tokens, shown, responses in rows
    )


def utilization(flops: float, seconds: float, device: str, devices: int) -> float | None:
    """Share of the devices' peak; None for a device that is not known, such as a CPU."""
    known = peak(device)
    return flops / (seconds * devices * known) if known and seconds else None
