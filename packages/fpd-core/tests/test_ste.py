"""Eq. 8 against the hand-written softmax Jacobian, finite differences and exact equality."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd_core.ste import sample_tokens, soft_embedding, straight_through


def test_backward_is_the_softmax_jacobian():
    """d(e.v)/d logit_k = p_k (E_k.v - p.(E v)), written out by hand in float64."""
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 6, dtype=torch.float64, requires_grad=True)
    codebook, v = torch.randn(6, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    straight_through(logits, torch.tensor([[2]]), codebook).matmul(v).sum().backward()
    p, score = logits.detach().softmax(-1).flatten(), codebook @ v
    torch.testing.assert_close(logits.grad.flatten(), p * (score - p @ score), rtol=1e-12, atol=1e-14)


def test_gradient_equals_finite_differences_of_the_soft_embedding():
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    codebook, v = torch.randn(5, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    (straight_through(logits, torch.zeros(2, 3, dtype=torch.long), codebook) * v).sum().backward()
    step, flat = 1e-6, logits.detach().flatten()

    def value(point):
        return ((point.view(2, 3, 5).softmax(-1) @ codebook) * v).sum()

    for k in range(len(flat)):
        nudge = torch.zeros_like(flat)
        nudge[k] = step
        slope = (value(flat + nudge) - value(flat - nudge)) / (2 * step)
        torch.testing.assert_close(logits.grad.flatten()[k], slope, rtol=1e-6, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_forward_is_exactly_the_codebook(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 16, generator=generator) * 30
    codebook = torch.randn(16, 4, generator=generator).to(dtype)
    tokens = torch.randint(16, (2, 5), generator=generator)
    assert torch.equal(straight_through(logits, tokens, codebook), codebook[tokens])


def test_soft_embedding_of_a_certain_student_is_its_code():
    codebook = torch.randn(7, 3)
    logits = torch.full((1, 2, 7), -1e4)
    logits[0, 0, 3] = logits[0, 1, 6] = 1e4
    torch.testing.assert_close(soft_embedding(logits, codebook)[0], codebook[[3, 6]])


def test_bfloat16_logits_are_softmaxed_in_float32():
    logits = torch.zeros(1, 1, 4096, dtype=torch.bfloat16)
    codebook = torch.ones(4096, 1)
    torch.testing.assert_close(soft_embedding(logits, codebook), torch.ones(1, 1, 1), rtol=1e-5, atol=0)


def test_a_codebook_of_another_size_is_refused():
    with pytest.raises(ValueError, match="8 codes, the codebook holds 7"):
        straight_through(torch.zeros(1, 1, 8), torch.zeros(1, 1, dtype=torch.long), torch.zeros(7, 2))


def test_tokens_follow_the_softmax():
    p = torch.tensor([0.1, 0.2, 0.7])
    tokens = sample_tokens(p.log().expand(4, 5000, 3), generator=torch.Generator().manual_seed(0))
    shares = tokens.flatten().bincount(minlength=3) / tokens.numel()
    torch.testing.assert_close(shares, p, rtol=0, atol=0.01)


def test_low_temperature_is_greedy_and_wrong_temperature_refused():
    logits = torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample_tokens(logits, 1e-4), logits.argmax(-1))
    with pytest.raises(ValueError, match="positive"):
        sample_tokens(logits, 0.0)
