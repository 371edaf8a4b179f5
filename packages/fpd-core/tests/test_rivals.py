"""The rivals' algorithms against oracles of their own: enumeration, autograd, and the traps that are easy to fall into.

Parity with the official programs is in fpd-train's test_rivals_parity.py.
"""

import inspect

import pytest
import torch

from fpd_core.rivals import dimo

DOUBLE = torch.float64
MASK = 7  # K = 7 codes


def smoothed(p, amount):
    return (1 - amount) * p + amount / p.shape[-1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dimo_leaves_a_perfect_student_alone_where_the_auxiliary_is_smoothed_as_the_teacher_was(rng, smoothing):
    """A teacher fitted with smoothed labels to the law p, and a student that draws from p: the auxiliary's expected
    loss has no gradient at the teacher's own logits, and there the generator has none either."""
    p = torch.randn(1, 1, 7, generator=rng, dtype=DOUBLE).softmax(-1)
    teacher = smoothed(p, smoothing).log()
    here = torch.ones(1, 1, dtype=torch.bool)

    def expected_gradient(auxiliary_smoothing):
        logits = teacher.clone().requires_grad_()
        losses = [
            dimo.auxiliary_loss(logits, torch.tensor([[k]]), here, teacher_smoothing=auxiliary_smoothing).loss
            for k in range(7)
        ]
        return torch.autograd.grad((torch.stack(losses) * p.flatten()).sum(), logits)[0]

    assert expected_gradient(smoothing).abs().max() < 1e-14
    assert expected_gradient(0.1 - smoothing).abs().max() > 1e-3
    assert dimo.surrogate(teacher, teacher, here, beta=-0.2).abs().max() < 1e-14


def test_dimo_never_smooths_unasked():
    assert inspect.signature(dimo.auxiliary_loss).parameters["teacher_smoothing"].default is inspect.Parameter.empty


@pytest.mark.parametrize("beta", [-0.2, 0.0, 1.0])
def test_the_surrogate_is_the_gradient_of_the_jeffreys_divergence(rng, beta):
    z = torch.randn(2, 3, 7, generator=rng, dtype=DOUBLE, requires_grad=True)
    teacher = torch.randn(2, 3, 7, generator=rng, dtype=DOUBLE)
    is_masked = torch.tensor([[True, False, True], [False, True, False]])
    a, t = torch.distributions.Categorical(logits=z), torch.distributions.Categorical(logits=teacher)
    forward, reverse = torch.distributions.kl_divergence(t, a), torch.distributions.kl_divergence(a, t)
    wanted = torch.autograd.grad((((1 - beta) * forward + beta * reverse) * is_masked).sum(), z)[0]
    found = dimo.surrogate(z, teacher, is_masked, beta)
    assert not found.requires_grad
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_the_generator_loss_is_a_sum_over_positions_whose_gradient_is_exact_in_bfloat16():
    """Logits of 40 have a spacing of 0.25 in bfloat16: z - (z - G) would lose G."""
    z = torch.full((2, 3, 7), 40.0, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.full((2, 3, 7), 1e-3)
    loss = dimo.generator_loss(z, gradient)
    assert loss.item() == pytest.approx(0.5 * 42 * 1e-6 / 2, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(z.grad.float(), gradient / 2, rtol=1e-2, atol=0)
