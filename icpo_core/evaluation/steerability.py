"""Is this model steerable? The precondition of the method, measured before hours are spent.

ICPO learns from what worked examples in the prompt bring out of the model. That asks for three
things: with examples it solves what it does not solve without, its expert rollouts pass the
verifier, and the bare prompt gives them a probability that the shaped loss can still raise. The
last one is read off the rarest step: of the tokens that the expert prompt gives at least
`SURE`, the one that the bare prompt gives least. At probability p the loss f(p) = p / (p + lambda)
has the share 4 lambda p / (p + lambda)^2 of its largest gradient (`icpo_core.method.loss`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from icpo_core.common import files
from icpo_core.evaluation.benchmarks import Benchmark
from icpo_core.evaluation.comparison import Comparison, accuracies, compare
from icpo_core.evaluation.evaluator import VERSION, Evaluation, Evaluator
from icpo_core.evaluation.protocol import Protocol
from icpo_core.evaluation.target import Target
from icpo_core.method.diagnostics import spread
from icpo_core.store import tables
from icpo_core.workers.jobs import Score

NAME = "probe"
"""Of the protocol of its evaluations."""
SHOTS = (0, 1, 2, 4)
SCORED = 256
"""Accepted expert rollouts whose probability is looked at."""
SURE = 0.1
CEILING = 0.95
"""From this zero-shot accuracy on there is little left to learn."""
NO_GAIN = 0.02
"""A gain that is surely smaller is none."""
CHANCE = 0.05
CUT = 0.5
"""Where more than this share of the answers is cut, no gain says little."""
REACHED = 1e-3
"""Least share of the largest gradient at the rarest step. The small model that ships with us learns
at 0.1 (probability 2.5e-4), and not at 4e-5 (probability 1e-7)."""


class Advice(StrEnum):
    """What comes of a probe."""

    STEER = "steer"
    ALREADY_SOLVED = "already_solved"  # without examples it is right nearly always
    NO_GAIN = "no_gain"  # examples do not make it better
    UNDECIDED = "undecided"  # the gain may be chance, or nothing was right at all
    OUT_OF_REACH = "out_of_reach"  # expert rollouts are too improbable under the bare prompt


@dataclass(frozen=True)
class Reach:
    """How probable accepted expert rollouts are under the bare prompt."""

    rollouts: int
    token: float
    """Geometric mean of a token's probability."""
    whole: float
    """Median of the probability of a whole response."""
    rarest: float
    """Median over rollouts of the rarest step."""
    gradient: float
    """Share of the largest gradient of the shaped loss at `rarest`."""


@dataclass(frozen=True)
class Shot:
    """The model with k worked examples."""

    k: int
    shown: float
    """Examples that found room, on average."""
    evaluation: Evaluation
    diversity: float | None
    """Mean normalised edit distance between responses to one problem."""
    against_bare: Comparison | None
    """From k = 0 to this k."""
    gained: float | None
    """Share of what is wrong without examples that is right with them."""
    lost: float | None
    """Share of what is right without examples that is wrong with them."""


@dataclass(frozen=True)
class Probe:
    """What was found, and what to do."""

    target: str
    shots: list[Shot]
    best: int
    """The k with the highest accuracy among those with examples."""
    reach: Reach | None
    """Of accepted rollouts at `best`; None if there are none."""
    advice: Advice
    sentence: str

    def as_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "advice": self.advice,
            "sentence": self.sentence,
            "best": self.best,
            "reach": vars(self.reach) if self.reach else None,
            "shots": [
                {
                    "k": one.k,
                    "shown": one.shown,
                    "accuracy": one.evaluation.figures["accuracy"],
                    "interval": one.evaluation.figures["interval"],
                    "format": one.evaluation.figures["format"],
                    "truncated": one.evaluation.figures["truncated"],
                    "mean_tokens": one.evaluation.figures["mean_tokens"],
                    "diversity": one.diversity,
                    "gained": one.gained,
                    "lost": one.lost,
                    "against_bare": one.against_bare.as_json() if one.against_bare else None,
                    "folder": str(one.evaluation.folder),
                }
                for one in self.shots
            ],
        }


