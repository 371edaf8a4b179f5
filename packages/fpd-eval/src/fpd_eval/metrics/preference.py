"""Learned human preference: how a network trained on people's choices likes images for their captions."""

from fpd_eval.metrics.clip_score import cosines
from fpd_eval.metrics.matrices import Features, matrix


def pick_score(images: Features, texts: Features, scale: float) -> float:
    """PickScore (Kirstain et al. 2023, arXiv:2305.01569): mean of `scale` × cosine, about 20 for good images.

    Args:
        images: [N, D] of `yuvalkirstain/PickScore_v1`, any float dtype; computed in float64.
        texts: [N, D] of the captions.
        scale: exp of the network's `logit_scale`, about 100.
    """
    return scale * float(cosines(images, texts).mean())


def mean_reward(rewards: Features) -> float:
    """HPSv3 (Ma et al. 2025, arXiv:2508.03789): mean of μ, the first of the two numbers [N, 2] that its head gives."""
    return float(matrix(rewards, "reward")[:, 0].mean())
