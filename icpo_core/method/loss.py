"""The ICPO loss: one pure function, of which GRPO and its variants are switches.

Shapes: B sequences, T response tokens (padded). Every token tensor is aligned with the response:
`logprobs_BT[b, t]` is the log probability, in nats and under the sampling temperature, of response
token t given the **bare** prompt and the tokens before it, also where the rollout was sampled with
demonstrations (IEF).

    loss = Σ_bt w_bt · (L_bt + β·KL_bt − η·H_bt)

    on-policy   L of `loss.policy` (`icpo_core.method.policy_losses`), by default PPO's
                −min(r·A, clip(r, 1−ε_low, 1+ε_high)·A), at most −c·A where A < 0, r = π_θ/π_old
    expert      L = −f(ρ)·A,  f(ρ) = ρ/(ρ+λ),  ρ = π_θ(τ_t | x, τ_<t), never clipped by default

The weights w hold the aggregation: their totals run over the whole mini-batch, so partial losses
add up, over micro-batches and ranks, to exactly the loss of the mini-batch. The released code
averages tokens a micro-batch, which weighs tokens by how rows happened to be split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from icpo_core.config import LossSection
from icpo_core.method import distillation
from icpo_core.method.kl import kl_divergence
from icpo_core.method.policy_losses import LossInputs, PolicyLoss, PolicyTerm, policy_loss
from icpo_core.method.policy_losses.base import LOG_BOUND, ratio, sequence_mean

HISTOGRAM_BINS = 10


@dataclass(frozen=True)
class Totals:
    """Of the whole mini-batch, all micro-batches and all ranks, also rows skipped in compute."""

    tokens: float
    """Response tokens."""
    sequences: float


@dataclass
class LossOutputs:
    """Partial loss and figures of the rows given."""

    loss: Tensor
    """Scalar. Sums over micro-batches and ranks to the mini-batch's loss. An engine that averages
    gradients over ranks must have it multiplied by their number."""
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Name to (sum, count), both additive over micro-batches and ranks; mean = sum / count."""
    maxima: dict[str, Tensor] = field(default_factory=dict)
    """Name to largest value, merged by maximum."""


def icpo_loss(
    inputs: LossInputs, settings: LossSection, totals: Totals, policy: PolicyLoss | None = None
) -> LossOutputs:
    """Partial loss of B sequences and detached metrics; no device synchronisation.

    `policy`: the loss of on-policy tokens, where it is loaded already (default: by
    `settings.policy`).
    Raises ValueError if a switch that is on needs a tensor that was not given, or if the policy
    loss cannot be loaded or is not one number a token.
    """
    inputs = _without_padding(inputs)
    mask_BT, logprobs_BT, advantages_BT = inputs.mask_BT, inputs.logprobs_BT, inputs.advantages()
    policy_BT = inputs.on_policy()
    expert_BT = mask_BT & ~policy_BT

    term = _policy_term(policy or policy_loss(settings.policy), inputs, settings)
    policy_loss_BT = term.loss_BT
    correction_BT = None
    if settings.correction != "off":
        correction_BT = _correction(inputs, policy_BT, settings, term.of_sequence)
        policy_loss_BT = policy_loss_BT * correction_BT
    log_rho_BT = _log_rho(inputs, logprobs_BT, expert_BT, settings)
    shaped_BT = _shape(log_rho_BT, settings)
    loss_BT = torch.where(expert_BT, -shaped_BT * advantages_BT, policy_loss_BT)

    kl_BT = None
    total_BT = loss_BT
    if settings.policy_coefficient != 1.0:
        total_BT = settings.policy_coefficient * loss_BT
    if settings.kl != "off" and inputs.reference_logprobs_BT is not None:
        kl_BT = kl_divergence(settings.kl, logprobs_BT, inputs.reference_logprobs_BT)
    if uses_kl(settings):
        if kl_BT is None:
            raise ValueError("loss.kl is on: reference_logprobs_BT must be given")
        total_BT = total_BT + settings.kl_coefficient * kl_BT
    entropy_BT = inputs.entropy_BT
    if settings.entropy_coefficient:
        if entropy_BT is None:
            raise ValueError("loss.entropy_coefficient is not 0: entropy_BT must be given")
        total_BT = total_BT - settings.entropy_coefficient * entropy_BT
    distill_BT = _distill(inputs, settings) if settings.distills else None
    if distill_BT is not None:
        total_BT = total_BT + settings.distill.coefficient * distill_BT

    weights_BT = token_weights(mask_BT, settings, totals).to(total_BT.dtype)
    outputs = LossOutputs((weights_BT * total_BT).sum())
    with torch.no_grad():
        figures = _Figures(outputs, policy_BT, expert_BT)
        figures.policy(loss_BT, term, inputs.log_ratio())
        figures.expert(loss_BT, logprobs_BT, shaped_BT)
        if kl_BT is not None:
            figures.of_all("kl", kl_BT)
        if entropy_BT is not None:
            figures.of_all("entropy", entropy_BT)
        if inputs.behaviour_logprobs_BT is not None:
            figures.steering(logprobs_BT, inputs.behaviour_logprobs_BT, _known(inputs))
        if correction_BT is not None:
            figures.of_policy("correction", correction_BT)
        if distill_BT is not None:
            figures.teaching(inputs, distill_BT)
    return outputs


