"""The microscope's laws are those of the code, and the facts about fixed points that they show."""

import pytest
import torch
from microscope import (
    FORMS,
    MASKED,
    ExactTeacher,
    IdentityLift,
    at_rest,
    distilled,
    gradients,
    hidden,
    hidden_by,
    one_step_law,
    outward,
    sampled,
    second_eigenvalue,
    stationary,
    tilted,
    total_variation,
    transition,
)

from fpd_core.masking import initial_tokens
from fpd_core.objective import ObjectiveConfig, draw_target, fixed_point_loss
from fpd_core.refine import RemaskConfig, refine
from fpd_core.ste import sample_tokens

DRAWS = 60_000  # leave a total variation of about 0.01 over 81 states
SIX = [ExactTeacher(seed=seed) for seed in range(5)]


def found(teacher, tokens):
    places = teacher.mask_id ** torch.arange(teacher.seq_len - 1, -1, -1)
    return torch.bincount(tokens @ places, minlength=len(teacher.states)).double() / len(tokens)


@pytest.mark.parametrize(("passes", "guidance"), [(1, 1.0), (1, 2.0), (2, 1.0), (3, 1.5), (4, 1.0)])
def test_the_enumeration_is_the_law_of_refine(passes, guidance):
    """Three codes, four tokens, ratios drawn from a clamped π: our code against the matrix, class 1."""
    teacher, rng = ExactTeacher(4, 3, seed=1), torch.Generator().manual_seed(2)
    law = RemaskConfig(clamp=(0.2, 0.9), passes=passes)
    draft = torch.tensor([1, 0, 2, 1]).expand(DRAWS, -1)
    ratio = law.draw(DRAWS, torch.device("cpu"), rng)
    condition = teacher.condition([1] * DRAWS)
    refined = refine(teacher, draft, condition, ratio, guidance_scale=guidance, passes=passes, generator=rng)
    row = int((teacher.states == draft[0]).all(1).nonzero())
    expected = transition(teacher, 1, hidden_by(teacher, law, guidance), passes)[row]
    assert float(expected.sum()) == pytest.approx(1)
    assert total_variation(found(teacher, refined.tokens), expected) < 0.016


@pytest.mark.parametrize("times", [1, 2, 3])
def test_refinements_in_a_row_are_the_matrix_as_often(times):
    """The target of the loss after n refinements, each at an r of its own: the n-th power, and its fixed point."""
    teacher, rng = ExactTeacher(4, 3, seed=1), torch.Generator().manual_seed(2)
    config = ObjectiveConfig(refinements=times, remask=RemaskConfig(clamp=(0.2, 0.6)), guidance_scale=1.5)
    draft = torch.tensor([1, 0, 2, 1]).expand(DRAWS, -1)
    target = draw_target(teacher, teacher.condition([1] * DRAWS), draft, config, generator=rng)
    row = int((teacher.states == draft[0]).all(1).nonzero())
    once = transition(teacher, 1, hidden_by(teacher, config.remask, 1.5))
    expected = torch.linalg.matrix_power(once, times)
    assert total_variation(found(teacher, target.tokens), expected[row]) < 0.016
    assert total_variation(found(teacher, target.tokens), torch.linalg.matrix_power(once, times + 1)[row]) > 0.05
    assert total_variation(stationary(expected), stationary(once)) < 1e-9
    single = config.remask.at(torch.rand(DRAWS, generator=rng))
    assert float(target.mask_ratio.mean()) == pytest.approx(float(single.mean()), abs=5e-3)
    assert float(target.mask_ratio.std()) == pytest.approx(float(single.std()) / times**0.5, rel=0.05)


def test_the_one_step_law_is_what_the_student_draws():
    teacher, rng = ExactTeacher(4, 3, seed=1), torch.Generator().manual_seed(2)
    z_init = initial_tokens(DRAWS, 4, 3, 3, 0.5, rng)
    drawn = sample_tokens(teacher.logits(z_init, teacher.condition([0] * DRAWS)), generator=rng)
    assert total_variation(found(teacher, drawn), one_step_law(teacher.network, teacher, 0, 0.5)) < 0.016


def test_the_conditionals_are_those_of_the_joint():
    """By summing the joint itself, one pattern at a time."""
    teacher = SIX[0]
    for pattern in teacher.patterns[[0, 100, 500, 728]]:
        fits = ((teacher.states == pattern) | (pattern == teacher.mask_id)).all(1)
        probabilities = teacher.logits(pattern[None], teacher.condition([1]))[0].softmax(-1)
        for place in (pattern == teacher.mask_id).nonzero()[:, 0].tolist():
            ones = teacher.law[1][fits & (teacher.states[:, place] == 1)].sum() / teacher.law[1][fits].sum()
            assert float(probabilities[place, 1]) == pytest.approx(float(ones), abs=1e-12)


def alone(n):
    return [float(i == n) for i in range(1, 7)]


