"""What a rollout engine is: token ids in, token ids out, and proven to hold its weights.

Nothing is ever tokenised again. Weights come with a proof: sequences and the trainer's logprobs of
them; after every load the engine's own logprobs of the same sequences must agree.

A kind of engine is a function `EngineSettings -> Engine`, of the name of its file in this folder,
or one's own: `rollout.engine.kind` names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from icpo_core.models import tokens
from icpo_core.store import tables
from icpo_core.workers.process import Say

DEFAULT_GAP = {"float32": 3e-4, "bfloat16": 0.5, "float16": 0.5}
"""Largest difference to the trainer in the logprob of one token of the proof, nats, by dtype."""
PROGRESS_SECONDS = 1.0
"""Between two words on how far a job is."""


@dataclass(frozen=True)
class Request:
    """One sequence to sample."""

    prompt_ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Completion:
    """One sampled sequence. `response_ids` ends with EOS if and only if it finished by itself."""

    response_ids: list[int]
    logprobs: list[float]
    """Natural logarithm, temperature-scaled, one a token of `response_ids`."""
    finish_reason: str
    """`stop` or `length`; `error` where the engine fails at this request alone: no tokens."""


class Engine(Protocol):
    """Holds weights and samples from them."""

    eos_ids: list[int]
    """Ids that end a response."""
    policy_version: str
    """Digest of the weights that it holds; empty while that is not proven."""

    def load(self, model: Path, policy_version: str) -> float:
        """Hold the weights in `model` and forget all cached prefixes; wakes the engine. Seconds it
        took. Raises ValueError if the folder's weights are not those of `policy_version`."""

    def prove(self, proof: Path, limit: float | None) -> float:
        """Largest gap to the trainer's logprobs of the tokens in `proof`, nats. Raises ValueError
        past the limit (None: the usual one of the dtype)."""

    def sleep(self) -> None:
        """Give the device's memory back until the next `load`."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Logprob of each token given those before it, at temperature 1; none for the first."""

    def sample(
        self,
        requests: Sequence[Request],
        temperature: float,
        max_tokens: int,
        top_p: float = 1.0,
        on_progress: Say | None = None,
    ) -> list[Completion]:
        """Sample every request with its own seed; samples in the order given."""


def largest_gap(engine: Engine, proof: Path) -> float:
    """Largest difference of the engine's logprobs to those of the trainer in `proof`, nats."""
    rows = tables.read("probe", proof).to_pylist()
    scores = engine.score([row["token_ids"] for row in rows])
    return max(
        abs(ours - float(theirs))
        for row, score in zip(rows, scores, strict=True)
        for ours, theirs in zip(score, row["logprobs"], strict=True)
    )


def prove(engine: Engine, dtype: str, proof: Path, limit: float | None) -> float:
    """`Engine.prove` by `largest_gap`."""
    limit = limit or DEFAULT_GAP[dtype]
    gap = largest_gap(engine, proof)
    if not gap <= limit:
        engine.policy_version = ""
        raise ValueError(
            f"the engine does not hold the weights it was told to load: its logprobs are off "
            f"by {gap:.3g} nats from the trainer's (limit {limit:g}, "
            f"rollout.max_logprob_gap); no rollout was taken. {proof}"
        )
    return gap


def eos_token_ids(model: Path) -> list[int]:
    """Every id that ends a response of the model in a folder (`models.tokens`)."""
    return tokens.stop_ids(model)
