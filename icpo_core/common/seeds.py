"""Seeds from a stable hash: a resumed run makes the same work."""

from __future__ import annotations

import hashlib

import numpy as np


def stable_seed(*parts: str | int) -> int:
    """Seed in [0, 2**63) of the parts' text, the same on every machine and Python."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: str | int) -> np.random.Generator:
    """NumPy generator seeded by `stable_seed`."""
    return np.random.Generator(np.random.PCG64(stable_seed(*parts)))
