"""Logprobs by block of the vocabulary against plain log-softmax in double precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from icpo_core.trainer.logprobs import token_logprobs, top_logprobs


def inputs(
    tokens: int, vocabulary: int, width: int, seed: int, bias: bool, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    chance = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=chance) * scale
    weight = torch.randn(vocabulary, width, generator=chance)
    targets = torch.randint(vocabulary, (tokens,), generator=chance)
    added = torch.randn(vocabulary, generator=chance) if bias else None
    leaves = (hidden, weight, added)
    for leaf in leaves:
        if leaf is not None:
            leaf.requires_grad_()
    return hidden, weight, targets, added


def plainly(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """In float64, gradients by autograd."""
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    every = (logits / temperature).log_softmax(-1)
    entropy = -(every.exp() * every).sum(-1)
    return every.gather(1, targets[:, None]).squeeze(1), entropy


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
    assert torch.allclose(ours.double(), theirs.double(), rtol=0, atol=tolerance * scale)


@given(
    tokens=st.integers(1, 9),
    vocabulary=st.integers(1, 40),
    bias=st.booleans(),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    block=st.sampled_from([4, 64, 300, 1 << 20]),
    entropy_gradient=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_values_and_gradients(
    tokens: int,
    vocabulary: int,
    bias: bool,
    temperature: float,
    block: int,
    entropy_gradient: bool,
    seed: int,
) -> None:
    """In one block, in blocks of one word, in blocks that do not divide the vocabulary."""
    hidden, weight, targets, added = inputs(tokens, vocabulary, 5, seed, bias)
    leaves = [leaf for leaf in (hidden, weight, added) if leaf is not None]
    found = token_logprobs(
        hidden, weight, targets, added, temperature, True, entropy_gradient, block
    )
    expected = plainly(hidden, weight, targets, added, temperature)
    weights = torch.arange(1.0, tokens + 1)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, theirs)
    assert found[1].requires_grad == entropy_gradient

    def total(pair: tuple[Tensor, Tensor]) -> Tensor:
        return (weights * (pair[0] + (0.5 * pair[1] if entropy_gradient else 0))).sum()

    ours = torch.autograd.grad(total(found), leaves)
    theirs = torch.autograd.grad(total(expected), leaves)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)


def test_far_logits_stay_finite() -> None:
    """A confident model: probabilities of 1 and of 0 in single precision."""
    hidden, weight, targets, _ = inputs(20, 50, 8, 0, False, scale=100.0)
    for block in (400, 1 << 20):
        logprobs, entropy = token_logprobs(
            hidden, weight, targets, entropy_gradient=True, block_bytes=block
        )
        expected = plainly(hidden, weight, targets, None, 1.0)
        assert_close(logprobs, expected[0], 1e-6)
        assert_close(entropy, expected[1], 1e-4)  # logits of 1,000 have 4 digits after the point
        for grad in torch.autograd.grad((logprobs + entropy).sum(), [hidden, weight]):
            assert torch.isfinite(grad).all()


def test_a_tied_weight_gets_both_gradients() -> None:
    weight = torch.randn(30, 6, requires_grad=True)
    targets = torch.tensor([1, 2, 3])

    def through(block: int) -> Tensor:
        hidden = torch.nn.functional.embedding(torch.tensor([4, 5, 4]), weight)
        logprobs, _ = token_logprobs(hidden.tanh(), weight, targets, block_bytes=block)
        return torch.autograd.grad(logprobs.sum(), weight)[0]

    assert_close(through(8), through(1 << 20))


def test_what_is_frozen_gets_no_gradient() -> None:
    hidden, weight, targets, _ = inputs(4, 30, 6, 0, False)
    logprobs, _ = token_logprobs(hidden, weight.detach(), targets, block_bytes=8)
    (ours,) = torch.autograd.grad(logprobs.sum(), [hidden])
    expected, _ = plainly(hidden, weight, targets, None, 1.0)
    assert_close(ours, torch.autograd.grad(expected.sum(), hidden)[0])
    with torch.no_grad():
        assert not token_logprobs(hidden, weight, targets, block_bytes=8)[0].requires_grad


@pytest.mark.parametrize("block", [None, 64 * 4 * 500])
def test_a_float32_head_is_exact_where_half_precision_is_not(block: int | None) -> None:
    """Products of bfloat16 weights in float32: right to 1e-5, without it wrong by 1e-2."""
    hidden, weight, targets, _ = inputs(64, 3000, 256, 0, False)
    halves = [(2 * leaf.detach()).bfloat16().requires_grad_() for leaf in (hidden, weight)]
    logits = torch.nn.functional.linear(*(half.double() for half in halves))
    expected = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    more = {"temperature": 1.0, "block_bytes": block}
    exact, _ = token_logprobs(*halves, targets, float32=True, **more)
    rounded, _ = token_logprobs(*halves, targets, **more)
    assert_close(exact, expected, 1e-5)
    assert float((rounded - expected).abs().max()) > 1e-2
    ours = torch.autograd.grad(exact.mean(), halves)
    theirs = torch.autograd.grad(expected.mean(), halves)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.bfloat16
        assert float((one - other).abs().max()) <= 0.02 * float(other.abs().max())


def test_half_precision_is_summed_in_single() -> None:
    """Logprobs as exact as the bfloat16 logits allow, not as bfloat16 itself."""
    hidden, weight, targets, _ = inputs(64, 3000, 16, 0, False)
    halves = [leaf.detach().bfloat16().requires_grad_() for leaf in (hidden, weight)]
    logits = torch.nn.functional.linear(*halves).double().log_softmax(-1)
    expected = logits.gather(1, targets[:, None]).squeeze(1)
    logprobs, _ = token_logprobs(halves[0], halves[1], targets, block_bytes=64 * 4 * 500)
    assert_close(logprobs, expected, 1e-5)
    ours = torch.autograd.grad(logprobs.mean(), halves)
    theirs = torch.autograd.grad(expected.mean(), halves)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.bfloat16
        assert_close(one / other.abs().max(), other / other.abs().max(), 0.02)


@pytest.mark.parametrize("entropy", [True, False])
def test_no_tokens(entropy: bool) -> None:
    """A rank without a row still takes part in the graph."""
    hidden, weight, _, _ = inputs(0, 30, 6, 0, False)
    logprobs, spread = token_logprobs(
        hidden, weight, torch.zeros(0, dtype=torch.long), entropy=entropy
    )
    assert logprobs.shape == spread.shape == (0,)
    grads = torch.autograd.grad(logprobs.sum(), [hidden, weight])
    assert [grad.shape for grad in grads] == [hidden.shape, weight.shape]
    assert not grads[1].any()


def test_memory_does_not_grow_with_the_vocabulary() -> None:
    """Nothing of tokens x vocabulary is made: the largest tensor is the weight's gradient."""
    hidden, weight, targets, _ = inputs(64, 20_000, 4, 0, False)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for one in out if isinstance(out, tuple | list) else [out]:
                if isinstance(one, Tensor):
                    largest = max(largest, one.numel())
            return out

    with Watch():
        logprobs, _ = token_logprobs(hidden, weight, targets, block_bytes=64 * 4 * 1000)
        logprobs.sum().backward()
    assert largest == weight.numel()


