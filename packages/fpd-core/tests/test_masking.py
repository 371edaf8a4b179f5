"""Eq. 1: exact counts, uniform places, nothing else touched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd_core.masking import initial_tokens, remask


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**16), ratio=st.floats(0, 1), length=st.integers(1, 40))
def test_remask_hides_exactly_the_requested_count(seed, ratio, length):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(9, (3, length), generator=generator)
    masked, is_masked = remask(tokens, ratio, 9, generator)
    wanted = max(1, int(ratio * length + 0.5))
    assert is_masked.sum(1).tolist() == [wanted] * 3
    assert torch.equal(masked == 9, is_masked)
    assert torch.equal(masked[~is_masked], tokens[~is_masked])


def test_remask_takes_one_ratio_per_sequence(rng):
    _, is_masked = remask(torch.zeros(3, 10, dtype=torch.long), torch.tensor([0.1, 0.5, 1.0]), 4, rng)
    assert is_masked.sum(1).tolist() == [1, 5, 10]


def test_every_place_is_hidden_equally_often(rng):
    _, is_masked = remask(torch.zeros(20_000, 8, dtype=torch.long), 0.25, 4, rng)
    torch.testing.assert_close(is_masked.float().mean(0), torch.full((8,), 0.25), rtol=0, atol=0.015)


def test_initial_tokens_mix_exact_masks_with_uniform_codes(rng):
    tokens = initial_tokens(4000, 10, 5, 7, 0.6, rng)
    assert (tokens == 7).sum(1).unique().tolist() == [6]
    codes = tokens[tokens != 7]
    shares = codes.bincount(minlength=5) / len(codes)
    assert codes.max() == 4
    torch.testing.assert_close(shares, torch.full((5,), 0.2), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("length", "ratio", "count"), [(256, 0.6, 154), (256, 0.9, 230), (128, 0.9, 115), (64, 1.0, 64)]
)
def test_published_mask_counts(length, ratio, count):
    assert int((initial_tokens(1, length, 5, 5, ratio) == 5).sum()) == count


def test_equal_generators_give_equal_masks():
    a, b = (initial_tokens(3, 20, 5, 5, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.1])
def test_initial_ratio_out_of_range(ratio):
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        initial_tokens(1, 4, 5, 5, ratio)


def test_a_mask_id_that_is_a_code_is_refused():
    with pytest.raises(ValueError, match="one of the 5 codes"):
        initial_tokens(1, 4, 5, 4, 0.5)


@pytest.mark.parametrize("ratio", [1.5, torch.tensor([0.5, -0.5])])
def test_remask_ratio_out_of_range(ratio):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        remask(torch.zeros(2, 4, dtype=torch.long), ratio, 4)


def test_remask_ratio_of_another_batch():
    with pytest.raises(ValueError, match="batch holds 2"):
        remask(torch.zeros(2, 4, dtype=torch.long), torch.tensor([0.5, 0.5, 0.5]), 4)
