"""Damage to files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Planted:
    """Makes the folder `proof` where a loader executes what it reads."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.proof),)


def flip(path: Path, place: int | None = None) -> None:
    """Change one bit, keeping size and time of change."""
    facts, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    with path.open("r+b") as stream:  # in place, as a disk does it: links see it too
        stream.write(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