def ends(weights, passes):
    """Means over the tables: (TV of the fixed point, λ₂)."""
    matrices = [(t, transition(t, 0, hidden(t, weights), passes)) for t in SIX]
    pairs = [(total_variation(stationary(matrix), t.law[0]), second_eigenvalue(matrix)) for t, matrix in matrices]
    return torch.tensor(pairs, dtype=torch.float64).mean(0).tolist()


# Of other random tables of the same kind, mean of five: n hidden of 6, then n uniform on 1..6.
PUBLISHED = {1: [0.0, 0.040, 0.098, 0.186, 0.322, 0.508, 0.245], 2: [0.0, 0.0, 0.037, 0.063, 0.145, 0.203, 0.099]}


@pytest.mark.parametrize("passes", [1, 2])
def test_the_fixed_point_errs_more_the_more_is_hidden_at_once(passes):
    errors = [ends(alone(n), passes)[0] for n in range(1, 7)]
    assert all(error < 1e-9 for error in errors[:passes])
    assert all(a < b for a, b in zip(errors[passes - 1 :], errors[passes:], strict=False))
    uniform = ends([1.0] * 6, passes)[0]
    for error, published in zip([*errors, uniform], PUBLISHED[passes], strict=True):
        assert abs(error - published) <= 0.3 * published + 1e-9


def test_all_hidden_is_the_teachers_sampler_and_forgets_at_once():
    for passes in (1, 2, 3, 6):
        error, second = ends(alone(6), passes)
        assert error == pytest.approx(sum(total_variation(sampled(t, 0, passes), t.law[0]) for t in SIX) / 5, abs=1e-9)
        assert second < 1e-3
    assert error < 1e-9  # six passes draw from the teacher itself


def test_small_shares_remember():
    seconds = [ends(alone(n), 1)[1] for n in range(1, 7)]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] == pytest.approx(0.97, abs=0.03)


def test_a_narrower_law_ends_nearer():
    errors = [ends([float(n <= top) for n in range(1, 7)], 1)[0] for top in (6, 4, 3, 2)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.15 * errors[0]


@pytest.mark.parametrize("guidance", [1.5, 2.0, 3.0])
def test_guided_one_token_refills_leave_the_tilted_law(guidance):
    for teacher in SIX:
        end, tilt = (
            stationary(transition(teacher, 0, hidden(teacher, alone(1), guidance))),
            tilted(teacher, 0, guidance),
        )
        assert total_variation(end, tilt) < 1e-9
        assert total_variation(sampled(teacher, 0, 6, guidance), tilt) > 1e-3


def test_training_moves_the_students_law_to_its_fixed_point():
    teacher = ExactTeacher(4, 2, seed=0)
    config = ObjectiveConfig.model_validate(MASKED | {"init_mask_ratio": 0.5})
    end = stationary(transition(teacher, 0, hidden_by(teacher, config.remask, 1.0)))
    student = distilled(teacher, config, drafts=16, batch=64, steps=150, seed=0)
    before, after = (total_variation(one_step_law(s, teacher, 0, 0.5), end) for s in (teacher.network, student))
    assert after < 0.7 * before


# Measured independently, standard error 0.01: (weighting, ρ) -> the published form's share at h = 0.02, 0.05, 0.2.
PUBLISHED_FORCE = {
    ("plain", 0.5): (-0.44, -0.28, 0.00),
    ("plain", 0.9): (-0.23, -0.22, 0.53),
    ("cross", 0.5): (0.17, 0.28, 0.26),
    ("cross", 0.9): (0.88, 0.86, 0.87),
}


@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_the_force_at_rest_is_the_published_one_and_none_once_the_own_target_is_hidden(correlation):
    x, y = at_rest(correlation, 100)
    for form in FORMS:
        shares = [outward(x, y, h, form) for h in (0.02, 0.05, 0.2)]
        if form["own_target"] == "mask":
            assert shares == pytest.approx([0, 0, 0], abs=0.05), form
        elif form["normalisation"] == "joint":
            assert shares == pytest.approx(PUBLISHED_FORCE[form["weighting"], correlation], abs=0.05), form
        else:
            assert max(map(abs, shares)) > 0.15, form


@pytest.mark.parametrize("estimator", ["straight_through", "soft"])
def test_the_enumerated_gradient_is_the_mean_of_our_loss_over_batches(estimator):
    teacher, rng = ExactTeacher(2, 2, seed=0), torch.Generator().manual_seed(3)
    leaf = torch.tensor([[1.0, 0.0], [0.2, -0.5]], dtype=torch.float64, requires_grad=True)
    config = ObjectiveConfig(init_mask_ratio=1.0, guidance_scale=1.0, estimator=estimator)
    lift, condition = IdentityLift(teacher), teacher.condition([0, 0])

    def student(tokens, labels):
        return leaf.expand(len(tokens), -1, -1)

    for _ in range(1500):
        fixed_point_loss(student, teacher, lift, condition, config, generator=rng).loss.backward()
    expected = gradients(teacher, leaf.detach(), config, 2)[estimator]
    torch.testing.assert_close(leaf.grad / 1500, expected, rtol=0.15, atol=0.1 * float(expected.abs().max()))
