"""Human preference score v2 (Wu et al. 2023, arXiv:2306.09341). Versions 2.0 and 2.1 are two scales."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.config import Config
from fpd_eval.metrics.clip_score import cosines
from fpd_eval.metrics.matrices import Features

HpsVersion = Literal["v2.0", "v2.1"]
VERSIONS: tuple[HpsVersion, ...] = get_args(HpsVersion)
STYLES = ("anime", "concept-art", "paintings", "photo")
GROUP = 80


class StyleScore(Config):
    """Scores of one style: mean of the group means, and their standard deviation over the groups."""

    mean: float
    std: float = Field(description="Over groups of 80 consecutive prompts, dividing by their number.")
    num_images: int


class HpsScores(Config):
    """One system's scores under one version of the weights.

    `average` is the mean over all images of all styles. It is not the mean of the styles where they differ in size.
    """

    version: HpsVersion
    styles: dict[str, StyleScore]
    average: float

    def columns(self) -> dict[str, float]:
        """Metric name -> value; the version is part of every name."""
        named = {f"hps_{self.version}_{style}": score.mean for style, score in self.styles.items()}
        return named | {f"hps_{self.version}_average": self.average}


def hps_scores(images: Features, texts: Features) -> Tensor:
    """100 × cosine of every pair, without the logit scale: [N, D] and [N, D] -> [N] float64."""
    return 100 * cosines(images, texts)


def aggregate(scores: Mapping[str, Tensor], version: HpsVersion) -> HpsScores:
    """Scores per image -> scores per style and their average, as the official benchmark reports them.

    Args:
        scores: [N] per style, in prompt order.

    Raises:
        ValueError: no style, or a style without images.
    """
    if not scores or not all(len(values) for values in scores.values()):
        raise ValueError("HPSv2 needs at least one style with at least one image")
    styles = {style: _style_score(values.double()) for style, values in scores.items()}
    return HpsScores(version=version, styles=styles, average=float(torch.cat(list(scores.values())).double().mean()))


def one_version(results: Sequence[HpsScores]) -> HpsVersion:
    """The version that all rows of a table share.

    Raises:
        ValueError: rows of different versions, or none.
    """
    versions = sorted({result.version for result in results})
    if len(versions) != 1:
        found = " and ".join(versions) or "no row"
        raise ValueError(f"a table of HPSv2 scores needs one version of the weights, got {found}: the scales differ")
    return results[0].version


def _style_score(scores: Tensor) -> StyleScore:
    means = torch.stack([group.mean() for group in scores.split(GROUP)])
    return StyleScore(mean=float(means.mean()), std=float(means.std(correction=0)), num_images=len(scores))