def probe(
    evaluator: Evaluator,
    target: Target,
    benchmark: Benchmark,
    shots: Sequence[int] = SHOTS,
    expert_lambda: float = 0.01,
) -> Probe:
    """Evaluate the target with 0 and more examples and say whether to steer.

    The evaluator's protocol names the demonstrations and samples as training does. Samples are
    stored and found again like those of any evaluation.
    """
    base = evaluator.protocol
    if base.prompting.demonstrations is None:
        raise ValueError("a probe needs worked examples: name them with --demonstrations FILE")
    found: list[Shot] = []
    for k in sorted({0, *shots}):
        evaluator.follow(_with_shots(base, k))
        found.append(_shot(evaluator, target, benchmark, k, found[0] if found else None))
    steered = found[1:]
    best = max(steered, key=lambda one: (one.evaluation.figures["accuracy"], -one.k))
    reach = _reach(evaluator, target, benchmark, base, best, expert_lambda)
    evaluator.follow(base)
    advice, sentence = judge(found[0], best, reach, expert_lambda)
    return Probe(target.label, found, best.k, reach, advice, sentence)


def judge(bare: Shot, best: Shot, reach: Reach | None, expert_lambda: float) -> tuple[Advice, str]:
    """The advice and the sentence that gives it."""
    change = best.against_bare
    assert change is not None
    before, after = bare.evaluation.figures["accuracy"], best.evaluation.figures["accuracy"]
    moved = (
        f"with k = {best.k} accuracy goes from {before:.1%} to {after:.1%} on {change.problems} "
        f"problems (p = {change.p_value:.2g})"
    )
    if before >= CEILING:
        return Advice.ALREADY_SOLVED, (
            f"Do not steer: without examples {before:.1%} are right already; harder problems leave "
            "more to learn."
        )
    cut = max(one.evaluation.figures["truncated"] or 0.0 for one in (bare, best))
    if before == after == 0:
        return Advice.UNDECIDED, (
            f"Undecided: no answer is right, with examples or without, and up to {cut:.0%} of them "
            "were cut; raise sampling.max_tokens where many are, read some (icpo show), and try "
            "another instruction, more examples, or easier problems."
        )
    low, high = change.interval
    if cut > CUT and low <= NO_GAIN:
        return Advice.UNDECIDED, (
            f"Undecided: {moved}, and {cut:.0%} of the answers were cut before their end; raise "
            "sampling.max_tokens, or ask for short ones (prompting.instruction)."
        )
    if high < NO_GAIN or (change.p_value < CHANCE and change.difference < 0):
        return Advice.NO_GAIN, (
            f"Do not steer: {moved}, so examples add nothing that could be learned; try other "
            "demonstrations, more of them, or train on worked solutions first."
        )
    if change.p_value >= CHANCE or low <= 0:
        return Advice.UNDECIDED, (
            f"Undecided: {moved}, which may be chance; probe more problems (--limit)."
        )
    assert reach is not None, "a gain in accuracy without an accepted rollout"
    reached = (
        f"the rarest step of an accepted rollout has probability {reach.rarest:.1g} under the bare "
        f"prompt, where the shaped loss (lambda = {expert_lambda:g}) has {reach.gradient:.2g} of "
        "its largest gradient"
    )
    if reach.gradient < REACHED:
        return Advice.OUT_OF_REACH, (
            f"Do not steer yet: {moved}, but {reached}; warm the model up on some worked solutions "
            "under the bare prompt, or lower loss.expert_lambda."
        )
    return Advice.STEER, (
        f"Steer: {moved}, {best.gained:.0%} of what is wrong without them turns right; {reached}."
    )


def flips(bare: pa.Table, steered: pa.Table) -> tuple[float | None, float | None]:
    """Share of wrong that turns right from `bare` to `steered`, and of right that turns wrong.

    Every sample of a problem is paired with every one of the other table: with accuracies a and b
    of a problem, sum (1-a) b / sum (1-a) and sum a (1-b) / sum a. None where nothing is wrong or
    right to begin with.
    """
    sums = np.zeros(4)
    before, after = accuracies(bare), accuracies(steered)
    for name in before.keys() & after.keys():
        a, b = before[name], after[name]
        sums += ((1 - a) * b, 1 - a, a * (1 - b), a)
    gained, wrong, lost, right = (float(one) for one in sums)
    return gained / wrong if wrong else None, lost / right if right else None


def gradient_share(p: float, expert_lambda: float) -> float:
    """Gradient of f(p) = p / (p + lambda) by log p, as a share of its largest, at p = lambda."""
    return 4.0 * expert_lambda * p / (p + expert_lambda) ** 2


