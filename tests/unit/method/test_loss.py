"""The loss against the released code's numbers, a slow reference, and the traps it can meet."""

import json
import math
import tomllib
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SHARED
from torch import Tensor

from icpo_core.config import PRESETS, Config, DistillSection, LossSection, build
from icpo_core.method.kl import kl_divergence
from icpo_core.method.loss import LossOutputs, Totals, has_signal, icpo_loss, token_weights
from icpo_core.method.policy_losses import LossInputs
from icpo_core.method.policy_losses.base import bounds

GOLDEN = SHARED / "golden" / "released_code.json"
CASES = json.loads(GOLDEN.read_text())["loss_cases"] if GOLDEN.is_file() else []
needs_golden = pytest.mark.skipif(
    not CASES, reason="the released code's numbers are not beside the repository"
)
# Their names for the estimators of KL.
KL_NAMES = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}

ON = {"kl": "off"}  # the policy and expert terms alone


def double(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def batch(seed: int = 0, B: int = 6, T: int = 7, spread: float = 0.5, **fields) -> LossInputs:
    """Random rows of random lengths in float64, a third of them expert."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    old_BT = -normal(B, T).abs() - 0.05
    lengths_B = torch.randint(1, T + 1, (B,), generator=g)
    values = {
        "logprobs_BT": (old_BT + spread * normal(B, T)).clamp_max(-1e-4).requires_grad_(),
        "old_logprobs_BT": old_BT,
        "advantages_B": normal(B),
        "mask_BT": (torch.arange(T) < lengths_B[:, None]).to(torch.float32),
        "expert_B": torch.arange(B) % 3 == 2,
        "reference_logprobs_BT": old_BT + spread * normal(B, T),
        "behaviour_logprobs_BT": old_BT + spread * normal(B, T),
        "behaviour_known_B": torch.rand(B, generator=g) > 0.2,
        "entropy_BT": normal(B, T).abs().requires_grad_(),
        "teacher_logprobs_BT": old_BT + spread * normal(B, T),
        "taught_B": torch.rand(B, generator=g) > 0.2,
        "top_logprobs_BTK": normal(B, T, 5).log_softmax(-1)[..., :3].clone().requires_grad_(),
        "teacher_top_BTK": normal(B, T, 5).log_softmax(-1)[..., :3],
    }
    return LossInputs(**{**values, **fields})


def with_(inputs: LossInputs, **fields) -> LossInputs:
    return LossInputs(**{**vars(inputs), **fields})


def part(inputs: LossInputs, rows) -> LossInputs:
    return LossInputs(**{k: None if v is None else v[rows] for k, v in vars(inputs).items()})


def totals(inputs: LossInputs) -> Totals:
    return Totals(float(inputs.mask_BT.sum()), float(len(inputs.advantages_B)))


def run(inputs: LossInputs, loss: LossSection, whole: Totals | None = None) -> LossOutputs:
    return icpo_loss(inputs, loss, whole or totals(inputs))


def gradient(inputs: LossInputs, loss: LossSection, whole: Totals | None = None) -> Tensor:
    return torch.autograd.grad(run(inputs, loss, whole).loss, inputs.logprobs_BT)[0]


def one_token(logprob: float, old: float, advantage: float, expert: bool) -> LossInputs:
    return LossInputs(
        logprobs_BT=double([[logprob]]).requires_grad_(),
        old_logprobs_BT=double([[old]]),
        advantages_B=double([advantage]),
        mask_BT=torch.ones(1, 1),
        expert_B=torch.tensor([expert]),
    )


def mean(out: LossOutputs, name: str) -> float:
    total, count = out.metrics[name]
    return float(total) / float(count)


# --- the released code ------------------------------------------------------------------------


@needs_golden
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed{case['seed']}")
def test_released_code(case):
    mask_BT = double(case["mask"])
    inputs = LossInputs(
        logprobs_BT=double(case["logprobs"]).requires_grad_(),
        old_logprobs_BT=double(case["old_logprobs"]),
        reference_logprobs_BT=double(case["ref_logprobs"]),
        advantages_B=double(case["advantages"])[:, 0],  # each row's first token is a response token
        mask_BT=mask_BT,
        expert_B=torch.tensor(case["expert"], dtype=torch.bool),
    )
    switches = {
        "clip_low": case["clip_low"],
        "clip_high": case["clip_high"],
        "dual_clip": case["dual_clip"],
        "expert_lambda": case["shaping_lambda"],
        "aggregation": case["aggregation"],
        "kl": KL_NAMES[case["kl"]],
    }
    # Their means run over a micro-batch, so these rows are their whole mini-batch.
    whole = Totals(mask_BT.sum().item(), len(mask_BT))
    policy = run(inputs, LossSection(**switches, kl_coefficient=0.0), whole).loss
    (grad,) = torch.autograd.grad(policy, inputs.logprobs_BT)
    assert policy.item() == pytest.approx(case["loss"], abs=1e-8)
    torch.testing.assert_close(grad, double(case["grad_logprobs"]), atol=1e-8, rtol=0)
    both = run(inputs, LossSection(**switches, kl_coefficient=1.0), whole).loss
    assert (both - policy).item() == pytest.approx(case["kl_loss"], abs=1e-8)


@needs_golden
def test_released_code_clamps_low_var_kl():
    """Without the clamp of k3 the released code's own numbers are missed."""
    gaps = []
    for case in CASES:
        if case["kl"] == "low_var_kl":
            x, mask = double(case["ref_logprobs"]) - double(case["logprobs"]), double(case["mask"])
            k3 = (x.exp() - x - 1) * mask
            by = len(mask) if case["aggregation"] != "token-mean" else mask.sum()
            gaps.append(abs((k3.sum() / by).item() - case["kl_loss"]))
    assert max(gaps) > 1e-2


# --- the expert term --------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.01, 0.1])
def test_derivative_of_f(lam):
    """df/dθ = λp/(p+λ)²·∇log p: by finite differences, largest at p = λ, vanishing at 0."""
    loss = LossSection(expert_lambda=lam, **ON)

    def f(log_p: float) -> tuple[float, float]:
        inputs = one_token(log_p, old=0.0, advantage=-1.0, expert=True)
        return run(inputs, loss).loss.item(), gradient(inputs, loss).item()

    h, slopes = 1e-5, {}
    for log_p in [*torch.linspace(math.log(1e-6), 0, 121).tolist(), math.log(lam)]:
        p = math.exp(log_p)
        value, slope = f(log_p)
        assert value == pytest.approx(p / (p + lam), rel=1e-12)
        assert slope == pytest.approx(lam * p / (p + lam) ** 2, rel=1e-12)
        assert slope == pytest.approx((f(log_p + h)[0] - f(log_p - h)[0]) / (2 * h), rel=1e-5)
        slopes[log_p] = slope
    assert max(slopes, key=slopes.get) == math.log(lam)
    assert slopes[math.log(lam)] == pytest.approx(0.25)
    assert f(math.log(1e-12))[1] < 1e-9
    assert f(0.0)[1] < lam


def test_smaller_lambda_learns_more_from_rare_tokens():
    def share(lam: float) -> float:
        slopes = [
            gradient(one_token(math.log(p), 0.0, 1.0, True), LossSection(expert_lambda=lam, **ON))
            for p in (0.01, 0.9)
        ]
        return (slopes[0] / slopes[1]).item()

    assert share(0.01) > 20 > share(0.1) > 0.5


def test_expert_tokens_are_never_clipped_by_default():
    """The trap: sending expert rows through the on-policy clip, which stops their gradient."""
    for advantage, log_ratio in ((1.0, 3.0), (-1.0, -3.0), (-1.0, 3.0)):
        inputs = one_token(-1.0, -1.0 - log_ratio, advantage, expert=True)
        assert gradient(inputs, LossSection(**ON)).abs() > 1e-3
        clipped = with_(inputs, expert_B=torch.tensor([False]))
        assert gradient(clipped, LossSection(**ON)) == 0.0
    # Nor does anything else about them depend on the old policy.
    inputs = batch(3)
    other = torch.where(
        inputs.expert_B[:, None], inputs.old_logprobs_BT - 9, inputs.old_logprobs_BT
    )
    for policy in ("ppo", "cispo", "gspo"):
        loss = LossSection(policy=policy)
        elsewhere = with_(inputs, old_logprobs_BT=other)
        assert torch.equal(gradient(inputs, loss), gradient(elsewhere, loss))


# --- every switch against a slow reference -----------------------------------------------------


def slow_loss(x: LossInputs, s: LossSection, whole: Totals) -> Tensor:
    """The same, row by row from the papers' formulas; behaviour must be known for all rows."""
    total = double(0.0)
    for b in range(len(x.advantages_B)):
        n = int(x.mask_BT[b].sum())
        lp, old = x.logprobs_BT[b, :n], x.old_logprobs_BT[b, :n]
        ref, engine = x.reference_logprobs_BT[b, :n], x.behaviour_logprobs_BT[b, :n]
        A = x.advantages_B[b]
        lo = 1 - s.clip_low if s.clip_low is not None else 0.0
        hi = 1 + s.clip_high if s.clip_high is not None else 1e30
        if x.expert_B[b]:
            rho = (lp - engine).exp() if s.expert_ratio == "importance" else lp.exp()
            if s.expert_clip is not None:
                rho = torch.minimum(rho, double(s.expert_clip))
            loss = -A * (rho / (rho + s.expert_lambda) if s.expert == "shaped" else rho)
        else:
            w = (old - engine).exp()
            if s.policy == "ppo":
                r = (lp - old).exp()
                gain = torch.minimum(r * A, r.clamp(lo, hi) * A)
                if A < 0 and s.dual_clip is not None:
                    gain = torch.maximum(gain, s.dual_clip * A)
            elif s.policy == "cispo":
                r = (lp - old).exp().detach()
                gain = r.clamp(lo, hi) * A * lp
            else:
                ratio = ((lp.sum() - old.sum()) / n).exp()  # (π_θ(y|x)/π_old(y|x))^(1/|y|)
                gain = torch.minimum(ratio * A, ratio.clamp(lo, hi) * A).repeat(n)
                w = ((old.sum() - engine.sum()) / n).exp().repeat(n)
            cap = s.correction_cap
            if s.correction == "truncate":
                gain = gain * torch.minimum(w, double(cap))
            elif s.correction == "mask":
                floor = s.correction_floor or 1 / cap
                gain = gain * torch.where((w <= cap) & (w >= floor), w, 0.0)
            elif s.correction == "sequence-mask":
                w = (old.sum() - engine.sum()).exp()
                gain = gain * (w if (s.correction_floor or 0) <= w <= cap else 0.0)
            loss = -gain
        loss = s.policy_coefficient * loss
        if s.distill.coefficient and x.taught_B[b] and not x.expert_B[b]:
            d = lp - x.teacher_logprobs_BT[b, :n]
            # The value of k3; the gradient of d²/2.
            term = ((-d).exp() + d - 1).clamp(-10, 10).detach() + d**2 / 2 - (d**2 / 2).detach()
            if s.distill.top_k:
                p, q = x.top_logprobs_BTK[b, :n].exp(), x.teacher_top_BTK[b, :n].exp()
                p, q = (torch.cat([one, 1 - one.sum(1, keepdim=True)], 1) for one in (p, q))
                term = (p * (p / q).log()).sum(1)
            loss = loss + s.distill.coefficient * term
        d = lp - ref
        if s.kl == "k1":
            loss = loss + s.kl_coefficient * d
        elif s.kl == "k2":
            loss = loss + s.kl_coefficient * d**2 / 2
        elif s.kl == "k3":
            loss = loss + s.kl_coefficient * ((-d).exp() + d - 1).clamp(-10, 10)
        loss = loss - s.entropy_coefficient * x.entropy_BT[b, :n]
        by = {
            "token-mean": whole.tokens,
            "seq-mean-token-sum": whole.sequences,
            "seq-mean-token-mean": whole.sequences * n,
            "constant": whole.sequences * (s.constant_length or 1),
        }[s.aggregation]
        total = total + loss.sum() / by
    return total


loss_sections = st.builds(
    LossSection,
    policy=st.sampled_from(["ppo", "cispo", "gspo"]),
    clip_low=st.sampled_from([0.1, 0.2, None]),
    clip_high=st.sampled_from([0.2, 0.28, None]),
    dual_clip=st.sampled_from([None, 1.5, 3.0]),
    expert=st.sampled_from(["shaped", "unshaped"]),
    expert_lambda=st.sampled_from([0.01, 0.1]),
    expert_ratio=st.sampled_from(["probability", "importance"]),
    expert_clip=st.sampled_from([None, 0.3, 1.2]),
    kl=st.sampled_from(["off", "k1", "k2", "k3"]),
    kl_coefficient=st.sampled_from([0.0, 0.5]),
    entropy_coefficient=st.sampled_from([0.0, 0.1]),
    aggregation=st.sampled_from(
        ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "constant"]
    ),
    constant_length=st.just(11),
    correction=st.sampled_from(["off", "truncate", "mask", "sequence-mask"]),
    correction_cap=st.sampled_from([1.3, 2.0]),
    correction_floor=st.sampled_from([None, 0.5]),
    policy_coefficient=st.sampled_from([1.0, 0.3, 0.0]),
    distill=st.builds(
        DistillSection, coefficient=st.sampled_from([0.0, 0.7]), top_k=st.sampled_from([0, 3])
    ),
)