@given(
    block=st.sampled_from([4, 64, 1 << 20]),
    bias=st.booleans(),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    absent=st.sampled_from([((30, 40),), ((0, 3), (17, 18), (35, 40)), ((5, 39),)]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_ids_that_have_no_part(
    block: int, bias: bool, temperature: float, absent: tuple, seed: int
) -> None:
    """As if their rows were not there: values, entropies, and gradients, which are 0 at them."""
    hidden, weight, _, added = inputs(6, 40, 8, seed, bias)
    there = torch.tensor([i for i in range(40) if not any(a <= i < b for a, b in absent)])
    chosen = torch.randint(len(there), (6,), generator=torch.Generator().manual_seed(seed))
    ours = token_logprobs(
        hidden, weight, there[chosen], added, temperature, True, True, block, absent
    )
    leaves = [leaf for leaf in (hidden, weight, added) if leaf is not None]
    found = torch.autograd.grad(ours[0].sum() + 0.3 * ours[1].sum(), leaves)
    fewer = None if added is None else added[there]
    theirs = plainly(hidden, weight[there], chosen, fewer, temperature)
    wanted = torch.autograd.grad(theirs[0].sum() + 0.3 * theirs[1].sum(), leaves)
    for one, other in zip((*ours, *found), (*theirs, *wanted), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_a_stored_target_that_has_no_part_counts_as_itself(block: int) -> None:
    hidden, weight, _, _ = inputs(2, 40, 8, 0, False)
    found, entropy = token_logprobs(
        hidden, weight, torch.tensor([35, 3]), block_bytes=block, absent=((30, 40),)
    )
    logits = (hidden @ weight.T).detach()
    kept = torch.cat([logits[0, :30], logits[0, 35:36]]).log_softmax(-1)
    assert_close(found[0].detach(), kept[-1])
    assert_close(found[1].detach(), logits[1, :30].log_softmax(-1)[3])
    assert torch.isfinite(entropy).all()


@given(
    tokens=st.integers(1, 6),
    vocabulary=st.integers(5, 40),
    many=st.integers(1, 4),
    block=st.sampled_from([4, 64, 300, 1 << 20]),
    absent=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_several_targets_and_the_likeliest_tokens(
    tokens: int, vocabulary: int, many: int, block: int, absent: bool, seed: int
) -> None:
    """Of each distribution the logprobs of several tokens, one of them twice, with gradients; and
    the likeliest, among which none is that the tokenizer does not have."""
    hidden, weight, targets, _ = inputs(tokens, vocabulary, 5, seed, bias=False)
    gone = ((vocabulary - 2, vocabulary),) if absent else ()
    chance = torch.Generator().manual_seed(seed + 1)
    there = vocabulary - 2 * absent
    more = torch.randint(there, (tokens, many), generator=chance)
    asked = torch.cat([targets.clamp_max(there - 1)[:, None], more, more[:, :1]], 1)
    given_ = {"temperature": 1.3, "block_bytes": block, "absent": gone}
    logprobs, _ = token_logprobs(hidden, weight, asked, None, **given_)
    every = (hidden.double() @ weight.double().T)[:, :there].div(1.3).log_softmax(-1)
    wanted = every.gather(1, asked)
    assert_close(logprobs, wanted)
    upstream = torch.randn(asked.shape, generator=chance)
    leaves = [hidden, weight]
    ours = torch.autograd.grad((logprobs * upstream).sum(), leaves)
    theirs = torch.autograd.grad((wanted * upstream.double()).sum(), leaves)
    for mine, plain in zip(ours, theirs, strict=True):
        assert_close(mine, plain, 1e-4)
    ids, likeliest = top_logprobs(hidden, weight, many + 2, None, **given_)
    assert ids.shape == (tokens, min(many + 2, there))
    assert_close(likeliest, every.topk(ids.shape[1], dim=-1).values)
    assert_close(likeliest, every.gather(1, ids))
