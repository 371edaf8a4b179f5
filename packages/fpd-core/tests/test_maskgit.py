"""The MaskGIT network against published counts and key names, and the traps of its vocabulary."""

import pytest
import torch

from fpd_core.networks.extra_inputs import LatentMaskGit, NoiseMaskGit
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig

KEYS_OUTSIDE_BLOCKS = {
    *("pos_emb", "bias", "tok_emb.weight"),
    *(f"first_layer.{i}.{k}" for i in (0, 2, 4, 6) for k in ("weight", "bias")),
    *(f"last_layer.{i}.{k}" for i in (0, 2, 4) for k in ("weight", "bias")),
}
KEYS_OF_A_BLOCK = {
    *(f"{i}.norm.{k}" for i in (0, 1) for k in ("weight", "bias")),
    *("0.fn.mha.in_proj_weight", "0.fn.mha.in_proj_bias", "0.fn.mha.out_proj.weight", "0.fn.mha.out_proj.bias"),
    *(f"1.fn.net.{i}.{k}" for i in (0, 3) for k in ("weight", "bias")),
}


def test_keys_and_parameters_of_the_public_checkpoint():
    with torch.device("meta"):
        network = MaskGit(MaskGitConfig())
    blocks = {f"transformer.layers.{n}.{key}" for n in range(24) for key in KEYS_OF_A_BLOCK}
    assert set(network.state_dict()) == KEYS_OUTSIDE_BLOCKS | blocks
    assert len(network.state_dict()) == 305
    assert sum(p.numel() for p in network.parameters()) == 174_160_874
    assert network.pos_emb.shape == (1, 257, 768)
    assert network.bias.shape == (257, 2026)


def test_the_class_token_is_offset_behind_the_mask_token(teacher, rng):
    """Row K + 1 + y of the table is class y: swapping two rows swaps the two classes."""
    network = teacher.network
    tokens = torch.randint(13, (1, 64), generator=rng)
    one, two = network(tokens, torch.tensor([1])), network(tokens, torch.tensor([2]))
    rows = network.tok_emb.weight.data
    rows[[12 + 1 + 1, 12 + 1 + 2]] = rows[[12 + 1 + 2, 12 + 1 + 1]]
    torch.testing.assert_close(network(tokens, torch.tensor([1])), two)
    torch.testing.assert_close(network(tokens, torch.tensor([2])), one)


def test_the_mask_id_is_scored_but_never_offered_to_samplers(teacher, rng):
    tokens = torch.randint(13, (2, 64), generator=rng)
    assert teacher.network(tokens, torch.tensor([0, 1])).shape == (2, 64, 13)
    assert teacher.logits(tokens, teacher.condition([0, 1])).shape == (2, 64, 12)


def test_the_output_bias_belongs_to_a_position(teacher, rng):
    network = teacher.network
    tokens, labels = torch.randint(13, (1, 64), generator=rng), torch.tensor([0])
    before = network(tokens, labels)
    network.bias.data[7, 3] += 2.0
    change = network(tokens, labels) - before
    torch.testing.assert_close(change[0, 7, 3], torch.tensor(2.0))  # (a + 2) - a rounds, by how much is the processor's
    change[0, 7, 3] = 0
    assert change.abs().max() == 0


@pytest.mark.parametrize("kind", [LatentMaskGit, NoiseMaskGit])
def test_extra_inputs_are_float32_and_weights_need_not_be(kind, rng):
    sizes = {"codebook_size": 12, "num_classes": 4, "seq_len": 16, "width": 16, "mlp_width": 32, "depth": 1}
    network = kind(MaskGitConfig(**sizes, num_heads=2, dropout=0))
    for parameter in network.parameters():
        parameter.data.normal_(std=0.2, generator=rng)
    tokens, labels = torch.randint(0, 12, (2, 16), generator=rng), torch.tensor([0, 3])
    inputs = network.draw_inputs(2, rng)
    expected = network(tokens, labels, **inputs)
    assert not network(tokens, labels).equal(expected)
    found = network.bfloat16()(tokens, labels, **inputs)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.1 * expected.std()
