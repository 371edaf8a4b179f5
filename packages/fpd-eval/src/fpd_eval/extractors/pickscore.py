"""PickScore's CLIP ViT-H/14 in transformers."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fpd_eval.extractors.transformers_clip import TransformersClip
from fpd_eval.extractors.weights import locate
from fpd_eval.images.pairs import Pairs
from fpd_eval.runtime.cache import hash_json


class PickScore(TransformersClip):
    """A folder with the model of `yuvalkirstain/PickScore_v1` and tokenizer and image processor of
    `laion/CLIP-ViT-H-14-laion2B-s32B-b79K`, as the official program takes them.

    Outputs "images", "texts" as of every tower and "scale" [B, 1].

    Raises:
        CheckpointError: the folder lacks a file or its weights are damaged.
    """

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        super().__init__(locate("pickscore", weights), device)
        self.fingerprint = hash_json(["PickScore", self.fingerprint])

    def __call__(self, pairs: Pairs) -> dict[str, Tensor]:
        scale = self._model.logit_scale.detach().float().exp().cpu()
        return {**super().__call__(pairs), "scale": scale.expand(len(pairs), 1)}

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Long captions are cut before the end token, which the network reads."""
        options = {"padding": True, "truncation": True, "max_length": self._max_tokens}
        return dict(self._processor(text=list(texts), return_tensors="pt", **options))
