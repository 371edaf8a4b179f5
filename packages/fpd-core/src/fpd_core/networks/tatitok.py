"""TA-TiTok BL128 (VQ): images as 128 ordered codes, decoded with the help of the caption.

State-dict keys equal those of the public checkpoints. Images are in [0, 1], in and out.
"""

from typing import ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from fpd_core.config import Codes, Config, Depth, Size, check_heads
from fpd_core.networks.codebook import Codebook


class TaTiTokConfig(Config):
    """Sizes; the defaults are the public BL128 VQ tokenizer (391,046,292 parameters, 256 px)."""

    codebook_size: Codes = 8192
    code_dim: Size = 64
    seq_len: Size = 128
    image_size: Size = 256
    patch_size: Size = 16
    encoder_width: Size = 768
    encoder_depth: Depth = 12
    encoder_heads: Size = 12
    decoder_width: Size = 1024
    decoder_depth: Depth = 24
    decoder_heads: Size = 16
    text_width: Size = 768
    text_len: Size = 77

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_heads(self.encoder_width, self.encoder_heads, "encoder_heads")
        check_heads(self.decoder_width, self.decoder_heads, "decoder_heads")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        return self

    @property
    def side(self) -> int:
        """Patches along one edge."""
        return self.image_size // self.patch_size


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        # Exact, unlike the generator's.
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


def _positions(*shape: int) -> nn.Parameter:
    return nn.Parameter(shape[-1] ** -0.5 * torch.randn(shape))


class _Encoder(nn.Module):
    """Images -> latents: the outputs at learned query tokens appended to the patches."""

    def __init__(self, config: TaTiTokConfig) -> None:
        super().__init__()
        width = config.encoder_width
        self.class_embedding = _positions(1, width)
        self.positional_embedding = _positions(config.side**2 + 1, width)
        self.latent_token_positional_embedding = _positions(config.seq_len, width)
        self.patch_embed = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(_Block(width, config.encoder_heads) for _ in range(config.encoder_depth))
        self.ln_post = nn.LayerNorm(width)
        self.conv_out = nn.Conv2d(width, config.code_dim, 1)

    def forward(self, images: Tensor, latent_tokens: Tensor) -> Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        start = self.class_embedding.expand(len(images), 1, -1)
        queries = (latent_tokens + self.latent_token_positional_embedding).expand(len(images), -1, -1)
        x = self.ln_pre(torch.cat([torch.cat([start, patches], dim=1) + self.positional_embedding, queries], dim=1))
        for block in self.transformer:
            x = block(x)
        latents: Tensor = self.conv_out(self.ln_post(x[:, -len(latent_tokens) :]).transpose(1, 2)[:, :, None])
        return latents[:, :, 0].transpose(1, 2)


class _Decoder(nn.Module):
    """Latents and caption -> images, read off at mask tokens, one per patch."""

    def __init__(self, config: TaTiTokConfig) -> None:
        super().__init__()
        self.side, self.patch = config.side, config.patch_size
        width = config.decoder_width
        self.class_embedding = _positions(1, width)
        self.positional_embedding = _positions(config.side**2 + 1, width)
        self.mask_token = _positions(1, 1, width)
        self.latent_token_positional_embedding = _positions(config.seq_len, width)
        self.text_guidance_positional_embedding = _positions(config.text_len, width)
        self.decoder_embed = nn.Linear(config.code_dim, width)
        self.text_guidance_proj = nn.Linear(config.text_width, width)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(_Block(width, config.decoder_heads) for _ in range(config.decoder_depth))
        self.ln_post = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Conv2d(width, 3 * config.patch_size**2, 1))
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, latents: Tensor, text: Tensor) -> Tensor:
        batch, patches = latents.shape[0], self.side**2
        start = self.class_embedding.expand(batch, 1, -1)
        canvas = torch.cat([start, self.mask_token.expand(batch, patches, -1)], dim=1) + self.positional_embedding
        codes = self.decoder_embed(latents) + self.latent_token_positional_embedding
        caption = self.text_guidance_proj(text) + self.text_guidance_positional_embedding
        x = self.ln_pre(torch.cat([canvas, codes, caption], dim=1))
        for block in self.transformer:
            x = block(x)
        x = self.ln_post(x[:, 1 : 1 + patches]).transpose(1, 2).unflatten(2, (self.side, self.side))
        # Channels of a patch run over (row, column, rgb).
        pixels = self.ffn(x).unflatten(1, (self.patch, self.patch, 3)).permute(0, 3, 4, 1, 5, 2)
        images: Tensor = self.conv_out(pixels.reshape(batch, 3, self.side * self.patch, self.side * self.patch))
        return images


class TaTiTok(nn.Module):
    """Images [B, 3, H, W] in [0, 1] to L codes, and codes with caption features back."""

    # A buffer of training checkpoints.
    IGNORED_PREFIXES: ClassVar[tuple[str, ...]] = ("quantize.embed_prob",)

    def __init__(self, config: TaTiTokConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_tokens = _positions(config.seq_len, config.encoder_width)
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quantize = Codebook(config.codebook_size, config.code_dim)

    @property
    def codebook(self) -> Tensor:
        """E [K, d]."""
        return self.quantize.embedding.weight

    def latents(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, L, d], not yet quantised."""
        latents: Tensor = self.encoder(images, self.latent_tokens)
        return latents

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> tokens [B, L] int64: the nearest code in squared distance."""
        return self.quantize.nearest(self.latents(images))

    def decode(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Code vectors and the caption -> images; differentiable, not clamped.

        Args:
            embeddings: [B, L, d].
            text: [B, T, text_width], CLIP states after all blocks and the final norm: not the generator's features.

        Returns:
            [B, 3, H, W], about [0, 1].
        """
        images: Tensor = self.decoder(embeddings, text)
        return images