def cross_entropy(logprobs_BT: Tensor, mask_BT: Tensor, tokens: float) -> LossOutputs:
    """Partial loss of a step of fine-tuning: −log π_θ of each token, by all tokens of the step.

    `tokens`: response tokens over all micro-batches and ranks.
    """
    surprise_BT = -logprobs_BT.masked_fill(~mask_BT.bool(), 0.0)
    outputs = LossOutputs(surprise_BT.sum() / tokens)
    seen_BT = surprise_BT.detach()
    outputs.metrics["tuning/loss"] = (seen_BT.sum(), mask_BT.sum())
    outputs.maxima["tuning/loss_max"] = seen_BT.amax()
    return outputs


def token_weights(mask_BT: Tensor, settings: LossSection, totals: Totals) -> Tensor:
    """Weight of every token in the loss, float64 or the mask's float dtype, 0 on padding.

    `token-mean` 1/tokens; `seq-mean-token-sum` 1/sequences; `seq-mean-token-mean`
    1/(sequences·own length); `constant` 1/(sequences·constant_length) (Dr.GRPO). Totals are those
    of the mini-batch: no further division by micro-batches, gradient accumulation or ranks.
    Raises ValueError for `constant` without `constant_length`.
    """
    weights_BT = mask_BT if mask_BT.is_floating_point() else mask_BT.to(torch.float64)
    if settings.aggregation == "token-mean":
        return weights_BT / totals.tokens
    if settings.aggregation == "seq-mean-token-sum":
        return weights_BT / totals.sequences
    if settings.aggregation == "seq-mean-token-mean":
        lengths_B1 = weights_BT.sum(1, keepdim=True).clamp_min(1.0)
        return weights_BT / (lengths_B1 * totals.sequences)
    if settings.constant_length is None:
        raise ValueError("loss.aggregation = constant needs loss.constant_length")
    return weights_BT / (totals.sequences * settings.constant_length)


def uses_kl(settings: LossSection) -> bool:
    """Whether the KL term is part of the loss, so that reference logprobs are needed."""
    return settings.kl != "off" and settings.kl_coefficient > 0


def uses_reference(settings: LossSection) -> bool:
    """Whether the base model is needed beside the policy."""
    return uses_kl(settings) or settings.teacher == "start"


def has_signal(advantages_B: Tensor, settings: LossSection) -> Tensor:
    """Rows that can move a weight. The others may be skipped in compute, never in `Totals`."""
    if uses_kl(settings) or settings.entropy_coefficient or settings.distills:
        return torch.ones_like(advantages_B, dtype=torch.bool)
    return advantages_B != 0


def _without_padding(inputs: LossInputs) -> LossInputs:
    """Zeros for what is never looked at, before any arithmetic: it may hold NaN or -inf, and 0·NaN
    is NaN."""
    mask_BT = inputs.mask_BT.bool()
    outside_BT = ~mask_BT

    def whole(values_BT: Tensor | None) -> Tensor | None:
        return None if values_BT is None else values_BT.masked_fill(outside_BT, 0.0)

    return replace(
        inputs,
        logprobs_BT=inputs.logprobs_BT.masked_fill(outside_BT, 0.0),
        old_logprobs_BT=inputs.old_logprobs_BT.detach().masked_fill(~inputs.on_policy(), 0.0),
        mask_BT=mask_BT,
        reference_logprobs_BT=whole(inputs.reference_logprobs_BT),
        behaviour_logprobs_BT=whole(inputs.behaviour_logprobs_BT),
        entropy_BT=whole(inputs.entropy_BT),
        teacher_logprobs_BT=whole(inputs.teacher_logprobs_BT),
    )


def _policy_term(policy: PolicyLoss, inputs: LossInputs, settings: LossSection) -> PolicyTerm:
    found = policy(inputs, settings)
    if isinstance(found, PolicyTerm):
        term = found
    else:
        term = PolicyTerm(found, ratio(inputs.log_ratio().detach()))
    if not isinstance(term.loss_BT, Tensor) or term.loss_BT.shape != inputs.mask_BT.shape:
        shape = tuple(getattr(term.loss_BT, "shape", ()))
        raise ValueError(
            f"loss.policy = {settings.policy} returned shape {shape} for tokens of shape "
            f"{tuple(inputs.mask_BT.shape)}: it must return the loss of each token"
        )
    return term


