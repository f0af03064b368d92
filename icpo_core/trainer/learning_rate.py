"""The learning rate of an iteration: warm-up, then constant or down to 0 at the horizon."""

from __future__ import annotations

import math

from icpo_core.config import UpdateSection


def learning_rate(settings: UpdateSection, iteration: int) -> float:
    """The rate of AdamW in an iteration, counted from 1.

    Over the w iterations of the warm-up it rises linearly and reaches its peak in iteration w. From
    the one after it, s = (t − 1 − w)/(T − w) of the way down is done: `linear` 1 − s, `cosine`
    (1 + cos πs)/2 of the peak, as in transformers' schedules. 0 past the horizon T.
    Raises ValueError if a schedule has no horizon.
    """
    warmup, horizon = settings.warmup_iterations, settings.horizon
    if iteration <= warmup:
        return settings.learning_rate * (iteration / warmup)
    if settings.schedule == "constant":
        return settings.learning_rate
    if horizon is None:
        raise ValueError(f"update.schedule = {settings.schedule} needs update.horizon")
    if iteration > horizon:
        return 0.0
    done = (iteration - 1 - warmup) / (horizon - warmup)
    if settings.schedule == "linear":
        return settings.learning_rate * (1.0 - done)
    assert settings.schedule == "cosine", settings.schedule
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
