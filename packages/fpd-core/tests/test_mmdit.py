"""Two-stream and single-stream blocks against diffusers', and the traps that leave shapes and names intact."""

import pytest
import torch
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.transformers.transformer_flux import (
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch.nn import functional as F

from fpd_core.networks import mmdit
from fpd_core.networks.meissonic import rotation
from fpd_core.networks.mmdit import JointBlock, SingleBlock

WIDTH, HEADS, SIDE, TEXT = 32, 2, 3, 5
WIDTHS = (4, 6, 6)


@pytest.fixture
def inputs():
    """Image tokens, text tokens, modulating vector."""
    rng = torch.Generator().manual_seed(3)
    shapes = (2, SIDE**2, WIDTH), (2, TEXT, WIDTH), (2, WIDTH)
    return tuple(torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)


def same_weights(ours, theirs):
    """Both in float64 and large enough that every part matters; names and shapes must agree."""
    torch.manual_seed(5)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours.load_state_dict(theirs.state_dict())
    return ours.double(), theirs.double()


def joint_pair(last):
    return same_weights(
        JointBlock(WIDTH, HEADS, 4 * WIDTH, last=last),
        JointTransformerBlock(WIDTH, HEADS, WIDTH // HEADS, context_pre_only=last),
    )


def angles():
    places = torch.zeros(TEXT + SIDE**2, 3)
    places[TEXT:, 1] = torch.arange(SIDE).repeat_interleave(SIDE)
    places[TEXT:, 2] = torch.arange(SIDE).repeat(SIDE)
    return rotation(TEXT, SIDE, WIDTHS, torch.device("cpu")), FluxPosEmbed(10_000, list(WIDTHS))(places)


@pytest.mark.parametrize("last", [False, True])
def test_a_joint_block_is_stable_diffusion_3s(inputs, last):
    ours, theirs = joint_pair(last)
    image, text, vector = inputs
    text_expected, image_expected = theirs(hidden_states=image, encoder_hidden_states=text, temb=vector)
    image_found, text_found = ours(image, text, vector)
    torch.testing.assert_close(image_found, image_expected)
    torch.testing.assert_close(text_found, text if last else text_expected)


def test_rotary_angles_are_fluxs():
    (cos, sin), (cos_expected, sin_expected) = angles()
    torch.testing.assert_close(cos.repeat_interleave(2, 1), cos_expected)
    torch.testing.assert_close(sin.repeat_interleave(2, 1), sin_expected)


def test_a_joint_block_with_normed_queries_and_rotary_positions_is_fluxs(inputs):
    ours, theirs = same_weights(
        JointBlock(WIDTH, HEADS, 4 * WIDTH, qk_norm=True), FluxTransformerBlock(WIDTH, HEADS, WIDTH // HEADS)
    )
    image, text, vector = inputs
    own, flux = angles()
    text_expected, image_expected = theirs(image, text, vector, flux)
    image_found, text_found = ours(image, text, vector, own)
    torch.testing.assert_close(image_found, image_expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(text_found, text_expected, atol=1e-5, rtol=0)


def test_a_single_block_is_fluxs(inputs):
    ours, theirs = same_weights(
        SingleBlock(WIDTH, HEADS, 4 * WIDTH), FluxSingleTransformerBlock(WIDTH, HEADS, WIDTH // HEADS)
    )
    image, text, vector = inputs
    own, flux = angles()
    expected = torch.cat(theirs(image, text, vector, flux), dim=1)
    torch.testing.assert_close(ours(torch.cat([text, image], dim=1), vector, own), expected, atol=1e-5, rtol=0)


def swapped_chunks(block):
    """Shift where scale belongs, in the two-chunk modulation of the last block's text."""
    linear = block.norm1_context.linear
    linear.weight.data, linear.bias.data = linear.weight.roll(WIDTH, 0).data, linear.bias.roll(WIDTH, 0).data


def twice_the_heads(block):
    block.attn.num_heads = 2 * HEADS


def exact_gelu(block, monkeypatch):
    gelu = F.gelu
    monkeypatch.setattr(mmdit.F, "gelu", lambda x, approximate: gelu(x))


@pytest.mark.parametrize("mistake", [swapped_chunks, twice_the_heads, exact_gelu])
def test_the_comparison_notices(inputs, mistake, monkeypatch):
    """The three mistakes that load cleanly."""
    ours, theirs = joint_pair(last=True)
    image, text, vector = inputs
    expected = theirs(hidden_states=image, encoder_hidden_states=text, temb=vector)[1]
    mistake(ours, monkeypatch) if mistake is exact_gelu else mistake(ours)
    assert (ours(image, text, vector)[0] - expected).abs().max() > 1e-4
