"""Averages against a float64 recursion; the warm-up against its formula."""

import pytest
import torch
from torch import nn

from fpd_train.ema import Ema, EmaConfig, Piece, decay_at


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


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_shares_of_ranks_are_the_whole_average():
    """Three ranks, weights cut unevenly and one rank without any of a weight, against float64."""
    cuts = [{"0.weight": (0, 4)}, {"0.weight": (4, 2), "0.bias": (0, 2), "1.weight": (0, 1)}, {"1.weight": (1, 1)}]
    config = EmaConfig(decay=0.9, warmup=False)
    emas = [Ema(network(), config) for _ in cuts]
    master = {name: p.detach().flatten() for name, p in network().named_parameters()}
    for ema, cut in zip(emas, cuts, strict=True):
        ema.shard(Piece(name, start, master[name][start : start + size]) for name, (start, size) in cut.items())
        assert all(p.numel() == 0 for p in ema.module.parameters() if p is not ema.module[1].bias)
    expected = {name: value.double() for name, value in master.items()}
    buffers = dict(network().named_buffers())
    for step in range(5):
        master = {name: value + 0.1 * torch.sin(value + step) for name, value in master.items()}
        for ema, cut in zip(emas, cuts, strict=True):
            ema.update(step, [(name, master[name][at : at + size]) for name, (at, size) in cut.items()], buffers)
        expected = {name: 0.9 * value + 0.1 * master[name].double() for name, value in expected.items()}
    for name in ("0.weight", "0.bias", "1.weight"):
        found = torch.cat([value for ema in emas for own, value in ema.parts() if own == name])
        torch.testing.assert_close(found.double(), expected[name], rtol=0, atol=1e-7)


def test_a_sharded_average_is_loaded_from_whole_weights():
    ema = Ema(network(), EmaConfig())
    whole = {name: value + 1 for name, value in ema.state().items()}
    ema.shard([Piece("0.weight", 1, torch.zeros(4))])
    ema.load(whole, "here")
    assert torch.equal(dict(ema.parts())["0.weight"], whole["0.weight"].flatten()[1:5])
    with pytest.raises(ValueError, match="here does not fit"):
        ema.load({name: value for name, value in whole.items() if name != "0.bias"}, "here")
