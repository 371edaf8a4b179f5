"""torch's multi-head attention with its four projections as layers of their own.

`nn.MultiheadAttention` keeps queries, keys and values in one matrix and reads the weights of its output layer without
calling it: nothing that wraps layers, such as a low-rank adapter, would take part.
"""

import torch
from torch import Tensor, nn

from fpd_core.config import ConfigError
from fpd_core.networks.mmdit import attend, split_heads

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class SplitAttention(nn.Module):
    """What `original` computes, without masks and dropout. Its weights are the original's memory, seen as layers."""

    # Asked by nn.TransformerEncoderLayer, whose fused path would read weights past the layers as well.
    batch_first, in_proj_bias, _qkv_same_embed_dim = True, None, False

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        if not original.batch_first or original.in_proj_weight is None or original.bias_k is not None:
            raise ConfigError(
                "this nn.MultiheadAttention cannot be split into layers: it must be batch_first, with queries, keys "
                "and values of one width and no bias_kv"
            )
        self.num_heads = original.num_heads
        weights, bias = original.in_proj_weight.chunk(3), original.in_proj_bias
        biases = (None, None, None) if bias is None else bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_layer, weights, biases)
        self.out_proj = _layer(original.out_proj.weight, original.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, **masks: object
    ) -> tuple[Tensor, None]:
        """[B, S, W] each -> ([B, S, W], None). Raises ValueError: a mask is given."""
        if any(mask is not None and mask is not False for mask in masks.values()) or need_weights:
            raise ValueError("attention whose projections are split into layers takes no mask and returns no weights")
        q, k, v = (
            split_heads(layer(x), self.num_heads)
            for layer, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        return self.out_proj(attend(q, k, v, None)), None


def _layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer over given memory, trainable where the given weights are."""
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)
    return layer


def split_attentions(network: nn.Module) -> None:
    """Replace every nn.MultiheadAttention in place. Raises ConfigError: of a kind that cannot be split."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MultiheadAttention):
                setattr(module, name, SplitAttention(child))
