"""Eq. 5: the teacher refills what was hidden and touches nothing else."""

import math
from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd_core.refine import RemaskConfig, refine


def test_visible_tokens_stay(teacher, rng):
    draft = torch.randint(12, (3, 64), generator=rng)
    refined = refine(teacher, draft, teacher.condition([0, 1, 2]), 0.3, guidance_scale=2.0, generator=rng)
    assert refined.is_masked.sum(1).tolist() == [19, 19, 19]
    assert torch.equal(refined.tokens[~refined.is_masked], draft[~refined.is_masked])
    assert refined.tokens.max() < 12


def test_refilled_tokens_come_from_the_guided_teacher(teacher, rng):
    """A teacher that is certain leaves no choice, whatever the draft was."""
    draft = torch.randint(12, (2, 64), generator=rng)

    def certain(tokens, condition, **options):
        assert (tokens == teacher.mask_id).sum() == 2 * 64
        logits = torch.zeros(2, 64, 12)
        # guided = u + 3 (c - u): code 4 wins only with guidance above 1
        if condition.labels[0] == teacher.num_classes:
            logits[..., 4], logits[..., 5] = 10, 40
        else:
            logits[..., 4], logits[..., 5] = 40, 41
        return logits * 5

    teacher.logits = certain
    refined = refine(teacher, draft, teacher.condition([0, 1]), 1.0, guidance_scale=3.0, generator=rng)
    assert torch.equal(refined.tokens, torch.full((2, 64), 4))


def test_nothing_carries_a_gradient(teacher, rng):
    for parameter in teacher.network.parameters():
        parameter.requires_grad_(True)
    refined = refine(teacher, torch.zeros(1, 64, dtype=torch.long), teacher.condition([0]), 0.5, guidance_scale=2.0)
    assert not refined.tokens.is_floating_point()
    assert all(p.grad is None for p in teacher.network.parameters())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), low=st.just(0) | st.floats(1e-6, 0.5), width=st.floats(0.01, 0.5))
def test_ratios_stay_in_the_clamp(seed, low, width):
    law = RemaskConfig(clamp=(low, low + width))
    ratio = law.draw(100, torch.device("cpu"), torch.Generator().manual_seed(seed))
    assert ratio.min() >= low - 1e-6
    assert ratio.max() <= low + width + 1e-6


def test_a_reversed_clamp_is_refused():
    with pytest.raises(ValueError, match="ordered"):
        RemaskConfig(clamp=(0.9, 0.1))


FIVE = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.95])


def test_the_share_moves_from_start_to_end_quantile_by_quantile():
    """arccos falls with u, the linear law rises: halfway, the smallest share is the mean of both smallest ones."""
    law = RemaskConfig(clamp=(0.1, 0.9), end={"schedule": "linear", "clamp": (0.1, 0.4)})
    start = (2 / math.pi * FIVE.arccos()).clamp(0.1, 0.9)
    end = (1 - FIVE).clamp(0.1, 0.4)
    for progress in (0.0, 0.25, 0.5, 1.0):
        torch.testing.assert_close(law.at_progress(FIVE, progress), (1 - progress) * start + progress * end)


def test_the_share_holds_before_it_moves():
    law = RemaskConfig(schedule="linear", hold=0.6, end={"schedule": "linear", "clamp": (0.05, 0.2)})
    start, end = FIVE.clamp(0.05, 0.95), FIVE.clamp(0.05, 0.2)
    for progress, moved in ((0.0, 0.0), (0.6, 0.0), (0.8, 0.5), (1.0, 1.0)):
        torch.testing.assert_close(law.at_progress(FIVE, progress), start + moved * (end - start))


def test_a_law_without_an_end_ignores_progress():
    draws = [RemaskConfig().draw(9, torch.device("cpu"), torch.Generator().manual_seed(1), p) for p in (0.0, 0.9)]
    assert torch.equal(*draws)


def test_the_moving_law_draws_the_uniforms_of_the_fixed_one():
    moving = RemaskConfig(end={"clamp": (0.05, 0.2)})
    pair = [law.draw(9, torch.device("cpu"), torch.Generator().manual_seed(1)) for law in (RemaskConfig(), moving)]
    assert torch.equal(*pair)


@pytest.mark.parametrize("clamp", [(0.0, 0.0), (0.1, 1.5), (-0.1, 0.5), (0.5, 0.2)])
def test_an_end_outside_its_range_is_refused(clamp):
    with pytest.raises(ValueError, match="clamp"):
        RemaskConfig(end={"clamp": clamp})


def test_a_hold_before_no_end_is_refused():
    with pytest.raises(ValueError, match=r"hold 0\.5 delays the way to an end, and end is null"):
        RemaskConfig(hold=0.5)


def test_passes_above_the_hidden_tokens_are_refused():
    RemaskConfig(clamp=(0.1, 0.5), passes=32).check_passes(64)
    RemaskConfig(clamp=(0.1, 0.2), end={"clamp": (0.1, 0.5)}, passes=32).check_passes(64)
    with pytest.raises(ValueError, match=r"passes 33 is above the 32 of 64 tokens that π hides at most"):
        RemaskConfig(clamp=(0.1, 0.5), passes=33).check_passes(64)


