"""Packages that vLLM asks for, that nothing here uses, and that can break every import.

The CPU build of torch does not load the builds of these that PyPI has: transformers finds one
installed, imports it, and fails with `operator torchvision::nms does not exist`. An override of the
dependency keeps them out of a checkout's environment; a wheel has no such thing.
"""

from __future__ import annotations

import importlib.metadata
import sys

from packaging.requirements import Requirement
from packaging.version import Version

STRAYS = ("torchvision", "torchaudio", "torchcodec")


def hide() -> None:
    """Let this process find no stray that was built for another torch. Call it before an import of
    transformers, vLLM or peft."""
    for name in found():
        if name not in sys.modules:
            sys.modules[name] = None  # type: ignore[assignment]  # for Python: there is none


def found() -> list[str]:
    """Installed strays that were built for another torch than the one that is installed."""
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return []
    return [name for name in STRAYS if not _fits(name, torch)]


def _fits(name: str, torch: str) -> bool:
    try:
        there = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return True
    asked = [Requirement(line) for line in there.requires or []]
    # What stands after the `+` (cpu, cu130) is what a build is for.
    return Version(there.version).local == Version(torch).local and all(
        one.specifier.contains(torch, prereleases=True) for one in asked if one.name == "torch"
    )
