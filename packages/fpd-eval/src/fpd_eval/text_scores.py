"""CLIP score and HPSv2 of image files and their captions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, PositiveInt

from fpd_core.config import Config
from fpd_eval.metrics.clip_score import MAX_PAIRS, clip_score_vit_g, clip_score_vit_l
from fpd_eval.metrics.hpsv2 import HpsVersion, StyleScore, aggregate, hps_scores
from fpd_eval.progress import Track
from fpd_eval.text_image import TextImageModel, paired_features

ClipModel = Literal["vit-g-14", "vit-l-14"]
CLIP_WEIGHTS: dict[ClipModel, str] = {"vit-g-14": "clip_vitg14_laion2b", "vit-l-14": "clip_vitl14_transformers"}
HPS_WEIGHTS: dict[HpsVersion, str] = {"v2.0": "hps_v2.0", "v2.1": "hps_v2.1"}


class TextScores(Config):
    """Scores of one set of images. `values` are named after what measured them: other names are other scales."""

    values: dict[str, float]
    num_images: PositiveInt
    follows: str = Field(description="The program whose numbers these are to be compared with.")
    model: str = Field(description="Hash of the weights and of the rules before them.")
    styles: dict[str, StyleScore] = Field({}, description="Of HPSv2, with their spread.")


def load_clip(name: ClipModel, path: Path, device: torch.device) -> TextImageModel:
    """The model behind one CLIP score.

    Raises:
        CheckpointError: `path` does not hold its weights.
    """
    if name == "vit-g-14":
        from fpd_eval.extractors.open_clip_towers import clip_score_model

        return clip_score_model(path, device)
    from fpd_eval.extractors.transformers_clip import TransformersClip

    return TransformersClip(path, device)


def measure_clip_score(
    model: TextImageModel,
    name: ClipModel,
    files: Sequence[Path],
    texts: Sequence[str],
    *,
    batch_size: int,
    track: Track,
) -> TextScores:
    """CLIP score of images in the order of their captions; ViT-g-14 takes the first 30,000.

    Raises:
        ValueError: an image is absent, damaged or transparent.
    """
    used = slice(MAX_PAIRS if name == "vit-g-14" else None)
    files, texts = files[used], texts[used]
    shown, said = paired_features(model, files, texts, title="CLIP score", batch_size=batch_size, track=track)
    if name == "vit-g-14":
        values, follows = {"clip_score_vit_g": clip_score_vit_g(shown, said)}, "Di[M]O, table 8: plain cosine"
    else:
        values, follows = {"clip_score_vit_l": clip_score_vit_l(shown, said)}, "torchmetrics CLIPScore: 100 x cosine"
    return TextScores(values=values, num_images=len(files), follows=follows, model=model.fingerprint)


def measure_hps(
    model: TextImageModel,
    version: HpsVersion,
    images: Mapping[str, tuple[Sequence[Path], Sequence[str]]],
    *,
    batch_size: int,
    track: Track,
) -> TextScores:
    """HPSv2 of one system.

    Args:
        images: style -> files and their prompts, in the benchmark's order.

    Raises:
        ValueError: an image is absent, damaged or transparent.
    """
    scores = {
        style: hps_scores(
            *paired_features(model, files, texts, title=f"HPSv2, {style}", batch_size=batch_size, track=track)
        )
        for style, (files, texts) in images.items()
    }
    found = aggregate(scores, version)
    return TextScores(
        values=found.columns(),
        num_images=sum(map(len, scores.values())),
        follows=f"HPSv2 benchmark, weights {version}: 100 x cosine",
        model=model.fingerprint,
        styles=found.styles,
    )
