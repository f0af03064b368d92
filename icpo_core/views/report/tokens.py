"""An expert rollout token by token: what the bare prompt gives each, ρ, and what the loss makes of
it, f(ρ). As the update's loss took it; `icpo_core.method.loss` without torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from icpo_core.config import LossSection
from icpo_core.run.run import Run
from icpo_core.store.paths import EXPERT_TOKENS
from icpo_core.views.rollouts import Key, tokenizer_of

HEAD, TAIL = 900, 300
"""Tokens kept of a long rollout's beginning and end."""
LEAST = -40.0
"""Logarithms below are shown as this one: 1e-17 is as good as never."""
_BROKEN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Tokens:
    """What is shown of one rollout, an entry a token."""

    text: list[str]
    log_rho: list[float]
    f: list[float]
    log_shown: list[float] | None
    """Under the prompt with demonstrations; None where it is not known (traces)."""
    head: int
    """Tokens before those that are left out."""
    left_out: int


def expert_tokens(run: Run, iteration: int, wanted: set[str]) -> dict[Key, Tokens]:
    """Of the problems `wanted`, every expert rollout whose tokens the update wrote down."""
    found = run.store.finished("update", iteration)
    if found is None or EXPERT_TOKENS not in {one.name for one in found.files}:
        return {}
    table = run.store.table("update", iteration, "expert_tokens", of=wanted)
    bare = {_key(row): row["logprobs"] for row in table.to_pylist()}
    names = ["prompt_id", "sample_index", "origin", "response_ids", "behaviour_logprobs"]
    batch = run.store.table("select", iteration, "batch", names, wanted)
    settings, spell = run.config_at(iteration).loss, speller(tokenizer_of(run))
    return {
        _key(row): _tokens(row, bare[_key(row)], settings, spell)
        for row in batch.to_pylist()
        if _key(row) in bare
    }


def shaped(
    log_bare_T: np.ndarray, log_shown_T: np.ndarray | None, settings: LossSection
) -> tuple[np.ndarray, np.ndarray]:
    """log ρ and f(ρ) of T tokens, as the loss has them (`icpo_loss`)."""
    log_rho_T = log_bare_T
    if settings.expert_ratio == "importance" and log_shown_T is not None:
        log_rho_T = log_bare_T - log_shown_T
    if settings.expert_clip is not None:
        log_rho_T = np.minimum(log_rho_T, math.log(settings.expert_clip))
    if settings.expert == "unshaped":
        return log_rho_T, np.exp(log_rho_T)
    return log_rho_T, 1.0 / (1.0 + settings.expert_lambda * np.exp(-log_rho_T))


def _tokens(
    row: dict[str, Any],
    logprobs: list[float],
    settings: LossSection,
    spell: Callable[[list[int]], list[str]],
) -> Tokens:
    ids, behaviour = row["response_ids"], row["behaviour_logprobs"]
    log_bare_T = np.maximum(np.array(logprobs, np.float64), LEAST)
    log_shown_T = None if behaviour is None else np.maximum(np.array(behaviour, float), LEAST)
    log_rho_T, f_T = shaped(log_bare_T, log_shown_T, settings)
    text, left_out = spell(ids), max(0, len(ids) - HEAD - TAIL)

    def kept(values: Any) -> list[Any]:
        whole = list(values)
        return whole[:HEAD] + whole[-TAIL:] if left_out else whole

    def rounded(values_T: np.ndarray) -> list[float]:
        return [float(f"{value:.3g}") for value in kept(values_T)]

    return Tokens(
        text=kept(text),
        log_rho=rounded(log_rho_T),
        f=rounded(f_T),
        log_shown=None if log_shown_T is None else rounded(log_shown_T),
        head=min(HEAD, len(ids)) if left_out else len(ids),
        left_out=left_out,
    )


def speller(tokenizer: Any | None) -> Callable[[list[int]], list[str]]:
    """From ids to the text of each, so that together they are the response with its special tokens.

    Where a character is spread over several tokens, the last of them has it. Without the tokenizer
    the ids stand for themselves.
    """
    if tokenizer is None:
        return lambda ids: [f"⟨{one}⟩" for one in ids]

    def spell(ids: list[int]) -> list[str]:
        pieces, open_ids, before = [], [], ""
        for one in ids:
            # A token is read behind the one before: some tokenizers drop the first one's space.
            open_ids.append(one)
            whole = tokenizer.decode(open_ids, skip_special_tokens=False)
            piece = whole[len(before) :] if whole.startswith(before) else whole
            if piece.endswith(_BROKEN):
                pieces.append("")
                continue
            pieces.append(piece)
            open_ids = [one]
            before = tokenizer.decode(open_ids, skip_special_tokens=False)
        if open_ids and pieces and pieces[-1] == "":
            pieces[-1] = _BROKEN
        return pieces

    return spell


def _key(row: dict[str, Any]) -> Key:
    return row["prompt_id"], row["sample_index"], row["origin"]
