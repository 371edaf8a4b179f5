"""CLIP score: how well images show their captions. Two definitions that share a name and nothing else."""

import torch
from torch import Tensor

from fpd_eval.metrics.matrices import Features, matrix

MAX_PAIRS = 30_000


def cosines(images: Features, texts: Features) -> Tensor:
    """Cosine similarity of every pair.

    Args:
        images: [N, D] features, not normalised, any float dtype; computed in float64.
        texts: [N, D], row i is the caption of image i.

    Returns:
        [N] float64 in [-1, 1].

    Raises:
        ValueError: not finite matrices of one shape, or a row of zeros.
    """
    shown, said = matrix(images, "image"), matrix(texts, "caption")
    if shown.shape != said.shape:
        raise ValueError(f"image features {list(shown.shape)} and caption features {list(said.shape)} do not pair up")
    lengths = shown.norm(dim=1) * said.norm(dim=1)
    if not bool(lengths.all()):
        raise ValueError("a feature vector is all zeros; its direction is not defined")
    similarity: Tensor = (shown * said).sum(dim=1) / lengths
    return similarity


def clip_score_vit_g(images: Features, texts: Features) -> float:
    """Mean plain cosine of the first 30,000 pairs, neither times 100 nor clipped, as Di[M]O table 8 prints it.

    Args:
        images: [N, D] of open_clip ViT-g-14 `laion2b_s12b_b42k`.
        texts: [N, D] of captions with the prefix `A photo depicts`.
    """
    return float(cosines(images, texts)[:MAX_PAIRS].mean())


def clip_score_vit_l(images: Features, texts: Features) -> float:
    """CLIPScore of torchmetrics: 100 × mean cosine, clipped at 0 after the mean.

    Args:
        images: [N, D] of `openai/clip-vit-large-patch14`.
        texts: [N, D] of the captions as they are.
    """
    return float(torch.clamp(100 * cosines(images, texts).mean(), min=0))
