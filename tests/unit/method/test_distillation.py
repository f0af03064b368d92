"""Reverse KL to a teacher, against plain sums over the vocabulary in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from icpo_core.method import distillation


def distributions(seed: int, tokens: int, vocabulary: int, scale: float) -> tuple[Tensor, Tensor]:
    """Logits of the policy, which are the leaf, and logprobs of the teacher, [T, V]."""
    chance = torch.Generator().manual_seed(seed)
    logits, teacher = torch.randn(2, tokens, vocabulary, generator=chance, dtype=torch.float64).mul(
        scale
    )
    return logits.requires_grad_(), teacher.log_softmax(-1)


def plain_kl(logits_TV: Tensor, teacher_TV: Tensor) -> Tensor:
    """Σ_v π(v) (log π(v) − log π_T(v)), summed over tokens."""
    policy_TV = logits_TV.softmax(-1)
    return (policy_TV * (policy_TV.log() - teacher_TV)).sum()


CASES = {
    "seed": st.integers(0, 9999),
    "tokens": st.integers(1, 4),
    "vocabulary": st.integers(2, 12),
    "scale": st.sampled_from([0.1, 1.0, 3.0]),
}


@given(**CASES)
@settings(max_examples=60, deadline=None)
def test_on_the_sampled_token_the_mean_gradient_is_that_of_the_kl(
    seed: int, tokens: int, vocabulary: int, scale: float
) -> None:
    """Each token of the vocabulary as the sampled one, by its probability."""
    logits_TV, teacher_TV = distributions(seed, tokens, vocabulary, scale)
    (wanted,) = torch.autograd.grad(plain_kl(logits_TV, teacher_TV), logits_TV)
    logprobs_TV = logits_TV.log_softmax(-1)
    estimates_TV = distillation.on_sampled(logprobs_TV, teacher_TV)
    mean = (logprobs_TV.detach().exp() * estimates_TV).sum()
    (found,) = torch.autograd.grad(mean, logits_TV)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-8)


@given(**CASES)
@settings(max_examples=60, deadline=None)
def test_over_the_whole_vocabulary_it_is_the_kl(
    seed: int, tokens: int, vocabulary: int, scale: float
) -> None:
    logits_TV, teacher_TV = distributions(seed, tokens, vocabulary, scale)
    exact = plain_kl(logits_TV, teacher_TV)
    found = distillation.on_top(logits_TV.log_softmax(-1), teacher_TV).sum()
    assert found.item() == pytest.approx(exact.item(), abs=1e-9)
    torch.testing.assert_close(
        *(torch.autograd.grad(one, logits_TV)[0] for one in (found, exact)), atol=1e-9, rtol=1e-8
    )


@given(**CASES, kept=st.integers(1, 11))
@settings(max_examples=60, deadline=None)
def test_over_some_tokens_all_others_are_one(
    seed: int, tokens: int, vocabulary: int, scale: float, kept: int
) -> None:
    """As the KL of two distributions with one token for the rest, and never more than the whole."""
    kept = min(kept, vocabulary - 1)
    logits_TV, teacher_TV = distributions(seed, tokens, vocabulary, scale)
    ids_TK = teacher_TV.topk(kept, dim=-1).indices

    def lumped(probability_TV: Tensor) -> Tensor:
        of_top_TK = probability_TV.gather(-1, ids_TK)
        rest_T1 = 1.0 - of_top_TK.sum(-1, keepdim=True)
        return torch.cat([of_top_TK, rest_T1.clamp_min(distillation.LEAST_REST)], -1)

    ours, theirs = lumped(logits_TV.softmax(-1)), lumped(teacher_TV.exp())
    wanted = (ours * (ours / theirs).log()).sum()
    logprobs_TV = logits_TV.log_softmax(-1)
    found = distillation.on_top(logprobs_TV.gather(-1, ids_TK), teacher_TV.gather(-1, ids_TK)).sum()
    assert found.item() == pytest.approx(wanted.item(), abs=1e-9)
    assert found.item() <= plain_kl(logits_TV, teacher_TV).item() + 1e-4
    if float(ours.detach()[:, -1].min()) > 1e-3 and float(theirs[:, -1].min()) > 1e-3:
        torch.testing.assert_close(
            *(torch.autograd.grad(one, logits_TV)[0] for one in (found, wanted)),
            atol=1e-9,
            rtol=1e-7,
        )


def test_what_is_certain_has_no_infinite_gradient() -> None:
    """The trap: log of a rest that rounds to 0 or below it, in float32."""
    logits_TV = torch.tensor([[60.0, -60.0, -60.0], [0.0, 0.0, 0.0]]).requires_grad_()
    teacher_TV = torch.tensor([[-60.0, 60.0, -60.0], [90.0, 0.0, 0.0]]).log_softmax(-1)
    value = distillation.on_top(logits_TV.log_softmax(-1)[:, :2], teacher_TV[:, :2]).sum()
    (gradient,) = torch.autograd.grad(value, logits_TV)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
