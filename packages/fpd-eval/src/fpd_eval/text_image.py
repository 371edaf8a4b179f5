"""Images and their captions to paired features: one pass, batch by batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from fpd_eval.batching import in_batches
from fpd_eval.paired_files import open_all
from fpd_eval.progress import Track


class TextImageModel(Protocol):
    """Two frozen towers into one feature space. `fingerprint` is the hash of their weights and preparation rules."""

    fingerprint: str

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images of any size -> float32 [B, D] on the CPU, not normalised."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Captions -> float32 [B, D] on the CPU, not normalised."""
        ...


def paired_features(
    model: TextImageModel, files: Sequence[Path], texts: Sequence[str], *, title: str, batch_size: int, track: Track
) -> tuple[Tensor, Tensor]:
    """Features of every file and of its caption: two float32 [N, D].

    Raises:
        ValueError: a file is absent, damaged or transparent.
    """
    shown, said = list[Tensor](), list[Tensor]()

    def both(part: slice) -> tuple[Tensor, Tensor]:
        return model.images(open_all(files[part])), model.texts(texts[part])

    with track(title, len(files)) as advance:
        for pictures, words in in_batches(both, len(files), batch_size):
            shown.append(pictures)
            said.append(words)
            advance(len(pictures))
    return torch.cat(shown), torch.cat(said)