def _with_shots(protocol: Protocol, k: int) -> Protocol:
    prompting = protocol.prompting.model_copy(update={"shots": k})
    return protocol.model_copy(update={"prompting": prompting})


def _shot(
    evaluator: Evaluator, target: Target, benchmark: Benchmark, k: int, bare: Shot | None
) -> Shot:
    done = evaluator.evaluate(target, benchmark)
    samples = done.read("prompt_id", "sample_index", "response_ids")
    _, groups = np.unique(samples["prompt_id"].to_pylist(), return_inverse=True)
    order = np.argsort(groups, kind="stable")
    against = gained = lost = None
    if bare is not None:
        before = bare.evaluation.rewards
        against = compare(before, done.rewards)
        gained, lost = flips(before, done.rewards)
    return Shot(
        k=k,
        shown=_shown(evaluator.questions(target, benchmark)) if k else 0.0,
        evaluation=done,
        diversity=spread(samples["response_ids"].take(order), groups[order]),
        against_bare=against,
        gained=gained,
        lost=lost,
    )


def _shown(questions: pa.Table) -> float:
    return float(np.mean([len(ids) for ids in questions["demo_ids"].to_pylist()]))


def _reach(
    evaluator: Evaluator,
    target: Target,
    benchmark: Benchmark,
    base: Protocol,
    best: Shot,
    expert_lambda: float,
) -> Reach | None:
    """Probabilities of accepted rollouts of the best shot; kept beside them once they are known."""
    folder = best.evaluation.folder
    evaluator.follow(_with_shots(base, 0))
    bare_work = evaluator.work(target, benchmark)
    known = files.canonical_digest([VERSION, best.evaluation.manifest.fingerprint, bare_work.asked])
    path = folder / f"reach-{known[:12]}.json"
    if not path.is_file():
        rows = best.evaluation.read("prompt_id", "sample_index", "reward", "response_ids")
        accepted = [row for row in rows.to_pylist() if row["reward"] >= 1.0 and row["response_ids"]]
        accepted = accepted[:: max(1, -(-len(accepted) // SCORED))]
        if not accepted:
            return None
        bare = _response_logprobs(evaluator, target, benchmark, folder, accepted)
        evaluator.follow(_with_shots(base, best.k))
        steered = _response_logprobs(evaluator, target, benchmark, folder, accepted)
        files.write_json(path, _figures(bare, steered))
    figures = files.read_json(path)
    return Reach(**figures, gradient=gradient_share(figures["rarest"], expert_lambda))


def _figures(bare: list[np.ndarray], steered: list[np.ndarray]) -> dict[str, float | int]:
    """Fields of `Reach`, from the logprobs of each rollout's tokens behind the two prompts."""
    rarest = []
    for low, high in zip(bare, steered, strict=True):
        sure = high >= np.log(SURE)
        rarest.append(float(np.exp(low[sure].min())) if sure.any() else 1.0)
    return {
        "rollouts": len(bare),
        "token": float(np.exp(np.concatenate(bare).mean())),
        "whole": float(np.median([np.exp(one.sum()) for one in bare])),
        "rarest": float(np.median(rarest)),
    }


def _response_logprobs(
    evaluator: Evaluator,
    target: Target,
    benchmark: Benchmark,
    folder: Path,
    rows: list[dict[str, Any]],
) -> list[np.ndarray]:
    """Logprobs of each response's tokens behind the prompts of the evaluator's protocol, float64,
    natural logarithm."""
    asked = evaluator.questions(target, benchmark)
    prompts = dict(
        zip(asked["prompt_id"].to_pylist(), asked["prompt_ids"].to_pylist(), strict=True)
    )
    lengths = [len(prompts[row["prompt_id"]]) for row in rows]
    sequences = [
        {"token_ids": prompts[row["prompt_id"]] + row["response_ids"], "logprobs": []}
        for row in rows
    ]
    ask, answer = folder / "asked.parquet", folder / "scored.parquet"
    tables.write("probe", tables.table("probe", sequences), ask)
    job = Score(sequences=ask, policy_version=target.version, out=answer)
    evaluator.engines(target).call(job)
    scores = tables.read("probe", answer)["logprobs"].to_pylist()
    for path in (ask, answer):
        path.unlink()
    # The first token of a sequence has no logprob, so the response's begin one earlier.
    return [np.array(one[length - 1 :]) for one, length in zip(scores, lengths, strict=True)]