def _known(inputs: LossInputs) -> Tensor:
    """(B, 1): rows whose behaviour logprobs are known."""
    if inputs.behaviour_known_B is None:
        return torch.ones_like(inputs.expert_B, dtype=torch.bool)[:, None]
    return inputs.behaviour_known_B.bool()[:, None]


def _taught(inputs: LossInputs) -> Tensor:
    """(B, T): on-policy tokens that the teacher has spoken on."""
    assert inputs.taught_B is not None
    return inputs.on_policy() & inputs.taught_B.bool()[:, None]


def _distill(inputs: LossInputs, settings: LossSection) -> Tensor:
    """Reverse KL to the teacher on taught tokens, 0 elsewhere."""
    if inputs.teacher_logprobs_BT is None or inputs.taught_B is None:
        raise ValueError("loss.distill is on: teacher_logprobs_BT and taught_B must be given")
    if not settings.distill.top_k:
        divergence_BT = distillation.on_sampled(inputs.logprobs_BT, inputs.teacher_logprobs_BT)
        return divergence_BT.masked_fill(~_taught(inputs), 0.0)
    if inputs.top_logprobs_BTK is None or inputs.teacher_top_BTK is None:
        raise ValueError(
            "loss.distill.top_k is on: top_logprobs_BTK and teacher_top_BTK must be given"
        )
    outside_BT1 = ~_taught(inputs)[:, :, None]
    divergence_BT = distillation.on_top(
        inputs.top_logprobs_BTK.masked_fill(outside_BT1, -LOG_BOUND),
        inputs.teacher_top_BTK.masked_fill(outside_BT1, -LOG_BOUND),
    )
    return divergence_BT.masked_fill(~_taught(inputs), 0.0)


def _correction(
    inputs: LossInputs, policy_BT: Tensor, settings: LossSection, of_sequence: bool
) -> Tensor:
    """Weight w = π_old/π_engine of on-policy tokens, without gradient; 1 elsewhere.

    The sample came from the engine, whose kernels and precision give slightly other probabilities
    than the trainer's. `truncate`: min(w, cap); `mask`: 0 unless floor <= w <= cap, by default
    1/cap (other bounds: IcePop, arXiv 2510.18855). `sequence-mask`: the product of w over the
    response, 0 past cap (TRL's default). A masked token keeps its place in the normaliser. Where
    the ratio is of sequences (GSPO), `truncate` and `mask` take the geometric mean.
    """
    if inputs.behaviour_logprobs_BT is None:
        raise ValueError("loss.correction is on: behaviour_logprobs_BT must be given")
    gap_BT = (inputs.old_logprobs_BT - inputs.behaviour_logprobs_BT).detach()
    gap_BT = gap_BT.masked_fill(~(policy_BT & _known(inputs)), 0.0)
    whole = settings.correction == "sequence-mask"
    if whole:
        gap_BT = gap_BT.sum(1, keepdim=True) * policy_BT
    elif of_sequence:
        gap_BT = sequence_mean(gap_BT, policy_BT)
    bound = math.log(settings.correction_cap)
    if settings.correction == "truncate":
        return gap_BT.clamp_max(bound).exp()
    floor = -math.inf if whole else -bound
    if settings.correction_floor is not None:
        floor = math.log(settings.correction_floor)
    inside_BT = (gap_BT >= floor) & (gap_BT <= bound)
    return gap_BT.masked_fill(~inside_BT, 0.0).exp() * inside_BT


def _log_rho(
    inputs: LossInputs, logprobs_BT: Tensor, expert_BT: Tensor, settings: LossSection
) -> Tensor:
    """log ρ of expert tokens, 0 elsewhere.

    `importance` divides by the probability under the expert prompt; rows of unknown behaviour keep
    behaviour probability 1.
    """
    log_rho_BT = logprobs_BT
    if settings.expert_ratio == "importance":
        if inputs.behaviour_logprobs_BT is None:
            raise ValueError("loss.expert_ratio = importance needs behaviour_logprobs_BT")
        behaviour_BT = inputs.behaviour_logprobs_BT.detach()
        behaviour_BT = behaviour_BT.masked_fill(~(expert_BT & _known(inputs)), 0.0)
        log_rho_BT = logprobs_BT - behaviour_BT
    log_rho_BT = log_rho_BT.masked_fill(~expert_BT, 0.0).clamp_max(LOG_BOUND)
    if settings.expert_clip is not None:
        log_rho_BT = log_rho_BT.clamp_max(math.log(settings.expert_clip))
    return log_rho_BT


