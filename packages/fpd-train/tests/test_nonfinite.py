"""Which tensor went non-finite first, and how a step goes on that is going to be skipped."""

from typing import NamedTuple

import torch
from torch import nn

from fpd_train.nonfinite import first_non_finite, made_finite, watched_outputs


def test_the_first_name_counts_and_whole_numbers_are_finite():
    tensors = [("a", torch.zeros(2)), ("b", None), ("n", torch.tensor(3)), ("c", torch.tensor([0.0, torch.inf]))]
    assert first_non_finite(tensors) == "c"
    assert first_non_finite([*tensors, ("d", torch.tensor(torch.nan))]) == "c"
    assert first_non_finite(tensors[:3]) is None


def test_outputs_are_watched_in_the_order_of_the_forward_and_no_longer_than_asked():
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 1))
    network[1][0].weight.data[1, 1] = torch.nan
    found = []
    with watched_outputs(network, found):
        network(torch.ones(4, 2))
    assert found == ["1.0", "1.1", "1", "2", "the network"]
    network(torch.ones(4, 2))
    assert len(found) == 5


def test_a_finite_output_and_its_gradient_are_untouched():
    logits = torch.randn(3, 5, requires_grad=True)
    (first, (second, tokens)), finite = made_finite((logits * 2, [logits.exp(), torch.arange(3)]))
    assert bool(finite)
    assert torch.equal(first, logits * 2)
    assert torch.equal(tokens, torch.arange(3))
    (first.sum() + second.sum()).backward()
    assert torch.equal(logits.grad, 2 + logits.exp())


def test_one_nan_replaces_every_real_output_by_zeros():
    output = (torch.tensor([1.0, torch.nan]), torch.ones(2, 2), torch.arange(3))
    (first, second, tokens), finite = made_finite(output)
    assert not bool(finite)
    assert torch.equal(first, torch.zeros(2))
    assert torch.equal(second, torch.zeros(2, 2))
    assert torch.equal(tokens, torch.arange(3))
    assert made_finite(torch.arange(3))[1] is None


class Maps(NamedTuple):
    kinds: torch.Tensor
    boxes: torch.Tensor


def test_named_tuples_keep_their_names():
    output, finite = made_finite(Maps(torch.tensor([torch.inf]), torch.ones(2)))
    assert not bool(finite)
    assert torch.equal(output.boxes, torch.zeros(2))
    assert torch.equal(output.kinds, torch.zeros(1))
