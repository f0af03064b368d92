"""Whether a model gives rows in a layout what it gives each of them alone: tried at load.

A layer that is no attention (a recurrence, a convolution) or that counts positions by itself runs
on from one packed row into the next, and nothing of it shows in the figures of a run. So each
layout has to prove itself on the model, the device and the dtype at hand, by two things:

- rows have the hidden states that they have alone, as far as the dtype's rounding lets one see;
- what stands in another row, or in the padding, changes nothing. Shapes are equal in this one, so
  that it is sharp in half precision too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icpo_core.trainer.microbatches import Layout, Row, collate
from icpo_core.trainer.policy import Policy

ALONE_GAP = {torch.float32: 1e-3}
OTHER_ALONE_GAP = 0.05
LEAK = {torch.float32: 1e-5}
OTHER_LEAK = 0.01
"""Largest differences of hidden states, as shares of their norm. In half precision a product of
another shape rounds otherwise."""
SIZES = ((3, 7), (3, 3), (5, 4))
"""Tokens of prompt and response of the rows that are tried; the first two share their prompt."""


@dataclass(frozen=True)
class Chosen:
    """The layout that a trainer uses."""

    layout: Layout
    note: str = ""
    """Why it is not the one that was to be used, or empty."""


@torch.no_grad()
def choose_proven(
    policy: Policy,
    forward: Callable[..., Any],
    wanted: Layout,
    pad_id: int,
    device: torch.device,
    agreed: Callable[[bool], bool] = lambda holds: holds,
) -> Chosen:
    """The layout to use: `wanted`, or padded, or one row a micro-batch, whichever is exact.

    forward: the policy's, or that of the engine around it. agreed: whether it holds on all ranks.
    Raises ValueError if a token's hidden state depends on what comes after it.
    """
    trial, kind = _Trial(policy, forward, pad_id, device), type(policy.model).__name__
    notes: list[str] = []
    for layout in dict.fromkeys((wanted, Layout.PADDED)):
        found = trial.gap(layout)
        if agreed(found.holds):
            break
        notes.append(f"{layout} rows {found.told}")
    else:
        layout = Layout.ALONE
        if not agreed(trial.is_causal()):
            raise ValueError(
                f"{kind}: what it says of a token depends on the tokens after it, so it is no "
                "causal language model: it cannot be trained"
            )
    said = f"{' and '.join(notes)} with this model ({kind}): {layout} instead" if notes else ""
    return Chosen(layout, said)


@dataclass(frozen=True)
class _Gap:
    told: str
    holds: bool


class _Trial:
    """Some rows of random tokens, and their hidden states where a response token is predicted."""

    def __init__(
        self, policy: Policy, forward: Callable[..., Any], pad_id: int, device: torch.device
    ) -> None:
        self._policy, self._forward = policy, forward
        self._pad, self._device = pad_id, device
        embedding: Any = policy.model.get_input_embeddings()
        self._vocabulary = int(embedding.num_embeddings)
        chance = np.random.default_rng(0)
        first, *rest = (chance.integers(0, self._vocabulary, sum(size)) for size in SIZES)
        rest[0][: SIZES[0][0]] = first[: SIZES[0][0]]
        self._rows = [
            Row(ids[:prompt], ids[prompt:])
            for ids, (prompt, _) in zip([first, *rest], SIZES, strict=True)
        ]
        self._alone = [self._states([row], Layout.PADDED)[0] for row in self._rows]

    def gap(self, layout: Layout) -> _Gap:
        try:
            found = self._states(self._rows, layout)
            first = self._rows[0]
            other = Row(first.prompt_ids, (first.response_ids + 1) % self._vocabulary)
            pad = (self._pad + 1) % self._vocabulary
            again = self._states([other, *self._rows[1:]], layout, pad)
        # The code of a model's own: one that takes no positions, or has attention of its own.
        except (TypeError, ValueError, RuntimeError) as error:
            return _Gap(f"cannot be shown ({str(error).splitlines()[0][:80]})", False)
        alone = max(map(_difference, found, self._alone))
        leak = max(map(_difference, again[1:], found[1:]))
        dtype = found[0].dtype
        holds = alone <= ALONE_GAP.get(dtype, OTHER_ALONE_GAP) and leak <= LEAK.get(
            dtype, OTHER_LEAK
        )
        told = f"have other hidden states than rows alone (by {max(alone, leak):.2g} of their norm)"
        return _Gap(told, holds)

    def is_causal(self) -> bool:
        """Whether the first tokens of a row have the states that they have without the rest."""
        row = self._rows[0]
        part = self._states([Row(row.prompt_ids, row.response_ids[:2])], Layout.PADDED)[0]
        gap = _difference(part, self._alone[0][:2])
        return gap <= ALONE_GAP.get(part.dtype, OTHER_ALONE_GAP)

    def _states(
        self, rows: Sequence[Row], layout: Layout, pad: int | None = None
    ) -> Sequence[Tensor]:
        """Of each row, [its response tokens, W]: what the head is given."""
        seen: list[Tensor] = []
        head = self._policy.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        micro = collate(rows, self._pad if pad is None else pad, self._device, layout)
        try:
            self._forward(**micro.inputs, entropy=False)
        finally:
            hook.remove()
        parts: Sequence[Tensor] = torch.split(seen[0], [len(row.response_ids) for row in rows])
        return parts


def _difference(found: Tensor, expected: Tensor) -> float:
    """As a share of the norm; NaN where there is any."""
    norm = expected.float().norm()
    return float((found.float() - expected.float()).norm() / norm.clamp_min(1e-30))
