"""Ranks that share their draws take together what one generator draws for the whole batch."""

import pytest
import torch
from torch import nn

from fpd_core.draws import categorical, integers, normal, shared, uniform, with_drafts
from fpd_core.masking import initial_tokens


def seed(number):
    return torch.Generator().manual_seed(number)


def ranks(world, drafts=1):
    return [with_drafts(shared(seed(100 + rank), seed(7), rank, world), drafts) for rank in range(world)]


PROBABILITIES = torch.rand(6, 4, 5, generator=seed(1)).softmax(-1)
DRAWS = {
    "uniform": lambda generator, rows: uniform(len(rows), 3, generator=generator),
    "second dimension": lambda generator, rows: uniform(2, len(rows), generator=generator, batch=1).T,
    "normal": lambda generator, rows: normal(torch.empty(len(rows), 3), generator),
    "integers": lambda generator, rows: integers(-4, 9, len(rows), 3, generator=generator),
    "categorical": lambda generator, rows: categorical(PROBABILITIES[rows], generator),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("world", "drafts"), [(2, 1), (3, 1), (3, 2)])
def test_sample_by_sample_two_or_three_ranks_draw_what_one_does(draw, world, drafts):
    """The places are counted by hand: condition n goes to rank n mod world, with all its drafts."""
    one = seed(7)
    DRAWS[draw](one, range(6))  # the second draw goes on where the first ended
    whole = DRAWS[draw](one, range(6))
    for rank, generator in enumerate(ranks(world, drafts)):
        rows = [row for row in range(6) if row // drafts % world == rank]
        DRAWS[draw](generator, rows)
        assert torch.equal(DRAWS[draw](generator, rows), whole[rows])


def test_what_is_not_shared_differs_between_ranks_and_leaves_the_shared_draws_alone():
    first, second = ranks(2)
    assert not torch.equal(torch.rand(4, generator=first), torch.rand(4, generator=second))
    assert torch.equal(uniform(3, generator=first), uniform(6, generator=seed(7))[0::2])


def test_a_state_brings_both_streams_back():
    generator = ranks(2)[1]
    torch.rand(3, generator=generator), uniform(3, generator=generator)
    state = generator.get_state()
    drawn = torch.rand(3, generator=generator), uniform(3, generator=generator)
    generator.set_state(state)
    assert torch.equal(torch.rand(3, generator=generator), drawn[0])
    assert torch.equal(uniform(3, generator=generator), drawn[1])


def test_categorical_draws_are_those_of_multinomial():
    expected = torch.multinomial(PROBABILITIES.flatten(0, 1), 1, generator=seed(3)).view(6, 4)
    assert torch.equal(categorical(PROBABILITIES, seed(3)), expected)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -0.1])
def test_no_draw_from_what_is_no_distribution(broken):
    bad = PROBABILITIES.clone()
    bad[1, 2, 3] = broken
    with pytest.raises(ValueError, match="not finite, or is negative"):
        categorical(bad, seed(0))


def test_initial_tokens_of_ranks_are_those_of_the_whole_batch():
    whole = initial_tokens(8, 10, 5, 5, 0.6, seed(7))
    for rank, generator in enumerate(ranks(2, drafts=2)):
        mine = initial_tokens(4, 10, 5, 5, 0.6, generator)
        assert torch.equal(mine, whole.unflatten(0, (2, 2, 2))[:, rank].flatten(0, 1))


def test_dropout_beside_it_is_untouched():
    """A shared generator never moves torch's own."""
    torch.manual_seed(0)
    expected = nn.functional.dropout(torch.ones(9))
    torch.manual_seed(0)
    uniform(4, generator=ranks(2)[0])
    assert torch.equal(nn.functional.dropout(torch.ones(9)), expected)