def _shape(log_rho_BT: Tensor, settings: LossSection) -> Tensor:
    """f(ρ) = ρ/(ρ+λ), or ρ itself.

    ρ/(ρ+λ) is the logistic function of log ρ − log λ; so ∇f = f(1−f)·∇log ρ = λρ/(ρ+λ)²·∇log ρ,
    largest at ρ = λ, and nothing under- or overflows.
    """
    if settings.expert == "unshaped":
        return log_rho_BT.exp()
    return torch.sigmoid(log_rho_BT - math.log(settings.expert_lambda))


class _Figures:
    """Metrics of one call: sums and counts as scalars on the device."""

    def __init__(self, outputs: LossOutputs, policy_BT: Tensor, expert_BT: Tensor) -> None:
        self.outputs = outputs
        self.policy_BT, self.policy_count = policy_BT, policy_BT.sum()
        self.expert_BT, self.expert_count = expert_BT, expert_BT.sum()

    def of_policy(self, name: str, values_BT: Tensor) -> None:
        total = values_BT.masked_fill(~self.policy_BT, 0).sum()
        self.outputs.metrics[f"policy/{name}"] = (total, self.policy_count)

    def of_expert(self, name: str, values_BT: Tensor) -> None:
        total = values_BT.masked_fill(~self.expert_BT, 0).sum()
        self.outputs.metrics[f"expert/{name}"] = (total, self.expert_count)

    def of_all(self, name: str, values_BT: Tensor) -> None:
        """Values must be 0 on padding."""
        self.outputs.metrics[name] = (values_BT.sum(), self.policy_count + self.expert_count)

    def policy(self, loss_BT: Tensor, term: PolicyTerm, log_ratio_BT: Tensor) -> None:
        self.of_policy("loss", loss_BT)
        self.of_policy("ratio", term.ratio_BT)
        for name, values_BT in term.figures.items():
            self.of_policy(name, values_BT)
        self.of_policy("approx_kl", -log_ratio_BT)
        ratio_BT = term.ratio_BT.masked_fill(~self.policy_BT, 0.0)
        self.outputs.maxima["policy/ratio_max"] = ratio_BT.amax()

    def expert(self, loss_BT: Tensor, logprobs_BT: Tensor, shaped_BT: Tensor) -> None:
        self.of_expert("loss", loss_BT)
        self.of_expert("rho", logprobs_BT.exp())
        self.of_expert("f", shaped_BT)
        bins_BT = (shaped_BT * HISTOGRAM_BINS).clamp(0, HISTOGRAM_BINS - 1).long()
        # One bin more than the histogram has, for tokens of no expert.
        bins_BT = bins_BT.masked_fill(~self.expert_BT, HISTOGRAM_BINS)
        counts = shaped_BT.new_zeros(HISTOGRAM_BINS + 1)
        counts.scatter_add_(0, bins_BT.flatten(), counts.new_ones(()).expand(bins_BT.numel()))
        for index, total in enumerate(counts[:HISTOGRAM_BINS].unbind()):
            self.outputs.metrics[f"expert/f_bin_{index}"] = (total, self.expert_count)

    def teaching(self, inputs: LossInputs, distill_BT: Tensor) -> None:
        """The divergence, and how much likelier the teacher makes what was sampled."""
        assert inputs.teacher_logprobs_BT is not None
        taught_BT = _taught(inputs)
        count = taught_BT.sum()
        gain_BT = (inputs.teacher_logprobs_BT - inputs.logprobs_BT).masked_fill(~taught_BT, 0.0)
        self.outputs.metrics["distill/kl"] = (distill_BT.sum(), count)
        self.outputs.metrics["distill/gain"] = (gain_BT.sum(), count)
        self.outputs.metrics["distill/share"] = (count, self.policy_count)

    def steering(self, logprobs_BT: Tensor, behaviour_BT: Tensor, known_B1: Tensor) -> None:
        """How much less likely the bare prompt makes what the demonstrations led to."""
        known_BT = self.expert_BT & known_B1
        count = known_BT.sum()
        log_ratio_BT = (logprobs_BT - behaviour_BT).masked_fill(~known_BT, 0.0)
        ratio_BT = log_ratio_BT.clamp_max(LOG_BOUND).exp().masked_fill(~known_BT, 0.0)
        self.outputs.metrics["expert/log_ratio"] = (log_ratio_BT.sum(), count)
        self.outputs.metrics["expert/ratio"] = (ratio_BT.sum(), count)
        self.outputs.maxima["expert/ratio_max"] = ratio_BT.amax()
