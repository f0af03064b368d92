"""Combinations of switches that run and are no published method, with what would make them one.

A combination may still be what you want to try: these are notes of `icpo doctor` and of a run's
start, never errors. One's own functions are nobody's to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from icpo_core.config import Config

GSPO_CLIP = 1e-2
"""Ratios of whole sequences lie so near 1 that a clip above this never bites."""

OURS = ("icpo-lean", "icpo-taught")
"""Presets that say themselves that they are nobody's."""

Test = Callable[[Config], bool]


@dataclass(frozen=True)
class Rule:
    """A use of switches, and what its publication has beside it."""

    use: str
    """In words of the configuration."""
    when: Test
    wants: tuple[tuple[str, Test], ...]
    """Changes as for `-o`, each with whether it is already so."""
    why: str
    """What was published instead, and where."""


def _in_context(config: Config) -> bool:
    return config.rollout.expert > 0 and config.rollout.expert_source == "in_context"


def _traces(config: Config) -> bool:
    return config.rollout.expert > 0 and config.rollout.expert_source == "traces"


def _bonus(config: Config) -> bool:
    return config.select.bonus != "off"


NO_EXPERTS = ("rollout.expert=0", lambda c: c.rollout.expert == 0)
NO_BONUS = ("select.bonus=off", lambda c: not _bonus(c))

RULES: tuple[Rule, ...] = (
    Rule(
        "loss.policy = gspo",
        lambda c: c.loss.policy == "gspo",
        (
            (
                "loss.aggregation=seq-mean-token-mean",
                lambda c: c.loss.aggregation == "seq-mean-token-mean",
            ),
            ("loss.clip_low=3e-4", lambda c: (c.loss.clip_low or 1.0) <= GSPO_CLIP),
            ("loss.clip_high=4e-4", lambda c: (c.loss.clip_high or 1.0) <= GSPO_CLIP),
            (
                "loss.correction=sequence-mask",
                lambda c: c.loss.correction in ("off", "sequence-mask"),
            ),
            NO_EXPERTS,
        ),
        "ratio, clip, weight and mean are of sequences (arXiv 2507.18071)",
    ),
    Rule(
        "loss.policy = cispo",
        lambda c: c.loss.policy == "cispo",
        (
            ("loss.clip_low=none", lambda c: c.loss.clip_low is None or c.loss.clip_low >= 1.0),
            (
                "loss.clip_high=4",
                lambda c: c.loss.clip_high is not None and c.loss.clip_high >= 1.0,
            ),
            NO_EXPERTS,
        ),
        "it bounds ratios above only (arXiv 2506.13585)",
    ),
    Rule(
        "rollout.expert with this select.advantage",
        lambda c: _in_context(c) and c.select.advantage in ("group-mean", "rloo", "maxrl"),
        (("select.advantage=group", lambda _: False),),
        "ICPO divides by the deviation of the mixed group",
    ),
    Rule(
        "select.advantage = group-mean",
        lambda c: not c.rollout.expert and c.select.advantage == "group-mean",
        (
            (
                "loss.aggregation=constant",
                lambda c: c.loss.aggregation in ("constant", "seq-mean-token-sum"),
            ),
        ),
        "Dr. GRPO divides neither by the deviation nor by a length (arXiv 2503.20783)",
    ),
    Rule(
        "loss.aggregation = constant",
        lambda c: not _in_context(c) and c.loss.aggregation == "constant",
        (("select.advantage=group-mean", lambda c: c.select.advantage != "group"),),
        "Dr. GRPO divides neither by the deviation nor by a length (arXiv 2503.20783)",
    ),
    Rule(
        "select.bonus_on = advantage",
        lambda c: _bonus(c) and c.select.bonus_on == "advantage" and c.preset not in OURS,
        (("select.bonus_on=reward", lambda _: False),),
        "the paper's ICPO† adds the bonus to the reward (docs/method.md says what that does)",
    ),
    Rule(
        "select.bonus without expert rollouts",
        lambda c: _bonus(c) and not c.rollout.expert,
        (NO_BONUS,),
        "there is nobody to give it to",
    ),
    Rule(
        "rollout.expert_source = traces",
        _traces,
        (("select.errs=off", lambda c: c.select.errs == "off"), NO_BONUS),
        "LUFFY takes every trace, by its plain reward (arXiv 2504.14945)",
    ),
    Rule(
        "loss.correction with update.old_logprobs = engine",
        lambda c: c.update.old_logprobs == "engine",
        (("loss.correction=off", lambda c: c.loss.correction == "off"),),
        "ratios to the engine's probabilities have the correction in them",
    ),
)


def notes(config: Config) -> Iterator[str]:
    """A line for each rule that a configuration departs from."""
    for rule in RULES:
        changes = [change for change, so in rule.wants if not so(config)]
        if changes and rule.when(config):
            yield (
                f"{rule.use} with these settings is no published method: add "
                f"{' '.join(f'-o {change}' for change in changes)} ({rule.why})"
            )
