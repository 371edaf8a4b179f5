"""Eq. 5: the teacher refills what was hidden and touches nothing else."""

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
