"""CLIP text towers as features for text-conditional families; the transformer and the tokenizer are open_clip's.

State-dict keys are open_clip's for the text tower of OpenAI's ViT-L/14-336.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fpd_core.config import Config, ConfigError, Depth, Flag, Size, Whole, check_heads

START_TOKEN, END_TOKEN = 49406, 49407

# transformers' name of a layer's part -> open_clip's.
_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


class ClipTextConfig(Config):
    """Sizes; the defaults are OpenAI's ViT-L/14-336 (123,650,304 parameters)."""

    context_len: Whole = Field(77, ge=2, le=2**16)
    width: Size = 768
    depth: Depth = 12
    num_heads: Size = 12
    projection_width: Size = 768
    # x * sigmoid(1.702 x), which OpenAI's weights were trained with; newer open_clip versions silently take GELU.
    quick_gelu: Flag = True
    # MaskGen reads the states at padding positions and knows 0; transformers' tokenizer would write 49407.
    pad_id: Whole = Field(0, ge=0, le=END_TOKEN)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.width, self.num_heads)
        return self


class TextFeatures(NamedTuple):
    """What a caption becomes.

    Attributes:
        penultimate: [B, T, W] before the last block, without the final norm: conditions MaskGen and Meissonic.
        pooled: [B, P] state at the end token after the final norm, projected, not normalised.
        final: [B, T, W] after all blocks and the final norm: guides TA-TiTok's decoder.
    """

    penultimate: Tensor
    pooled: Tensor
    final: Tensor


class ClipText(nn.Module):
    """Captions -> features.

    Raises:
        ConfigError: open_clip is not installed.
    """

    # A whole CLIP, in either naming, has an image tower; early transformers versions saved position numbers.
    IGNORED_PREFIXES: ClassVar[tuple[str, ...]] = (
        *("logit_scale", "visual.", "vision_model.", "visual_projection."),
        "text_model.embeddings.position_ids",
    )

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        try:
            # Here, because the import takes seconds and class-conditional families do without.
            from open_clip.tokenizer import SimpleTokenizer
            from open_clip.transformer import QuickGELU, Transformer
        except ModuleNotFoundError:
            raise ConfigError("captions need open_clip: pip install 'fpd-core[text]'") from None
        self.config = config
        self._tokenizer = SimpleTokenizer(context_length=config.context_len)
        self.token_embedding = nn.Embedding(self._tokenizer.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.context_len, config.width))
        activation = QuickGELU if config.quick_gelu else nn.GELU
        self.transformer = Transformer(config.width, config.depth, config.num_heads, act_layer=activation)
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(config.width**-0.5 * torch.randn(config.width, config.projection_width))

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """[B, T] int64: start, lower-cased byte pairs, end, padding; long captions are cut and keep their end."""
        tokens: Tensor = self._tokenizer(list(captions))
        places = torch.arange(self.config.context_len)
        return tokens.masked_fill(places > _end_of(tokens)[:, None], self.config.pad_id)

    def forward(self, tokens: Tensor) -> TextFeatures:
        """[B, T] int64, T the context length -> features; a token sees the tokens before it only."""
        x = self.token_embedding(tokens) + self.positional_embedding
        length = tokens.shape[1]
        mask = torch.full((length, length), -torch.inf, device=x.device, dtype=x.dtype).triu(1)
        *blocks, last = self.transformer.resblocks
        for block in blocks:
            x = block(x, attn_mask=mask)
        final = self.ln_final(last(x, attn_mask=mask))
        pooled = final[torch.arange(final.shape[0], device=x.device), _end_of(tokens)] @ self.text_projection
        return TextFeatures(x, pooled, final)

    @staticmethod
    def rename_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict in transformers' naming in open_clip's; any other, and keys it does not know, unchanged."""
        renamed: dict[str, Tensor] = {}
        is_transformers = "text_model.embeddings.token_embedding.weight" in state
        for key, value in state.items():
            renamed.update(_renamed(key, value, state) if is_transformers else {key: value})
        return renamed


def _end_of(tokens: Tensor) -> Tensor:
    """[B, T] -> [B], the place of the first end token."""
    return (tokens == END_TOKEN).int().argmax(1)


def _renamed(key: str, value: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One entry of transformers' state dict; queries, keys and values become one when the queries come by."""
    outer = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    if key == "text_projection.weight":
        return {"text_projection": value.T.contiguous()}
    if key in outer:
        return {outer[key]: value}
    words = key.split(".")
    if words[:3] != ["text_model", "encoder", "layers"]:
        return {key: value}
    block, part, leaf = f"transformer.resblocks.{words[3]}", ".".join(words[4:-1]), words[-1]
    if part in _PARTS:
        return {f"{block}.{_PARTS[part]}.{leaf}": value}
    names = [".".join([*words[:4], "self_attn", f"{which}_proj", leaf]) for which in "qkv"]
    if key not in names or not all(name in state for name in names):
        return {key: value}
    return {f"{block}.attn.in_proj_{leaf}": torch.cat([state[name] for name in names])} if key == names[0] else {}
