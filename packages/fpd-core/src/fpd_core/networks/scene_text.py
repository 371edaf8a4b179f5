"""The text tower of the scenes: words of a closed vocabulary to word states and to one state per image cell.

The cell states are a plan: queries at fixed places of the image that read the sentence. They are what binds "a dog left
of a cat" to places, a product of three words that a masked image model alone hardly finds (docs/scenes.md).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fpd_core.checkpoints import load_network
from fpd_core.config import Config, Depth, Size, check_heads
from fpd_core.networks.mmdit import FeedForward, attend, split_heads
from fpd_core.scenes.vocabulary import PLURAL

PAD = 0


class SceneTextConfig(Config):
    """Sizes and words."""

    words: tuple[str, ...] = Field(description="Known tokens, words and endings; number 0 is padding.")
    context_len: Size = Field(12, description="Tokens of the longest caption.")
    num_cells: Size = Field(64, description="L, image cells of the plan.")
    width: Size = Field(128, description="Channels of word and cell states.")
    depth: Depth = Field(2, description="Blocks over the words.")
    cell_depth: Depth = Field(1, description="Blocks in which the cells read the words.")
    num_heads: Size = Field(4, description="Attention heads; divide the width.")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.width, self.num_heads)
        return self


class TextFeatures(NamedTuple):
    """Word states [B, T, W], their mean [B, W] and cell states [B, L, W]."""

    words: Tensor
    pooled: Tensor
    cells: Tensor


class CrossBlock(nn.Module):
    """Attention of `x` to `context` (to itself without one) and an MLP, both pre-norm and residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2, self.norm_context = (nn.LayerNorm(width) for _ in range(3))
        self.to_q, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.to_kv = nn.Linear(width, 2 * width)
        self.ff = FeedForward(width, 4 * width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x [B, S, W] and context [B, T, W] -> [B, S, W]."""
        own = self.norm1(x)
        k, v = self.to_kv(own if context is None else self.norm_context(context)).chunk(2, dim=-1)
        q, k, v = (split_heads(part, self.num_heads) for part in (self.to_q(own), k, v))
        x = x + self.to_out(attend(q, k, v, None))
        out: Tensor = x + self.ff(self.norm2(x))
        return out


class SceneText(nn.Module):
    """Captions -> features."""

    def __init__(self, config: SceneTextConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.word_emb = nn.Embedding(len(config.words) + 1, width)
        self.word_pos = nn.Parameter(torch.randn(config.context_len, width) * 0.02)
        self.cell_pos = nn.Parameter(torch.randn(config.num_cells, width) * 0.02)
        self.word_blocks = nn.ModuleList(CrossBlock(width, config.num_heads) for _ in range(config.depth))
        self.cell_blocks = nn.ModuleList(CrossBlock(width, config.num_heads) for _ in range(config.cell_depth))
        self.word_norm, self.cell_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        nn.init.normal_(self.word_emb.weight, std=0.5)
        self._numbers = {word: number for number, word in enumerate(config.words, start=1)}

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """[B, T] int64; case, commas and a final stop do not matter.

        Raises:
            ValueError: a word is not in the vocabulary, or a caption is too long.
        """
        return torch.tensor([self._numbered(caption) for caption in captions]).view(len(captions), -1)

    def pieces(self, caption: str) -> list[str]:
        """The tokens of a caption, spelled; words that are not known stay whole."""
        words = caption.lower().replace(",", " ").rstrip(". ").split()
        return [piece for word in words for piece in self._split(word)]

    def _split(self, word: str) -> list[str]:
        stems = [word.removesuffix(ending) for ending in ("s", "es") if word.endswith(ending)]
        known = [stem for stem in stems if stem in self._numbers and PLURAL in self._numbers]
        return [known[0], PLURAL] if known and word not in self._numbers else [word]

    def _numbered(self, caption: str) -> list[int]:
        pieces = self.pieces(caption)
        unknown = [piece for piece in pieces if piece not in self._numbers]
        if unknown:
            known = " ".join(self._numbers)
            raise ValueError(f"{caption!r}: this model does not know the word {unknown[0]!r}; it knows {known}")
        if len(pieces) > self.config.context_len:
            raise ValueError(f"{caption!r} has {len(pieces)} tokens, this model reads {self.config.context_len}")
        return [self._numbers[piece] for piece in pieces] + [PAD] * (self.config.context_len - len(pieces))

    def forward(self, tokens: Tensor) -> TextFeatures:
        """[B, T] int64 -> features."""
        words = self.word_emb(tokens) + self.word_pos
        for block in self.word_blocks:
            words = block(words)
        cells = self.cell_pos.expand(tokens.shape[0], -1, -1)
        for block in self.cell_blocks:
            cells = block(cells, words)
        words = self.word_norm(words)
        return TextFeatures(words, words.mean(1), self.cell_norm(cells))


def load_scene_text(folder: str | Path) -> SceneText:
    """A trained tower, frozen and in eval mode.

    Raises:
        CheckpointError: the folder is absent, damaged or holds another network.
    """
    text = load_network(Path(folder), "text", lambda sizes: SceneText(SceneTextConfig.model_validate(sizes)))
    return text.eval().requires_grad_(False)
