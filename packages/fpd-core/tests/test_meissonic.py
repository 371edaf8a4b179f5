"""The whole Meissonic network, small, against one put together from diffusers' layers, as the official one is."""

import pytest
import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings, TimestepEmbedding, get_timestep_embedding
from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers.transformer_flux import (
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from diffusers.models.unets.uvit_2d import ConvMlmLayer, UVit2DConvEmbed
from diffusers.models.upsampling import Upsample2D
from torch import nn

from fpd_core.networks.meissonic import Meissonic, MeissonicConfig

CONFIG = MeissonicConfig(
    codebook_size=11,
    vocabulary=14,
    side=6,
    width=32,
    num_heads=2,
    depth=2,
    single_depth=2,
    mlp_width=128,
    text_width=7,
    pooled_width=9,
    rotary_widths=(4, 6, 6),
)
TEXT = 5


class Reference(nn.Module):
    def __init__(self):
        super().__init__()
        width, size = CONFIG.width, CONFIG.width // CONFIG.num_heads
        resample = {"kernel_size": 2, "padding": 0, "norm_type": "rms_norm", "eps": 1e-6, "elementwise_affine": True}
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(width, width)
        self.context_embedder = nn.Linear(CONFIG.text_width, width)
        self.transformer_blocks = nn.ModuleList(FluxTransformerBlock(width, 2, size) for _ in range(2))
        self.single_transformer_blocks = nn.ModuleList(FluxSingleTransformerBlock(width, 2, size) for _ in range(2))
        self.embed = UVit2DConvEmbed(width, width, CONFIG.vocabulary, True, 1e-6, False)
        self.mlm_layer = ConvMlmLayer(width, width, False, True, 1e-6, CONFIG.codebook_size)
        self.cond_embed = TimestepEmbedding(CONFIG.pooled_width + 5 * 256, width, sample_proj_bias=False)
        self.encoder_proj_layer_norm = RMSNorm(width, 1e-6)
        self.project_to_hidden_norm = RMSNorm(width, 1e-6)
        self.project_to_hidden = nn.Linear(width, width, bias=False)
        self.project_from_hidden_norm = RMSNorm(width, 1e-6)
        self.project_from_hidden = nn.Linear(width, width, bias=False)
        down = Downsample2D(width, use_conv=True, name="Conv2d_0", bias=False, **resample)
        up = Upsample2D(width, use_conv_transpose=True, interpolate=False, bias=False, **resample)
        self.down_block = nn.ModuleDict({"downsample": down})
        self.up_block = nn.ModuleDict({"upsample": up})

    def forward(self, tokens, text, pooled, micro, timestep):
        batch, side = len(tokens), CONFIG.side
        micro = get_timestep_embedding(micro.flatten(), 256, flip_sin_to_cos=True, downscale_freq_shift=0)
        vector = self.cond_embed(torch.cat([pooled, micro.view(batch, -1)], dim=1))
        vector = self.time_text_embed(timestep * 1000, vector)
        text = self.encoder_proj_layer_norm(self.context_embedder(text))
        image = self.down_block["downsample"](self.embed(tokens.view(batch, side, side)))
        half = image.shape[-1]
        image = self.project_to_hidden(self.project_to_hidden_norm(image.flatten(2).transpose(1, 2)))
        places = torch.zeros(TEXT + half**2, 3)
        places[TEXT:, 1] = torch.arange(half).repeat_interleave(half)
        places[TEXT:, 2] = torch.arange(half).repeat(half)
        angles = FluxPosEmbed(10_000, list(CONFIG.rotary_widths))(places)
        for block in self.transformer_blocks:
            text, image = block(image, text, vector, angles)
        for block in self.single_transformer_blocks:
            text, image = block(image, text, vector, angles)
        image = self.project_from_hidden(self.project_from_hidden_norm(image))
        image = self.up_block["upsample"](image.transpose(1, 2).reshape(batch, -1, half, half))
        return self.mlm_layer(image).flatten(2).transpose(1, 2)


@pytest.fixture
def networks():
    torch.manual_seed(0)
    reference = Reference()
    for name, parameter in reference.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if "norm" in name and parameter.dim() == 1 else 0.0, std=0.2)
    network = Meissonic(CONFIG)
    network.load_state_dict(reference.state_dict())
    return network, reference


@pytest.fixture
def inputs(rng):
    tokens = torch.randint(CONFIG.codebook_size, (2, CONFIG.seq_len), generator=rng)
    tokens[:, ::3] = CONFIG.mask_id
    micro = torch.tensor([[1024.0, 768.0, 0.0, 8.0, 6.0], [512.0, 512.0, 4.0, 0.0, 5.5]])
    text, pooled = torch.randn(2, TEXT, 7, generator=rng), torch.randn(2, 9, generator=rng)
    return tokens, text, pooled, micro, torch.tensor([0.0, 0.37])


def test_the_network_is_the_sum_of_diffusers_layers(networks, inputs):
    network, reference = networks
    expected = reference(*inputs)
    assert expected.std() > 0.1
    torch.testing.assert_close(network(*inputs), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("which", range(5))
def test_every_input_counts(networks, inputs, which):
    network, _ = networks
    changed = list(inputs)
    changed[which] = changed[which].roll(1, 0)
    assert (network(*changed) - network(*inputs)).abs().max() > 1e-3


def test_recomputed_activations_give_the_same_gradients(networks, inputs):
    network, _ = networks
    other = Meissonic(CONFIG.model_copy(update={"checkpoint_activations": True}))
    other.load_state_dict(network.state_dict())
    runs = []
    other.single_transformer_blocks[1].register_forward_pre_hook(lambda *_: runs.append(1))
    for each in (network, other):
        each(*inputs).square().mean().backward()
    assert len(runs) == 2  # once more in the backward pass
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
