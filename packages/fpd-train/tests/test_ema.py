"""Averages against a float64 recursion; the warm-up against its formula."""

import pytest
import torch
from torch import nn

from fpd_train.ema import Ema, EmaConfig, decay_at


@pytest.mark.parametrize(("updates", "expected"), [(0, 1 / 10), (1, 2 / 11), (90, 91 / 100), (10**6, 0.9999)])
def test_warm_up(updates, expected):
    assert decay_at(updates, EmaConfig()) == pytest.approx(expected)


def test_without_warm_up_the_decay_is_constant():
    assert decay_at(0, EmaConfig(decay=0.5, warmup=False)) == 0.5


def test_a_bfloat16_network_is_averaged_in_float32():
    """400 small steps: a bfloat16 shadow would never move."""
    network = nn.Linear(3, 2).bfloat16()
    ema = Ema(network, EmaConfig(decay=0.99, warmup=False))
    expected = {name: p.detach().double() for name, p in network.named_parameters()}
    master = {name: p.detach().float().clone() for name, p in network.named_parameters()}
    for step in range(400):
        master = {name: value + 1e-4 for name, value in master.items()}
        ema.update(step, master.items(), {})
        expected = {name: 0.99 * value + 0.01 * master[name].double() for name, value in expected.items()}
    for name, value in ema.module.named_parameters():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_buffers_are_copied_not_averaged():
    network = nn.BatchNorm1d(3)
    ema = Ema(network, EmaConfig())
    buffers = {"running_mean": torch.ones(3), "running_var": torch.ones(3) * 2, "num_batches_tracked": torch.tensor(7)}
    ema.update(0, network.named_parameters(), buffers)
    assert torch.equal(ema.module.running_mean, torch.ones(3))
    assert ema.module.num_batches_tracked == 7


def test_the_average_is_frozen_and_in_eval_mode():
    ema = Ema(nn.Dropout(), EmaConfig())
    assert not ema.module.training
    ema = Ema(nn.Linear(1, 1), EmaConfig())
    assert not any(p.requires_grad for p in ema.module.parameters())
