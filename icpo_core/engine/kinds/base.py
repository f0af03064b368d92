"""What a rollout engine is: token ids in, token ids out, and proven to hold its weights.

Nothing is ever tokenised again. After every load the tensors that the engine holds must be those
of the file (`contents`). Weights come with a proof, too: sequences and the trainer's logprobs of
them; the engine's own of the same sequences must agree, but for rounding.

A kind of engine is a function `EngineSettings -> Engine`, of the name of its file in this folder,
or one's own: `rollout.engine.kind` names it. `server` is a class: one process has them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from icpo_core.config import EngineSection
from icpo_core.models import tokens
from icpo_core.store import tables
from icpo_core.workers.process import Say

UPPER = 0.9
"""The quantile of the tokens' gaps in probability that is watched beside their median."""
FLOOR = {"float32": (1e-5, 1e-4), "bfloat16": (0.02, 0.08), "float16": (0.005, 0.02)}
"""Median and upper quantile of the gap in probability that are rounding in any case, by dtype. In
float32 vLLM's CPU build is off by 1.5e-6 and 1.5e-5 on SmolLM2-135M, 6e-5 nats at most."""
EXACT = 3e-4
"""float32: the difference in the logprob of one token that is rounding in any case, nats; there it
tells one tensor that one step has missed, where half precision drowns it."""
NOISE = 4.0
"""So many times the usual gap is no rounding any more, where that is above the floor."""
STALE = "the engine does not hold the weights it was told to load"
SHOWN = 3
"""Tensors that a message names."""
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


class Gap(float):
    """The largest difference of the engine's logprobs to those of the trainer, nats; with it what
    rounding blurs less: the tokens' differences in probability."""

    def __new__(cls, ours: Sequence[float], theirs: Sequence[float], ids: Sequence[int]) -> Gap:
        nats = np.abs(np.array(ours, float) - np.array(theirs, float))
        self = super().__new__(cls, nats.max())
        gaps = np.abs(np.exp(np.array(ours, float)) - np.exp(np.array(theirs, float)))
        self.tokens = len(ids)
        self.median, self.upper = (float(np.quantile(gaps, q)) for q in (0.5, UPPER))
        self.worst = int(ids[int(gaps.argmax())])
        return self

    tokens: int
    median: float
    """Of |difference in probability|."""
    upper: float
    worst: int
    """The token that differs most in probability."""

    def facts(self) -> dict[str, float]:
        """For a manifest."""
        return {
            "probe_median": self.median,
            "probe_upper": self.upper,
            "probe_tokens": self.tokens,
        }


@dataclass(frozen=True)
class Compared:
    """What an engine holds beside a folder."""

    tensors: int
    """How many were found to be alike."""
    unread: list[str] = field(default_factory=list)
    """Those that are held in a layout that nobody can read here."""
    other: list[str] = field(default_factory=list)
    """Those that are not as in the folder."""

    @staticmethod
    def of(parts: list[dict[str, Any]]) -> Compared:
        """Of all workers of an engine, each of which holds a part."""
        return Compared(
            min(part["tensors"] for part in parts),
            sorted({name for part in parts for name in part["unread"]}),
            sorted({name for part in parts for name in part["other"]}),
        )


class Engine(Protocol):
    """Holds weights and samples from them."""

    eos_ids: list[int]
    """Ids that end a response."""
    policy_version: str
    """Digest of the weights that it holds; empty while that is not proven."""

    def load(self, model: Path, policy_version: str) -> float:
        """Hold the weights in `model` and forget all cached prefixes; wakes the engine. Seconds it
        took. Raises ValueError if the folder's weights are not those of `policy_version`."""

    def compare(self, model: Path) -> Compared | None:
        """The tensors it holds beside those in `model`; None: this engine cannot tell."""

    def prove(self, proof: Path, limit: float | None) -> float:
        """The `Gap` to the trainer's logprobs of the tokens in `proof`, nats. Raises ValueError if
        it is no rounding (limit: if it is larger)."""

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
        top_k: int = 0,
    ) -> list[Completion]:
        """Sample every request with its own seed; samples in the order given. top_k: only among so
        many of the likeliest tokens; 0: all. One's own engine may leave that argument out."""


def head_fault(settings: EngineSection, said: Sequence[str]) -> str:
    """What is wrong with the heads of an engine's workers (`head` of vLLM's), or nothing."""
    wanted = f"torch.{settings.dtype if settings.head_dtype == 'same' else settings.head_dtype}"
    if others := {*said} - {wanted}:
        return (
            f"the engine multiplies with its head in {others.pop()}, the trainer in {wanted}: "
            "set update.head_dtype to what both can"
        )
    return ""


def gap_to(engine: Engine, proof: Path) -> Gap:
    """Of the engine to the trainer, over all tokens in `proof`."""
    rows = tables.read("probe", proof).to_pylist()
    scores = engine.score([row["token_ids"] for row in rows])
    pairs = list(zip(rows, scores, strict=True))
    return Gap(
        [logprob for _, score in pairs for logprob in score],
        [logprob for row, _ in pairs for logprob in row["logprobs"]],
        [token for row, _ in pairs for token in row["token_ids"][1:]],
    )


def prove(
    engine: Engine, dtype: str, proof: Path, limit: float | None, usual: Gap | None = None
) -> Gap:
    """`Engine.prove` by `gap_to`. usual: what it was when the first weights were loaded."""
    gap, chosen = gap_to(engine, proof), limit is not None
    limits = [
        max(floor, NOISE * value)
        for floor, value in zip(
            FLOOR[dtype], (usual.median, usual.upper) if usual else (0.0, 0.0), strict=True
        )
    ]
    if limit is None and dtype == "float32":
        limit = max(EXACT, NOISE * (usual or 0.0))
    if limit is not None and not gap <= limit:
        what = (
            f"off by {gap:.3g} nats from the trainer's (limit {limit:g}, rollout.max_logprob_gap)"
        )
    elif not (chosen or (gap.median <= limits[0] and gap.upper <= limits[1])):
        known = f"usually {usual.median:.2g} and {usual.upper:.2g}, " if usual else ""
        what = (
            f"off from the trainer's by {gap.median:.2g} in probability in the median of "
            f"{gap.tokens} tokens and {gap.upper:.2g} in their {UPPER:.0%} quantile ({known}limits "
            f"{limits[0]:.2g} and {limits[1]:.2g}; largest {gap:.2g} nats), most at token "
            f"{gap.worst}"
        )
    else:
        return gap
    engine.policy_version = ""
    raise ValueError(f"{STALE}: its logprobs are {what}; no rollout was taken. {proof}")


def require_alike(engine: Engine, model: Path) -> Compared | None:
    """`Engine.compare`; ValueError if a tensor is not as in the folder."""
    found = engine.compare(model)
    if found is not None and found.other:
        engine.policy_version = ""
        raise ValueError(
            f"{STALE}: {len(found.other)} tensors are not as in the file "
            f"({', '.join(found.other[:SHOWN])}{', …' * (len(found.other) > SHOWN)}; "
            f"{found.tensors} are); no rollout was taken. {model}"
        )
    return found


def eos_token_ids(model: Path) -> list[int]:
    """Every id that ends a response of the model in a folder (`models.tokens`)."""
    return tokens.stop_ids(model)
