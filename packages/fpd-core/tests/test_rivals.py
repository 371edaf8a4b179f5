"""The rivals' algorithms against oracles of their own: enumeration, autograd, and the traps that are easy to fall into.

Parity with the official programs is in fpd-train's test_rivals_parity.py.
"""

import inspect

import pytest
import torch

from fpd_core.rivals import di4c, dimo, dmmd, redi, sdtt

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


def test_the_generator_loss_is_a_sum_over_positions_that_keeps_small_gradients_of_large_logits():
    """Logits of 40 are 4e-6 apart in float32: z - (z - G) would lose G's digits from the third on."""
    z = torch.full((2, 3, 7), 40.0, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.full((2, 3, 7), 1e-3)
    loss = dimo.generator_loss(z, gradient)
    assert loss.item() == pytest.approx(0.5 * 42 * 1e-6 / 2, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(z.grad.float(), gradient / 2, rtol=1e-2, atol=0)


def double(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=DOUBLE)


def test_di4c_asks_nothing_of_positions_that_do_not_count(rng):
    """A teacher trained on masked positions alone says anything about visible tokens: the loss must not hear it."""
    positions = torch.tensor([[True, False, True, False], [False, True, True, True]])
    student, teacher, partial = double(rng, 2, 3, 4, 7), double(rng, 2, 4, 7), double(rng, 2, 3, 4, 7)
    draws = torch.randint(7, (2, 3, 4), generator=rng)
    clean = torch.randint(7, (2, 4), generator=rng)
    r = torch.tensor([0.3, 0.99], dtype=DOUBLE)  # consistency, distillation

    def run(z, t, q):
        z = z.clone().requires_grad_()
        weights = di4c.data_weight(r)
        found = di4c.di4c_loss(z, t, q, draws, clean, r, positions=positions, data_weights=weights)
        return found.loss, torch.autograd.grad(found.loss, z)[0]

    def elsewhere(logits):
        where = positions[:, None, :, None] if logits.ndim == 4 else positions[..., None]
        return torch.where(where, logits, double(rng, *logits.shape))

    loss, gradient = run(student, teacher, partial)
    other, other_gradient = run(elsewhere(student), elsewhere(teacher), elsewhere(partial))
    assert loss.item() == other.item()
    assert torch.equal(gradient, other_gradient)
    assert (gradient.abs().sum((1, 3)) > 0).equal(positions)


def test_redi_asks_nothing_of_positions_that_do_not_count(rng):
    positions = torch.tensor([[True, False, True], [False, True, True]])
    target = torch.randint(7, (2, 3), generator=rng)
    z = double(rng, 2, 3, 7)
    other = torch.where(positions[..., None], z, double(rng, 2, 3, 7)).requires_grad_()
    losses = [
        redi.pair_loss(logits, target, positions, target, positions=positions, mask_id=MASK).loss
        for logits in (z, other)
    ]
    assert losses[0].item() == losses[1].item()
    (gradient,) = torch.autograd.grad(losses[1], other)
    assert (gradient.abs().sum(2) > 0).equal(positions)


@pytest.mark.parametrize("function", [di4c.di4c_loss, redi.pair_loss])
def test_which_positions_count_is_never_taken_for_granted(function):
    assert inspect.signature(function).parameters["positions"].default is inspect.Parameter.empty


def test_accumulated_micro_batches_of_redi_are_the_batch(rng):
    """The released program clears the first micro-batch's gradient: half of the second is left."""
    everywhere = torch.ones(4, 3, dtype=torch.bool)
    target, z = torch.randint(7, (4, 3), generator=rng), double(rng, 4, 3, 7)
    bias = torch.zeros(3, 7, dtype=DOUBLE, requires_grad=True)

    def loss(rows):
        here, wanted = everywhere[rows], target[rows]
        return redi.pair_loss(z[rows] + bias, wanted, here, wanted, positions=here, mask_id=MASK).loss

    for rows in (slice(0, 2), slice(2, 4)):
        (loss(rows) / 2).backward()
    whole = torch.autograd.grad(loss(slice(0, 4)), bias)[0]
    torch.testing.assert_close(bias.grad, whole, rtol=1e-12, atol=1e-15)


def test_sdtt_steps_are_each_of_size_delta():
    """Three steps of 1/8 from 0.9, and from 0.2, where the third finds nothing left."""
    steps = sdtt.step_times(torch.tensor([0.9, 0.2], dtype=DOUBLE), 1 / 8, 3)
    now, then = torch.stack([s.now for s in steps]), torch.stack([s.then for s in steps])
    end = 1e-5
    wanted = torch.tensor([[0.9, 0.2], [0.775, 0.075], [0.65, end], [0.525, end]], dtype=DOUBLE)
    torch.testing.assert_close(now, wanted[:3])
    torch.testing.assert_close(then, wanted[1:])


def test_sdtt_reveals_a_share_of_delta_over_the_time(rng):
    """One step from τ keeps (τ - δ)/τ of the masks, n steps (t - nδ)/t, whatever the network says."""
    time, step = torch.tensor([0.9, 0.5], dtype=DOUBLE), 1 / 8
    kept = torch.ones(2, dtype=DOUBLE)
    for one in sdtt.step_times(time, step, 3):
        weights = sdtt.step_weights(double(rng, 2, 4, 7).log_softmax(-1), one, MASK)
        stay = (weights[..., -1] / weights.sum(-1))[:, 0]
        torch.testing.assert_close(stay, (one.now - step) / one.now)
        kept = kept * stay
    torch.testing.assert_close(kept, (time - 3 * step) / time)


@pytest.mark.parametrize("divergence", ["kl-bwd", "kl-fwd"])
def test_sdtt_is_the_same_for_networks_that_score_the_mask_and_those_that_do_not(rng, divergence):
    tokens = torch.tensor([[MASK, 3, MASK, 0]])
    # table[token] is what a token adds to the logits of each position
    student, table = double(rng, 1, 4, 8), double(rng, 8, 4, 8)
    steps = sdtt.step_times(torch.tensor([0.8], dtype=DOUBLE), 0.25, 2)
    uniforms = [torch.rand(1, 4, 8, generator=rng, dtype=DOUBLE) for _ in steps]

    def loss(columns):
        target = sdtt.teacher_target(lambda x: table[x].sum(1)[..., :columns], tokens, steps, uniforms, MASK)
        log_student = sdtt.log_probabilities(student[..., :columns], tokens, MASK)
        return sdtt.distil_loss(log_student, target.log_p, tokens == MASK, divergence).item()

    assert loss(7) == pytest.approx(loss(8), rel=1e-12)


def test_dmmd_is_dimo_at_beta_one_where_student_and_auxiliary_agree(rng):
    z, teacher = double(rng, 2, 3, 7).requires_grad_(), double(rng, 2, 3, 7)
    is_masked = torch.tensor([[True, False, True], [False, True, False]])
    losses = dmmd.generator_losses(z, z, teacher, is_masked)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    torch.testing.assert_close(gradient, dimo.surrogate(z, teacher, is_masked, beta=1.0), rtol=1e-12, atol=1e-14)


def test_dmmds_auxiliary_takes_one_kind_of_target(rng):
    z, here = double(rng, 1, 2, 7), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="give one of them"):
        dmmd.auxiliary_losses(z, z, here)
