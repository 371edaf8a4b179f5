"""Mask2Former Swin-S, fed and read the way mmdetection does.

Two sets of weights fit: those of OpenMMLab, which GenEval's program uses, and those of Facebook on the Hugging Face
hub, whose scores others found about 0.025 lower (vita-epfl/RDM: docs/geneval_protocol.md). They are two detectors. The
library's own `post_process_instance_segmentation` is not used: it scores masks at the size of the network's output and
lets overlapping objects overwrite each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fpd_core.checkpoints import CheckpointError, read_config, unfit
from fpd_core.hashing import hash_tensors
from fpd_eval.extractors.weights import DAMAGE, open_pretrained
from fpd_eval.geneval.classes import CLASSES
from fpd_eval.geneval.detector import Detection, Detections
from fpd_eval.geneval.mmdet_weights import load_mmdet
from fpd_eval.geneval.preprocessing import PREPROCESSINGS, Preprocessing, Size, size_of

MAX_DETECTIONS = 100
OPENMMLAB, FACEBOOK = "Mask2Former Swin-S of OpenMMLab", "Mask2Former Swin-S of Facebook"


@dataclass(frozen=True)
class Instances:
    """N detections of one image, unsorted: `labels` [N] int64, `scores` [N], `boxes` [N, 4], `masks` [N, H, W] bool."""

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor


class Mask2FormerDetector:
    """Images -> detections of COCO's 80 classes.

    Args:
        model: transformers' Mask2FormerForUniversalSegmentation with 80 classes in COCO's order.
        name: who trained it, as tables name it.
        preprocessing: how images reach the network.
        batch_size: images of one size per forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = FACEBOOK,
        preprocessing: Preprocessing = "mmdet-3.3",
        device: torch.device | str = "cpu",
        batch_size: int = 8,
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.device, self.batch_size = torch.device(device), batch_size
        self._prepare = PREPROCESSINGS[preprocessing]
        self.identity: dict[str, Any] = {
            "detector": name,
            "preprocessing": preprocessing,
            "weights_sha256": hash_tensors(model.state_dict()),
        }

    @classmethod
    def load(cls, path: Path, **options: Any) -> "Mask2FormerDetector":
        """From a file of mmdetection 3.x or 2.x, or from a folder with `config.json` and weights as on the hub.

        Raises:
            CheckpointError: damaged, another network, or not the 80 classes of COCO instances.
        """
        if path.is_dir():
            return cls(_load(path), name=FACEBOOK, **options)
        return cls(load_mmdet(path), name=OPENMMLAB, **options)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[Detections]:
        found: list[Detections] = []
        # Without mixed padding, a batch gives what single images give.
        for _, same_size in groupby(images, key=lambda image: image.size):
            for batch in torch.split(torch.stack([_pixels(image) for image in same_size]), self.batch_size):
                found += self._detect(batch.to(self.device))
        return found

    def _detect(self, pixels: Tensor) -> list[Detections]:
        inputs, resized = self._prepare(pixels)
        outputs = self.model(pixel_values=inputs)
        return [
            by_class(
                postprocess(
                    class_logits.float(),
                    mask_logits.float(),
                    padded_size=size_of(inputs),
                    resized_size=resized,
                    image_size=size_of(pixels),
                )
            )
            for class_logits, mask_logits in zip(
                outputs.class_queries_logits, outputs.masks_queries_logits, strict=True
            )
        ]


def postprocess(
    class_logits: Tensor, mask_logits: Tensor, *, padded_size: Size, resized_size: Size, image_size: Size
) -> Instances:
    """mmdetection's instances from the outputs of the last decoder layer.

    The best 100 pairs of query and class, so a query may appear with several classes; no threshold, no NMS. Masks are
    scored at the size of the image: score = class probability x mean mask probability inside the mask.

    Args:
        class_logits: [Q, C + 1], the last class is "no object".
        mask_logits: [Q, h, w], of the padded input.
        padded_size, resized_size, image_size: (height, width) of the network's input, without its padding, and of the
            image itself.

    Returns:
        Boxes are tight around the masks, the far edges exclusive; an empty mask has box 0, 0, 0, 0 and score 0.
    """
    probabilities = class_logits.softmax(-1)[:, :-1]
    count = min(MAX_DETECTIONS, probabilities.numel())
    class_scores, flat = probabilities.flatten().topk(count, sorted=False)
    queries, where = (flat // probabilities.shape[1]).unique(return_inverse=True)
    resized = _upsample(mask_logits[queries], padded_size)[:, : resized_size[0], : resized_size[1]]
    logits = _upsample(resized, image_size)
    masks = logits > 0
    mask_scores = (logits.sigmoid() * masks).sum((1, 2)) / (masks.sum((1, 2)) + 1e-6)
    return Instances(
        labels=flat % probabilities.shape[1],
        scores=class_scores * mask_scores[where],
        boxes=_tight_boxes(masks)[where],
        masks=masks[where],
    )


def by_class(instances: Instances) -> Detections:
    """Grouped by GenEval's class names, mapped by index; the order within a class is kept."""
    found: Detections = {}
    rows = zip(
        instances.labels.tolist(),
        instances.boxes.tolist(),
        instances.scores.tolist(),
        instances.masks.cpu().numpy(),
        strict=True,
    )
    for label, (x0, y0, x1, y1), score, mask in rows:
        found.setdefault(CLASSES[label], []).append(Detection(x0, y0, x1, y1, score, mask))
    return {name: found[name] for name in CLASSES if name in found}


def _upsample(logits: Tensor, size: Size) -> Tensor:
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]


def _tight_boxes(masks: Tensor) -> Tensor:
    """bool [N, H, W] -> float32 [N, 4]."""
    (top, bottom), (left, right) = _span(masks.any(2)), _span(masks.any(1))
    return torch.stack([left, top, right, bottom], dim=1).float()


def _span(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last True of every row of bool [N, S]; 0, 0 for an empty row."""
    positions = torch.arange(occupied.shape[1], device=occupied.device)
    last = ((positions + 1) * occupied).amax(1)
    first = positions.expand_as(occupied).masked_fill(~occupied, occupied.shape[1]).amin(1)
    return torch.where(last > 0, first, 0), last


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _load(folder: Path) -> nn.Module:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    # Without the file the library would answer with a default network.
    stored = read_config(folder)
    try:
        classes = Mask2FormerConfig.from_dict(stored).num_labels
    except DAMAGE as error:
        raise unfit(folder, "holds no Mask2Former", error) from None
    if classes != len(CLASSES):
        raise CheckpointError(f"{folder} knows {classes} classes, not the {len(CLASSES)} of COCO instances")
    network: nn.Module = open_pretrained(Mask2FormerForUniversalSegmentation, folder, "Mask2Former")
    return network
