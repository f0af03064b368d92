"""How a weight fades over a run: the annealed expert bonus (RS), the share of steered groups, the
teacher of self-distillation.

RS is R_shaped = R + α·γ(t) for accepted correct expert rollouts (paper, section on annealed
expert-bonus reward shaping). The authors' released code never advances t and so stays at γ = 1
(`constant`).
"""

from __future__ import annotations

import math
from typing import Literal

Kind = Literal["off", "linear", "cosine", "exponential", "constant"]


def gamma(kind: Kind, t: int, horizon: int | None, decay: float) -> float:
    """Annealing factor in [0, 1] after `t` completed iterations (t = iteration − 1).

    `linear` 1 − t/T, `cosine` (1 + cos(πt/T))/2, `exponential` exp(−decay·t/T); all are 0 past T,
    but for `constant`, which is 1.
    Raises ValueError if t is negative, or no horizon T is given while the bonus is on.
    """
    if t < 0:
        raise ValueError(f"t counts completed iterations and is never negative (got {t})")
    if kind == "off":
        return 0.0
    if kind == "constant":
        return 1.0
    if horizon is None or horizon < 1:
        raise ValueError("select.bonus needs select.horizon >= 1, the iterations of the annealing")
    if t > horizon:
        return 0.0
    share = t / horizon
    if kind == "linear":
        return 1.0 - share
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * share))
    assert kind == "exponential", kind
    return math.exp(-decay * share)
