"""Section `loss`: the terms of the update's loss, and who teaches (`loss.distill`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from icpo_core.common.annealing import gamma
from icpo_core.common.keys import Since
from icpo_core.common.plugins import Pluggable
from icpo_core.config.sections import CountOrNone, NonNegative, Positive, Section


class DistillSection(Section):
    """In-context self-distillation: the policy is taught, token by token of its bare rollouts, by
    the same policy that is shown examples."""

    coefficient: Annotated[NonNegative, Since(0.0)] = 0.0
    """Weight of the term in the loss; 0: nobody teaches."""
    schedule: Annotated[Literal["constant", "linear", "cosine"], Since("constant")] = "constant"
    """How the weight changes: not, or from its value in the first iteration down to 0 after
    `horizon`."""
    horizon: Annotated[int | None, Field(ge=1), Since(None)] = None
    """Iterations until the weight is 0. Unset: the run's iterations, as they were at its start."""
    teacher: Annotated[Literal["policy", "start", "average"], Since("policy")] = "policy"
    """Whose weights: `policy`, those that the iteration starts from; `start`, the run's model;
    `average`, a slow average of those of all iterations before, from the start on."""
    decay: Annotated[float, Since(0.9), Field(gt=0.0, lt=1.0)] = 0.9
    """`average`: the share of itself that it keeps in each iteration."""
    context: Annotated[Literal["demonstrations", "solution"], Since("demonstrations")] = (
        "demonstrations"
    )
    """What the teacher is shown before the question: the demonstrations of its expert prompt, or
    the problem's own worked solution, as column `solution` of the problems has it."""
    top_k: Annotated[CountOrNone, Since(0)] = 0
    """Reverse KL over so many of the teacher's likeliest tokens at each place, and all others as
    one. 0: estimated on the sampled token."""


class LossSection(Section):
    """The loss of stage `update`; every term of the paper and its GRPO variants."""

    policy: Annotated[str, Pluggable("icpo_core.method.policy_losses")] = "ppo"
    """Loss of on-policy tokens. `ppo`: token ratios, clipped; `cispo`; `gspo`: sequence ratios (as
    in its paper with aggregation `seq-mean-token-mean` and clips of 3e-4 and 4e-4); or your own, as
    ./file.py:name (see docs/extending.md)."""
    clip_low: Annotated[float | None, Field(ge=0.0)] = 0.2
    """Ratio is clipped below at 1 - clip_low. `"none"`: never."""
    clip_high: Annotated[float | None, Field(ge=0.0)] = 0.2
    """Ratio is clipped above at 1 + clip_high (clip-higher of DAPO: 0.28). `"none"`: never."""
    dual_clip: Annotated[float | None, Field(gt=1.0)] = 3.0
    """`ppo`: bound c of the loss where the advantage is negative. `"none"`: off."""
    expert_context: Annotated[Literal["bare", "shown"], Since("bare")] = "bare"
    """The prompt that expert rollouts are learned under. `bare` (the paper): without the
    demonstrations; `shown`, for comparison: the one that they were sampled from, and then as
    on-policy rollouts."""
    expert: Literal["shaped", "unshaped"] = "shaped"
    """`shaped`: f(rho) = rho / (rho + lambda); `unshaped`: rho itself."""
    expert_lambda: Positive = 0.01
    """lambda of the shaping (paper: 0.01; released code and LUFFY: 0.1)."""
    expert_ratio: Literal["probability", "importance"] = "probability"
    """rho of an expert token: its probability under the bare prompt (behaviour probability 1), or
    that divided by the probability it was sampled with under the expert prompt."""
    expert_clip: Annotated[float | None, Field(gt=0.0)] = None
    """Upper bound of rho, beyond which there is no gradient; `"none"`: unclipped, as in the
    paper."""
    policy_coefficient: Annotated[NonNegative, Since(1.0)] = 1.0
    """Weight of the terms with advantages, of on-policy and expert tokens. 0: self-distillation
    alone."""
    distill: DistillSection = DistillSection()
    kl: Literal["off", "k1", "k2", "k3", "k3_unbiased"] = "k3"
    """Estimator of the KL divergence to the reference, on all response tokens. `k3_unbiased` has
    the value of k3 and the gradient of k2; k1's gradient has mean zero."""
    kl_coefficient: NonNegative = 0.001
    """Weight of the KL term; 0: the reference is not needed."""
    entropy_coefficient: NonNegative = 0.0
    """Weight of the entropy bonus, on all response tokens."""
    aggregation: Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "constant"] = (
        "token-mean"
    )
    """How token losses become one number, always over mini-batch, micro-batches and ranks."""
    constant_length: Annotated[int | None, Field(ge=1)] = None
    """`constant` aggregation: tokens a sequence counts for (Dr.GRPO). Unset: rollout.max_tokens."""
    correction: Literal["off", "truncate", "mask", "sequence-mask"] = "off"
    """Importance correction of on-policy tokens by w = trainer's / engine's probability under the
    weights that sampled: `truncate` min(w, cap), `mask` 0 unless floor <= w <= cap (IcePop: 0.5 and
    5), `sequence-mask` the w of the whole response, and 0 past the cap (TRL: 3)."""
    correction_cap: Annotated[float, Field(gt=1.0)] = 2.0
    """Cap of the correction."""
    correction_floor: Annotated[float | None, Field(gt=0.0, lt=1.0), Since(None)] = None
    """Least w of `mask` and `sequence-mask`. Unset: 1/cap for `mask`, none for `sequence-mask`."""

    @property
    def distills(self) -> bool:
        """Whether self-distillation is part of the loss, which needs a teacher's logprobs."""
        return self.distill.coefficient > 0

    def at(self, iteration: int) -> LossSection:
        """The loss of an iteration, counted from 1: the teacher's weight fades by its schedule."""
        distill = self.distill
        if distill.schedule == "constant":
            return self
        share = gamma(distill.schedule, iteration - 1, distill.horizon, 0.0)
        taught = distill.model_copy(update={"coefficient": distill.coefficient * share})
        return self.model_copy(update={"distill": taught})

    @property
    def teacher(self) -> str | None:
        """Whose weights teach, by `distill.teacher`; None: nobody does."""
        return self.distill.teacher if self.distills else None