class ExactTeacher:
    """Exact conditionals of a known joint law over binary tokens, behind what `refine` asks of a teacher."""

    mask_id = 2

    def __init__(self, length, seed):
        generator = torch.Generator().manual_seed(seed)
        couplings = torch.randn(length, length, generator=generator, dtype=torch.float64).triu(1) * 1.5
        self.states = torch.cartesian_prod(*[torch.arange(2)] * length)
        spins = 2.0 * self.states.double() - 1
        self.law = torch.einsum("ni,ij,nj->n", spins, couplings, spins).softmax(0)
        self.forwards = 0

    def conditional(self, tokens):
        """[L, 2] probabilities of every token given the visible ones."""
        visible = tokens != self.mask_id
        fits = (self.states[:, visible] == tokens[visible]).all(1)
        weight = self.law * fits
        ones = (weight[:, None] * self.states).sum(0) / weight.sum()
        return torch.stack([1 - ones, ones], dim=1)

    def guided_logits(self, tokens, condition, guidance_scale):
        self.forwards += 1
        rows, inverse = tokens.unique(dim=0, return_inverse=True)
        return torch.stack([self.conditional(row) for row in rows])[inverse].clamp_min(1e-30).log()


def exact_law(teacher, tokens, passes):
    """Law of the states after refilling `tokens` in `passes` of random order, by enumerating every order."""
    hidden = [i for i, token in enumerate(tokens.tolist()) if token == teacher.mask_id]
    if not hidden:
        return (teacher.states == tokens).all(1).double()
    kept = -(-len(hidden) // passes)
    found, groups = torch.zeros(len(teacher.states), dtype=torch.float64), list(combinations(hidden, kept))
    probabilities = teacher.conditional(tokens)
    for group in groups:
        for codes in product((0, 1), repeat=kept):
            chosen = tokens.clone()
            chosen[list(group)] = torch.tensor(codes)
            weight = math.prod(float(probabilities[i, code]) for i, code in zip(group, codes, strict=True))
            found += weight / len(groups) * exact_law(teacher, chosen, passes - 1)
    return found


@pytest.mark.parametrize(("hidden", "passes"), [(4, 1), (4, 2), (3, 2), (4, 3), (4, 4), (2, 4)])
def test_refills_follow_the_law_of_their_passes(hidden, passes):
    """Against every order and every outcome enumerated; 40,000 draws leave a total variation of about 0.01."""
    teacher, rng = ExactTeacher(4, seed=3), torch.Generator().manual_seed(5)
    draws = 40_000
    draft = torch.tensor([1, 0, 0, 1]).expand(draws, -1)
    refined = refine(teacher, draft, None, hidden / 4, guidance_scale=1.0, passes=passes, generator=rng)
    assert teacher.forwards == passes
    found = torch.bincount(refined.tokens @ torch.tensor([8, 4, 2, 1]), minlength=16).double() / draws
    places = list(combinations(range(4), hidden))
    expected = sum(
        exact_law(teacher, draft[0].index_fill(0, torch.tensor(place), teacher.mask_id), passes) for place in places
    ) / len(places)
    assert 0.5 * (found - expected).abs().sum() < 0.015


def test_one_token_a_pass_draws_from_the_teacher_itself():
    """As many passes as tokens are ancestral sampling: exact; one pass is not, by far."""
    teacher, whole = ExactTeacher(4, seed=3), torch.full((4,), ExactTeacher.mask_id)
    assert 0.5 * (exact_law(teacher, whole, 4) - teacher.law).abs().sum() < 1e-12
    assert 0.5 * (exact_law(teacher, whole, 1) - teacher.law).abs().sum() > 0.2


def test_confidence_keeps_the_surest_tokens_first(teacher, rng):
    """Code i mod 12 is certain at the first half of the places; their tokens are visible in the second pass."""
    seen = []

    def sure_of_the_first_half(tokens, condition, **options):
        seen.append(tokens[0] == teacher.mask_id)
        logits = torch.zeros(1, 64, 12)
        logits[0, :32] = 60.0 * torch.nn.functional.one_hot(torch.arange(32) % 12, 12)
        return logits

    teacher.logits = sure_of_the_first_half
    draft = torch.randint(12, (1, 64), generator=rng)
    options = {"guidance_scale": 1.0, "passes": 2, "order": "confidence", "generator": rng}
    refined = refine(teacher, draft, teacher.condition([0]), 1.0, **options)
    assert refined.tokens[0, :32].tolist() == [i % 12 for i in range(32)]
    assert seen[0].all()
    assert seen[-1].tolist() == [False] * 32 + [True] * 32


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_several_passes_touch_only_what_was_hidden(teacher, rng, order):
    draft = torch.randint(12, (3, 64), generator=rng)
    ratio = torch.tensor([0.02, 0.3, 1.0])
    options = {"guidance_scale": 2.0, "passes": 5, "order": order, "generator": rng}
    refined = refine(teacher, draft, teacher.condition([0, 1, 2]), ratio, **options)
    assert refined.is_masked.sum(1).tolist() == [1, 19, 64]
    assert torch.equal(refined.tokens[~refined.is_masked], draft[~refined.is_masked])
    assert refined.tokens.max() < 12


@pytest.mark.parametrize("passes", [0, 65])
def test_no_pass_and_more_than_the_tokens_are_refused(teacher, passes):
    draft = torch.zeros(1, 64, dtype=torch.long)
    with pytest.raises(ValueError, match=f"passes must be at least 1 and at most the 64 tokens, got {passes}"):
        refine(teacher, draft, teacher.condition([0]), 0.5, guidance_scale=1, passes=passes)
