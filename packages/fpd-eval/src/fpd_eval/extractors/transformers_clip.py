"""`openai/clip-vit-large-patch14` in transformers, prepared as torchmetrics' CLIPScore does."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPModel, CLIPProcessor, CLIPTextConfig

from fpd_core.checkpoints import unfit
from fpd_core.hashing import hash_tensors
from fpd_eval.extractors.towers import Towers
from fpd_eval.extractors.weights import DAMAGE, locate, open_pretrained
from fpd_eval.runtime.cache import hash_json


class TransformersClip(Towers):
    """A folder as `save_pretrained` writes it: `config.json`, weights, tokenizer and image processor.

    torchmetrics itself is not called: 1.9.0 expects transformers 4, whose towers return bare tensors.

    Raises:
        CheckpointError: the folder lacks a file or its weights are damaged.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._model, self._device = open_pretrained(CLIPModel, folder, "CLIP model of transformers"), device
        try:
            self._processor = CLIPProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            modules: nn.Module = self._model
            modules.to(device).eval().requires_grad_(False)
            self._max_tokens = CLIPTextConfig.from_pretrained(folder).max_position_embeddings
            # Settings that do not fit the network, or each other, show only in use.
            self.images([Image.new("RGB", (2, 2))])
            self.texts(["a"])
        except DAMAGE as error:
            raise unfit(folder, "holds no CLIP model of transformers", error) from None
        options = self._processor.image_processor.to_dict()
        self.fingerprint = hash_json(["torchmetrics CLIPScore", hash_tensors(self._model.state_dict()), options])

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"].to(self._device)
        vision = self._model.vision_model(pixel_values=pixels)
        features: Tensor = self._model.visual_projection(vision.pooler_output)
        return features.float().cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """As of every tower."""
        tokens = self._tokens(texts)
        ids, mask = (tokens[name][:, : self._max_tokens].to(self._device) for name in ("input_ids", "attention_mask"))
        text = self._model.text_model(input_ids=ids, attention_mask=mask)
        features: Tensor = self._model.text_projection(text.pooler_output)
        return features.float().cpu()

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Long captions lose their end, the end token included."""
        return dict(self._processor(text=list(texts), return_tensors="pt", padding=True))


def clip_vit_l(device: torch.device, weights: Path | None = None) -> TransformersClip:
    return TransformersClip(locate("clip_vitl14_transformers", weights), device)