@settings(max_examples=150, deadline=None)
@given(loss=loss_sections, seed=st.integers(0, 9999), spread=st.sampled_from([0.1, 0.5, 1.5]))
def test_every_switch_agrees_with_a_slow_reference(loss, seed, spread):
    inputs = batch(seed, spread=spread, behaviour_known_B=None)
    leaves = (inputs.logprobs_BT, inputs.entropy_BT, inputs.top_logprobs_BTK)
    fast, slow = run(inputs, loss).loss, slow_loss(inputs, loss, totals(inputs))
    assert fast.item() == pytest.approx(slow.item(), abs=1e-11, rel=1e-11)
    for ours, theirs in zip(
        torch.autograd.grad(fast, leaves, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(slow, leaves, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    loss=loss_sections,
    seed=st.integers(0, 9999),
    cuts=st.sets(st.integers(1, 7)),
    order=st.permutations(range(8)),
)
def test_any_split_into_micro_batches_sums_to_the_whole(loss, seed, cuts, order):
    """Loss, gradient and metrics. The trap: a mean a micro-batch, or dividing twice."""
    inputs = batch(seed, B=8)
    whole, once = totals(inputs), run(inputs, loss)
    (once_grad,) = torch.autograd.grad(once.loss, inputs.logprobs_BT)
    borders = [0, *sorted(cuts), 8]
    pieces = [run(part(inputs, list(order[a:b])), loss, whole) for a, b in pairwise(borders)]
    total = torch.stack([piece.loss for piece in pieces]).sum()
    assert total.item() == pytest.approx(once.loss.item(), abs=1e-12, rel=1e-12)
    (grad,) = torch.autograd.grad(total, inputs.logprobs_BT)
    torch.testing.assert_close(grad, once_grad, atol=1e-12, rtol=1e-12)
    for name, (value, count) in once.metrics.items():
        values, counts = zip(*(piece.metrics[name] for piece in pieces), strict=True)
        assert float(sum(values)) == pytest.approx(float(value), abs=1e-12, rel=1e-12)
        assert float(sum(counts)) == float(count)
    for name, value in once.maxima.items():
        assert max(piece.maxima[name] for piece in pieces) == value


def test_token_mean_is_one_mean_and_not_a_mean_of_means():
    inputs = batch(
        B=2, T=8, mask_BT=(torch.arange(8) < double([[1], [8]])).float(),
        expert_B=torch.tensor([False, False]),
    )  # fmt: skip
    rows = [part(inputs, slice(i, i + 1)) for i in range(2)]
    loss = LossSection(**ON)
    naive = sum(run(row, loss).loss for row in rows) / 2
    right = sum(run(row, loss, totals(inputs)).loss for row in rows)
    assert right.item() == pytest.approx(run(inputs, loss).loss.item(), abs=1e-12)
    assert abs(right - naive) > 1e-3


def test_token_weights():
    mask_BT = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    whole = Totals(tokens=10, sequences=4)

    def weights(**switches) -> list[list[float]]:
        return token_weights(mask_BT, LossSection(**switches), whole).tolist()

    assert weights(aggregation="token-mean") == [[0.1, 0.1, 0, 0], [0.1, 0.1, 0.1, 0]]
    assert weights(aggregation="seq-mean-token-sum")[0] == [0.25, 0.25, 0, 0]
    assert weights(aggregation="seq-mean-token-mean")[1] == pytest.approx([1 / 12] * 3 + [0])
    assert weights(aggregation="constant", constant_length=5)[1] == [0.05, 0.05, 0.05, 0]
    with pytest.raises(ValueError, match="constant_length"):
        weights(aggregation="constant")


# --- on-policy variants by their papers' own words ----------------------------------------------


def test_clip_higher_lets_rare_right_tokens_grow():
    inputs = one_token(-2.0 + math.log(1.25), -2.0, 1.0, expert=False)
    assert gradient(inputs, LossSection(clip_high=0.2, **ON)) == 0
    assert gradient(inputs, LossSection(clip_high=0.28, **ON)) == pytest.approx(-1.25)


def test_dual_clip_bounds_the_loss_of_wrong_tokens():
    inputs = one_token(-0.5, -4.0, -2.0, expert=False)
    assert run(inputs, LossSection(dual_clip=3.0, **ON)).loss.item() == 6.0
    assert gradient(inputs, LossSection(dual_clip=3.0, **ON)) == 0
    unbounded = run(inputs, LossSection(dual_clip=None, **ON)).loss.item()
    assert unbounded == pytest.approx(2 * math.exp(3.5))


def test_dual_clip_is_of_ppo_alone():
    inputs = one_token(-0.5, -4.0, -2.0, expert=False)
    for policy, value in (("gspo", 2 * math.exp(3.5)), ("cispo", -0.5 * 2 * 1.2)):
        assert run(inputs, LossSection(policy=policy, **ON)).loss.item() == pytest.approx(value)


def test_cispo_keeps_the_gradient_of_clipped_tokens():
    """∇ = sg(clip(r))·A·∇log π for every token, where PPO's gradient is zero."""
    inputs = one_token(-0.5, -1.5, 1.0, expert=False)
    assert gradient(inputs, LossSection(**ON)) == 0
    assert gradient(inputs, LossSection(policy="cispo", **ON)) == pytest.approx(-1.2)


def test_gspo_is_the_mean_over_sequences_of_a_clipped_sequence_ratio():
    inputs = batch(5, expert_B=torch.zeros(6, dtype=torch.bool), spread=0.3)
    want = 0.0
    for b in range(6):
        n = int(inputs.mask_BT[b].sum())
        d = (inputs.logprobs_BT - inputs.old_logprobs_BT)[b, :n].detach()
        s, A = math.exp(d.mean()), inputs.advantages_B[b].item()
        want -= min(s * A, min(max(s, 0.9), 1.15) * A) / 6
    loss = LossSection(
        policy="gspo", clip_low=0.1, clip_high=0.15, aggregation="seq-mean-token-mean", **ON
    )
    assert run(inputs, loss).loss.item() == pytest.approx(want, abs=1e-12)


OWN = """
import torch
from icpo_core.method.policy_losses import PolicyTerm

def vanilla(inputs, settings):
    return -inputs.log_ratio().exp() * inputs.advantages()

def sequences(inputs, settings):
    loss_BT = vanilla(inputs, settings)
    return PolicyTerm(loss_BT, loss_BT.exp(), True, {"mine": torch.ones_like(loss_BT)})

def summed(inputs, settings):
    return vanilla(inputs, settings).sum()
"""


def test_a_policy_loss_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    inputs = batch(
        old_logprobs_BT=batch().old_logprobs_BT.masked_fill(batch().mask_BT == 0, math.nan)
    )
    unclipped = LossSection(**ON, clip_low=None, clip_high=None, dual_clip=None)
    theirs = run(inputs, unclipped)
    ours = run(inputs, LossSection(**ON, policy=f"{file}:vanilla"))
    torch.testing.assert_close(ours.loss, theirs.loss)
    shared = theirs.metrics.keys() & ours.metrics.keys()
    assert theirs.metrics.keys() - shared == {"policy/clip_low", "policy/clip_high"}
    for name in shared:
        torch.testing.assert_close(ours.metrics[name], theirs.metrics[name])
    with_figure = run(inputs, LossSection(**ON, policy=f"{file}:sequences"))
    total, count = with_figure.metrics["policy/mine"]
    assert total == count
    with pytest.raises(
        ValueError, match=r"summed returned shape \(\) for tokens of shape \(6, 7\)"
    ):
        run(inputs, LossSection(**ON, policy=f"{file}:summed"))


def test_an_unknown_policy_loss_is_named():
    with pytest.raises(ValueError, match=r"'pppo' is none of cispo, gspo, ppo; did you mean ppo\?"):
        LossSection(policy="pppo")


def test_correction_weighs_known_on_policy_tokens_only():
    inputs = batch(6, behaviour_known_B=torch.tensor([True, False, True, True, True, True]))
    plain, corrected = LossSection(**ON), LossSection(correction="truncate", **ON)
    same_B = inputs.expert_B | ~inputs.behaviour_known_B
    before, after = gradient(inputs, plain), gradient(inputs, corrected)
    assert torch.equal(before[same_B], after[same_B])
    gap = (inputs.old_logprobs_BT - inputs.behaviour_logprobs_BT).exp().clamp_max(2.0)
    torch.testing.assert_close(after[~same_B], (before * gap)[~same_B])
    masked = gradient(inputs, LossSection(correction="mask", correction_cap=1.2, **ON))
    off = (gap.clamp_max(1.99).log().abs() > math.log(1.2)) & ~same_B[:, None]
    assert off.any()
    assert (masked[off] == 0).all()


def test_icepop_and_the_mask_of_whole_responses():
    """IcePop keeps w between 0.5 and 5; TRL drops a response whose product of w is past 3."""
    w = double([[0.49, 0.51, 4.9, 5.1], [1.5, 1.9, 1.0, 1.0], [2.0, 2.0, 1.0, 1.0]])
    old = torch.full_like(w, -1.0)
    inputs = LossInputs(
        logprobs_BT=old.clone().requires_grad_(),
        old_logprobs_BT=old,
        behaviour_logprobs_BT=old - w.log(),
        advantages_B=double([-1.0, -1.0, -1.0]),
        mask_BT=torch.ones(3, 4),
        expert_B=torch.zeros(3, dtype=torch.bool),
    )
    plain = LossSection(kl="off", aggregation="seq-mean-token-sum")
    unweighed = gradient(inputs, plain)
    icepop = {"correction": "mask", "correction_cap": 5.0, "correction_floor": 0.5}
    kept = double([[0.0, 0.51, 4.9, 0.0], [1.5, 1.9, 1.0, 1.0], [2.0, 2.0, 1.0, 1.0]])
    found = gradient(inputs, plain.model_copy(update=icepop))
    torch.testing.assert_close(found, unweighed * kept)
    trl = {"correction": "sequence-mask", "correction_cap": 3.0}
    found = gradient(inputs, plain.model_copy(update=trl))
    torch.testing.assert_close(found, unweighed * double([[0.0], [2.85], [0.0]]))


# --- KL and entropy -----------------------------------------------------------------------------


def test_kl_estimators_and_gradients():
    d = torch.linspace(-2, 2, 41, dtype=torch.float64)
    reference = torch.full_like(d, -3.0)
    value, slope = {}, {}
    for kind in ("k1", "k2", "k3", "k3_unbiased"):
        logprobs = (reference + d).requires_grad_()
        kl = kl_divergence(kind, logprobs, reference)
        value[kind] = kl.detach()
        (slope[kind],) = torch.autograd.grad(kl.sum(), logprobs)
    torch.testing.assert_close(value["k1"], d)
    torch.testing.assert_close(value["k2"], d**2 / 2)
    torch.testing.assert_close(value["k3"], torch.exp(-d) + d - 1)
    torch.testing.assert_close(value["k3_unbiased"], value["k3"])
    torch.testing.assert_close(slope["k3"], 1 - torch.exp(-d))
    torch.testing.assert_close(slope["k3_unbiased"], d)


def test_k3_unbiased_has_the_gradient_of_the_kl_divergence():
    """In expectation over samples of the policy, exactly, where k3 has another."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=g, dtype=torch.float64).requires_grad_()
    reference = torch.randn(5, generator=g, dtype=torch.float64).log_softmax(0)
    logprobs = logits.log_softmax(0)
    p = logprobs.exp()
    (exact,) = torch.autograd.grad((p * (logprobs - reference)).sum(), logits, retain_graph=True)

    def expected(kind: str) -> Tensor:
        mean = (p.detach() * kl_divergence(kind, logprobs, reference)).sum()
        return torch.autograd.grad(mean, logits, retain_graph=True)[0]

    torch.testing.assert_close(expected("k3_unbiased"), exact)
    torch.testing.assert_close(expected("k1"), torch.zeros_like(exact))
    assert (expected("k3") - exact).abs().max() > 0.05


def test_kl_holds_expert_tokens_too():
    inputs = batch(7, advantages_B=torch.zeros(6, dtype=torch.float64))
    grad = gradient(inputs, LossSection(kl="k3", kl_coefficient=1.0))
    assert (grad[inputs.mask_BT.bool()] != 0).all()


def test_entropy_bonus_raises_entropy():
    inputs = batch(8)
    out = run(inputs, LossSection(entropy_coefficient=0.1, **ON)).loss
    (grad,) = torch.autograd.grad(out, inputs.entropy_BT)
    torch.testing.assert_close(grad, -0.1 * inputs.mask_BT.double() / inputs.mask_BT.sum())


# --- traps ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(loss=loss_sections, seed=st.integers(0, 99))
def test_padding_is_by_position_and_may_hold_anything(loss, seed):
    """The trap: masking by token id (pad may be EOS), or 0·NaN from what stands behind the mask."""
    clean = batch(seed)
    pad_BT = ~clean.mask_BT.bool()
    dirty = {}
    for name, value in vars(clean).items():
        if name.endswith("_BT") and name != "mask_BT":
            dirt = torch.where(torch.arange(7) % 2 == 0, math.nan, -math.inf).expand(6, 7)
            dirty[name] = torch.where(pad_BT, dirt, value.detach()).requires_grad_(
                value.requires_grad
            )
    spoiled = with_(clean, **dirty)
    a, b = run(clean, loss), run(spoiled, loss)
    assert torch.equal(a.loss, b.loss)
    assert torch.equal(gradient(clean, loss), gradient(spoiled, loss))
    for name, (value, count) in a.metrics.items():
        assert torch.equal(value, b.metrics[name][0]), name
        assert torch.equal(count, b.metrics[name][1]), name
    assert a.maxima == b.maxima


@pytest.mark.parametrize("policy", ["ppo", "cispo", "gspo"])
@pytest.mark.parametrize("correction", ["off", "truncate", "mask", "sequence-mask"])
def test_no_gradient_is_infinite_in_float32(policy, correction):
    """The trap: exp overflows in the branch that min did not take, and 0·inf is NaN."""
    far = torch.tensor([[-200.0, -1e-6, -1.0]]).repeat(4, 1)
    near = torch.tensor([[-1e-6, -200.0, -1.0]]).repeat(4, 1)
    inputs = LossInputs(
        logprobs_BT=far.requires_grad_(),
        old_logprobs_BT=near,
        reference_logprobs_BT=near,
        behaviour_logprobs_BT=near.flip(1),
        advantages_B=torch.tensor([1.0, -1.0, 1.0, -1.0]),
        mask_BT=torch.ones(4, 3),
        expert_B=torch.tensor([False, False, True, True]),
    )
    for ratio in ("probability", "importance"):
        for kl in ("k3", "k3_unbiased"):
            loss = LossSection(policy=policy, correction=correction, expert_ratio=ratio, kl=kl)
            out = run(inputs, loss)
            assert out.loss.isfinite()
            assert gradient(inputs, loss).isfinite().all()
            assert all(math.isfinite(float(value)) for value, _ in out.metrics.values())


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean", "constant"])
def test_rows_without_signal_can_be_skipped_but_stay_in_the_mean(aggregation):
    inputs = batch(9, advantages_B=double([1.0, 0.0, -0.5, 0.0, 2.0, 0.0]))
    loss = LossSection(aggregation=aggregation, constant_length=9, **ON)
    kept = has_signal(inputs.advantages_B, loss)
    assert kept.tolist() == [True, False, True, False, True, False]
    grad = gradient(inputs, loss)
    assert (grad[~kept] == 0).all()
    rows = part(inputs, kept)
    short = torch.autograd.grad(run(rows, loss, totals(inputs)).loss, inputs.logprobs_BT)[0]
    torch.testing.assert_close(short, grad, atol=1e-14, rtol=1e-14)
    for on in ({"kl": "k3"}, {"kl": "off", "entropy_coefficient": 0.1}):
        assert has_signal(inputs.advantages_B, LossSection(**on)).all()
    assert not has_signal(inputs.advantages_B, LossSection(kl="k3", kl_coefficient=0.0)).all()


def test_only_the_trained_policy_carries_a_gradient():
    inputs = batch(10)
    others = ("old_logprobs_BT", "reference_logprobs_BT", "behaviour_logprobs_BT")
    leaves = {name: getattr(inputs, name).requires_grad_() for name in others}
    out = run(
        with_(inputs, **leaves), LossSection(correction="truncate", expert_ratio="importance")
    )
    grads = torch.autograd.grad(out.loss, list(leaves.values()), allow_unused=True)
    assert all(grad is None or not grad.any() for grad in grads)


def test_what_a_switch_needs_must_be_given():
    inputs = one_token(-1.0, -1.0, 1.0, expert=False)
    for switches, missing in (
        ({"kl": "k3"}, "reference_logprobs"),
        ({"correction": "mask", **ON}, "behaviour_logprobs"),
        ({"expert_ratio": "importance", **ON}, "behaviour_logprobs"),
        ({"entropy_coefficient": 0.1, **ON}, "entropy"),
    ):
        with pytest.raises(ValueError, match=missing):
            run(inputs, LossSection(**switches))
    assert run(inputs, LossSection(kl="k3", kl_coefficient=0.0)).loss.item() == -1.0


# --- metrics -------------------------------------------------------------------------------------


def test_metrics_say_what_happened():
    log_ratio = [math.log(0.5), math.log(2.0), math.log(4.0), 0.0]
    old = double([[-3.0] * 4] * 3)
    logprobs = old + double([log_ratio] * 3)
    logprobs[2] = double([0.001, 0.03, 0.5, 1.0]).log()
    inputs = LossInputs(
        logprobs_BT=logprobs.requires_grad_(),
        old_logprobs_BT=old,
        reference_logprobs_BT=logprobs.detach() - 0.1,
        behaviour_logprobs_BT=logprobs.detach() - 1.0,
        advantages_B=double([1.0, -1.0, 1.0]),
        mask_BT=torch.ones(3, 4),
        expert_B=torch.tensor([False, False, True]),
        entropy_BT=torch.full((3, 4), 0.7, dtype=torch.float64),
    )
    out = run(inputs, LossSection(kl="k1"))
    assert not any(v.requires_grad for v, _ in out.metrics.values())
    assert mean(out, "policy/clip_low") == 1 / 8  # the wrong row's 0.5
    assert mean(out, "policy/clip_high") == 2 / 8  # the right row's 2 and 4
    assert mean(out, "policy/clip_dual") == 1 / 8  # the wrong row's 4
    assert mean(out, "policy/ratio") == pytest.approx((0.5 + 2 + 4 + 1) / 4)
    assert mean(out, "policy/approx_kl") == pytest.approx(-sum(log_ratio) / 4)
    assert mean(out, "policy/loss") == pytest.approx(
        (-(0.5 + 1.2 + 1.2 + 1) + (0.8 + 2 + 3 + 1)) / 8
    )
    f = [p / (p + 0.01) for p in (0.001, 0.03, 0.5, 1.0)]
    assert mean(out, "expert/rho") == pytest.approx((0.001 + 0.03 + 0.5 + 1.0) / 4)
    assert mean(out, "expert/f") == pytest.approx(sum(f) / 4)
    assert mean(out, "expert/loss") == pytest.approx(-sum(f) / 4)
    histogram = [mean(out, f"expert/f_bin_{i}") for i in range(10)]
    assert histogram == [0.25, 0, 0, 0, 0, 0, 0, 0.25, 0, 0.5]
    whole = run(inputs, LossSection(expert="unshaped", expert_ratio="importance", **ON))
    assert mean(whole, "expert/f_bin_9") == 1.0  # ρ = e lies past the last bin's edge
    assert mean(out, "expert/log_ratio") == pytest.approx(1.0)
    assert mean(out, "expert/ratio") == pytest.approx(math.e)
    assert mean(out, "kl") == pytest.approx(0.1)
    assert mean(out, "entropy") == pytest.approx(0.7)
    assert out.maxima["policy/ratio_max"] == pytest.approx(4.0)


# --- presets -------------------------------------------------------------------------------------


def preset(name: str) -> Config:
    raw = tomllib.loads((PRESETS / f"{name}.toml").read_text())
    raw.setdefault("prompts", {}).update(problems="problems.parquet", demonstrations="pool.parquet")
    return build(raw, name)


def test_presets_are_the_published_methods():
    names = sorted(path.stem for path in PRESETS.glob("*.toml"))
    assert names == [
        "cispo", "dapo", "dr-grpo", "grpo", "gspo", "icpo", "icpo-lean", "icpo-no-errs", "icpo-rs",
        "icpo-taught", "luffy", "relift",
    ]  # fmt: skip
    configs = {name: preset(name) for name in names}
    groups = {n: (c.rollout.on_policy, c.rollout.expert) for n, c in configs.items()}
    lean = {"icpo-lean", "icpo-taught"}
    ours = {"icpo", "icpo-rs", "icpo-no-errs"} | lean
    mixed = dict.fromkeys(ours | {"luffy"}, (7, 1)) | {"relift": (8, 1)}
    mixed |= dict.fromkeys(lean, (3, 1))
    assert groups == {n: mixed.get(n, (8, 0)) for n in names}
    assert {n: c.select.tuning_buffer for n, c in configs.items() if c.select.tuning_buffer} == {
        "relift": 64
    }
    assert {n for n, c in configs.items() if c.prompts.k == 1} == ours
    plain = {n for n, c in configs.items() if c.select.errs == "off"}
    assert plain == {"icpo-no-errs", "luffy", "relift"}
    assert {n: c.select.bonus_on for n, c in configs.items() if c.select.bonus != "off"} == {
        "icpo-rs": "reward", "icpo-lean": "advantage", "icpo-taught": "advantage",
    }  # fmt: skip
    distilled = {n: c.loss.distill.top_k for n, c in configs.items() if c.loss.distills}
    assert distilled == dict.fromkeys(lean, 16)
    assert {n: configs[n].loss.distill.teacher for n in lean} == {
        "icpo-lean": "policy", "icpo-taught": "average",
    }  # fmt: skip
    assert configs["icpo-rs"].select.horizon == configs["icpo-rs"].run.iterations
    assert {n: configs[n].loss.expert_lambda for n in ours} == dict.fromkeys(ours, 0.01)
    assert configs["luffy"].loss.expert_lambda == 0.1
    traced = {n for n, c in configs.items() if c.rollout.expert_source == "traces"}
    assert traced == {"luffy", "relift"}
    kl = {n for n, c in configs.items() if c.loss.kl == "k3" and c.loss.kl_coefficient == 0.001}
    assert kl == {"grpo", *ours}
    assert not any(c.loss.kl_coefficient for n, c in configs.items() if n not in kl)
    higher = {n for n, c in configs.items() if c.loss.clip_high == 0.28}
    assert higher == {"dapo", "relift"}
    assert {configs[n].loss.clip_low for n in higher} == {0.2}
    assert configs["dapo"].loss.aggregation == "token-mean"
    assert {n for n, c in configs.items() if c.prompts.fill} == {"dapo"}
    assert {n for n, c in configs.items() if c.select.truncated == "shaped"} == {"dapo"}
    assert not any(c.rollout.steer != "always" for c in configs.values())
    gspo, cispo = configs["gspo"].loss, configs["cispo"].loss
    assert (gspo.policy, gspo.clip_low, gspo.clip_high) == ("gspo", 3e-4, 4e-4)
    assert gspo.aggregation == "seq-mean-token-mean"
    assert (cispo.policy, bounds(cispo), cispo.aggregation) == (
        "cispo", (-math.inf, 5.0), "token-mean",
    )  # fmt: skip
    assert {n for n, c in configs.items() if c.loss.policy != "ppo"} == {"gspo", "cispo"}
    centred = {n for n, c in configs.items() if c.select.advantage == "group-mean"}
    assert centred == {"dr-grpo", "luffy", "relift"}
    assert {c.select.advantage for n, c in configs.items() if n not in centred} == {"group"}
    assert configs["dr-grpo"].loss.constant_length == configs["dr-grpo"].rollout.max_tokens
    # The defaults are the paper's ICPO.
    assert configs["icpo"].loss == LossSection()
    assert configs["icpo"].select == type(configs["icpo"].select)()
