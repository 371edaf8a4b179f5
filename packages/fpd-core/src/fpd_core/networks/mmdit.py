"""Two-stream transformer blocks (Stable Diffusion 3, Flux): image and text tokens attend to each other jointly.

Written out although diffusers has them: a student must open with fpd-core alone, in which diffusers is optional, and
keep its state-dict names whatever diffusers renames. `test_mmdit.py` compares the two, output by output.

Every block is modulated by one vector v per image. State-dict names are diffusers'. LayerNorms have no affine part and
eps 1e-6. Traps: modulation chunks are ordered shift first in blocks, scale first where there are only two; the GELU is
the tanh approximation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# cos and sin of the rotation angles, [S, head_size / 2] each.
Rotation = tuple[Tensor, Tensor]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm(x) (1 + scale) + shift for x [B, S, W] and modulation [B, 1, W]."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Modulation(nn.Module):
    """SiLU and one linear layer: v [B, W] -> `chunks` tensors [B, 1, W]."""

    def __init__(self, width: int, chunks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, chunks * width)
        self.chunks = chunks

    def forward(self, vector: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = self.linear(F.silu(vector))[:, None].chunk(self.chunks, dim=-1)
        return parts


class _Gelu(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """W -> mlp_width -> W."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        # The public models have a dropout of rate 0 at index 1.
        self.net = nn.Sequential(_Gelu(width, mlp_width), nn.Identity(), nn.Linear(mlp_width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary positions: turn each pair of neighbouring channels of x [B, heads, S, head_size]; float32 inside."""
    cos, sin = rotation
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, S, W] -> [B, heads, S, head_size]."""
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, rotation: Rotation | None) -> Tensor:
    """Full attention, no mask: [B, heads, S, head_size] each -> [B, S, W]."""
    if rotation is not None:
        q, k = rotate(q, rotation), rotate(k, rotation)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class JointAttention(nn.Module):
    """Separate projections for image and text, one attention over [text ; image].

    Args:
        qk_norm: RMS norm of queries and keys per head.
        text_out: whether the text stream goes on.
    """

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool, text_out: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.add_q_proj = nn.Linear(width, width)
        self.add_k_proj = nn.Linear(width, width)
        self.add_v_proj = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.to_add_out = nn.Linear(width, width) if text_out else None
        size = width // num_heads
        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = (
            nn.RMSNorm(size, eps=1e-6) if qk_norm else nn.Identity() for _ in range(4)
        )

    def forward(self, image: Tensor, text: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor | None]:
        def split(x: Tensor) -> Tensor:
            return split_heads(x, self.num_heads)

        q = torch.cat([self.norm_added_q(split(self.add_q_proj(text))), self.norm_q(split(self.to_q(image)))], dim=2)
        k = torch.cat([self.norm_added_k(split(self.add_k_proj(text))), self.norm_k(split(self.to_k(image)))], dim=2)
        v = torch.cat([split(self.add_v_proj(text)), split(self.to_v(image))], dim=2)
        mixed = attend(q, k, v, rotation)
        image_out: Tensor = self.to_out[0](mixed[:, text.shape[1] :])
        text_out: Tensor | None = None if self.to_add_out is None else self.to_add_out(mixed[:, : text.shape[1]])
        return image_out, text_out


class JointBlock(nn.Module):
    """One two-stream block.

    Args:
        qk_norm: RMS norm of queries and keys (Flux, Meissonic).
        last: the text stream ends here: it is attended to and dropped.
    """

    def __init__(self, width: int, num_heads: int, mlp_width: int, *, qk_norm: bool = False, last: bool = False):
        super().__init__()
        self.norm1 = Modulation(width, 6)
        self.norm1_context = Modulation(width, 2 if last else 6)
        self.attn = JointAttention(width, num_heads, qk_norm=qk_norm, text_out=not last)
        self.ff = FeedForward(width, mlp_width)
        self.ff_context = None if last else FeedForward(width, mlp_width)

    def forward(
        self, image: Tensor, text: Tensor, vector: Tensor, rotation: Rotation | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image [B, L, W], text [B, T, W] and v [B, W] -> both streams; the last block returns the text as it came."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.norm1(vector)
        if self.ff_context is None:
            text_scale, text_shift = self.norm1_context(vector)
        else:
            text_shift, text_scale, text_gate, text_mlp_shift, text_mlp_scale, text_mlp_gate = self.norm1_context(
                vector
            )
        mixed, text_mixed = self.attn(modulate(image, shift, scale), modulate(text, text_shift, text_scale), rotation)
        image = image + gate * mixed
        image = image + mlp_gate * self.ff(modulate(image, mlp_shift, mlp_scale))
        if self.ff_context is not None:
            text = text + text_gate * text_mixed
            text = text + text_mlp_gate * self.ff_context(modulate(text, text_mlp_shift, text_mlp_scale))
        return image, text


class SingleAttention(nn.Module):
    """Self-attention over [text ; image] with RMS-normed queries and keys and no output projection of its own."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_q = nn.RMSNorm(width // num_heads, eps=1e-6)
        self.norm_k = nn.RMSNorm(width // num_heads, eps=1e-6)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        q, k, v = (split_heads(linear(x), self.num_heads) for linear in (self.to_q, self.to_k, self.to_v))
        return attend(self.norm_q(q), self.norm_k(k), v, rotation)


class SingleBlock(nn.Module):
    """One block over the concatenated streams: attention and MLP side by side, projected together (Flux)."""

    def __init__(self, width: int, num_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.norm = Modulation(width, 3)
        self.proj_mlp = nn.Linear(width, mlp_width)
        self.proj_out = nn.Linear(width + mlp_width, width)
        self.attn = SingleAttention(width, num_heads)

    def forward(self, x: Tensor, vector: Tensor, rotation: Rotation | None = None) -> Tensor:
        """[B, T + L, W] and v [B, W] -> [B, T + L, W]."""
        shift, scale, gate = self.norm(vector)
        h = modulate(x, shift, scale)
        mlp = F.gelu(self.proj_mlp(h), approximate="tanh")
        out: Tensor = x + gate * self.proj_out(torch.cat([self.attn(h, rotation), mlp], dim=2))
        return out
