"""The slow average of the policy, which may teach it (`loss.distill.teacher = "average"`).

After each iteration average = decay · average + (1 − decay) · weights, in float32, of what is
trained, from the base model on (a mean teacher: arXiv 1703.01780). It is a part of the trainer's
state: a state holds it, and a replay comes to it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from icpo_core.config import LossSection

FILE = "average.safetensors"
"""Beside the other files of a state."""
MEND = "remove its folder `state` to train from the states before it"


def kept(loss: LossSection, module: nn.Module) -> Average | None:
    """The average of a trainer's policy, where it is to teach."""
    return Average(module, loss.distill.decay) if loss.teacher == "average" else None


class Average:
    """Of a module whose parameters every rank holds whole."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Begins at the weights as they are. decay: share of itself that it keeps, in (0, 1)."""
        self.decay = decay
        self._trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._held = {n: p.detach().to(torch.float32, copy=True) for n, p in self._trained.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """Take an iteration's weights in."""
        for name, value in self._trained.items():
            self._held[name].lerp_(value.float(), 1.0 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the module is the average; after it, to the bit what it was."""
        kept = {name: value.detach().clone() for name, value in self._trained.items()}
        self._put(self._held)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, value in self._trained.items():
            value.copy_(values[name])

    def save(self, folder: Path) -> None:
        """Write it into a state's folder."""
        save_file({name: value.cpu() for name, value in self._held.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Read it from a state's folder. Raises ValueError if damaged, or of other weights."""
        try:
            found = load_file(folder / FILE)
        except SafetensorError as error:
            raise ValueError(f"{folder / FILE}: damaged ({error}); {MEND}") from error
        shapes = {name: value.shape for name, value in found.items()}
        if shapes != {name: value.shape for name, value in self._held.items()}:
            raise ValueError(f"{folder / FILE}: not of these weights; {MEND}")
        for name, value in self._held.items():
            value.copy_(found[name])
