"""open_clip models that score images against captions: Di[M]O's CLIP score and HPSv2."""

from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from fpd_core.checkpoints import CheckpointError, unfit
from fpd_core.containers import read_public
from fpd_core.hashing import hash_tensors
from fpd_eval.extractors.towers import Towers
from fpd_eval.extractors.weights import DAMAGE, locate
from fpd_eval.images.squares import centre_square
from fpd_eval.metrics.hpsv2 import VERSIONS, HpsVersion
from fpd_eval.runtime.cache import hash_json

CLIP_SCORE_ARCHITECTURE, HPS_ARCHITECTURE = "ViT-g-14", "ViT-H-14"
CONTEXT_LENGTH = 77
END_TOKEN = 49407
PREFIX_TOKENS = (320, 1125, 29340)  # "a photo depicts"
CROP_SIZE = 256


class OpenClipTowers(Towers):
    """A frozen open_clip model behind the rules of one metric.

    Args:
        model: maps images [B, 3, H, W] and tokens [B, 77] to features.
        name: of the rules, part of the fingerprint.
        prepare: RGB image -> normalised [3, H, W].
        tokenize: captions -> int64 [B, 77].
        half_on_cuda: run under float16 autocast on a GPU, as the official program does.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        prepare: Callable[[Image.Image], Tensor],
        tokenize: Callable[[list[str]], Tensor],
        device: torch.device,
        half_on_cuda: bool = False,
    ) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._prepare, self._tokenize, self._device = prepare, tokenize, device
        self._half = half_on_cuda and device.type == "cuda"
        self.fingerprint = hash_json([name, hash_tensors(model.state_dict()), self._half])

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        batch = torch.stack([self._prepare(image) for image in images]).to(self._device)
        with torch.autocast(self._device.type, torch.float16, enabled=self._half):
            features: Tensor = self._model.encode_image(batch)  # type: ignore[operator]
        return features.float().cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self._tokenize(list(texts)).to(self._device)
        with torch.autocast(self._device.type, torch.float16, enabled=self._half):
            features: Tensor = self._model.encode_text(tokens)  # type: ignore[operator]
        return features.float().cpu()


def clip_score_model(path: Path, device: torch.device) -> OpenClipTowers:
    """ViT-g-14 `laion2b_s12b_b42k` in float32 with the preparation of Di[M]O's evaluation, after GigaGAN's.

    Raises:
        CheckpointError: the file is damaged or of another network.
    """
    model = load_open_clip(CLIP_SCORE_ARCHITECTURE, path)
    validation = open_clip.image_transform(model.visual.image_size, is_train=False)

    def prepare(image: Image.Image) -> Tensor:
        square = centre_square(image).resize((CROP_SIZE, CROP_SIZE), Image.Resampling.LANCZOS)
        pixels: Tensor = validation(square)
        return pixels

    return OpenClipTowers(model, "clip_score_vit_g", prepare=prepare, tokenize=prefixed_tokens, device=device)


def hps_model(version: HpsVersion, path: Path, device: torch.device) -> OpenClipTowers:
    """ViT-H-14 with the HPSv2 weights of one version.

    The image becomes a tensor in [0, 1] before it is resized, with antialiasing: what torchvision 0.17 and later do in
    the official program.

    Raises:
        CheckpointError: the file is damaged, of another network, or named after the other version.
    """
    others = [other for other in VERSIONS if other != version and f"HPS_{other}_" in path.name]
    if others or (version == "v2.1" and path.name.startswith("HPS_v2_")):
        raise CheckpointError(f"{path} is not HPSv2 {version} by its name; the two versions are different scales")
    model = load_open_clip(HPS_ARCHITECTURE, path)
    prepare = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize(model.visual.image_size[0], v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(model.visual.image_size),
            v2.Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
        ]
    )
    return OpenClipTowers(
        model, f"hps_{version}", prepare=prepare, tokenize=plain_tokens, device=device, half_on_cuda=True
    )


def clip_vit_g(device: torch.device, weights: Path | None = None) -> OpenClipTowers:
    return clip_score_model(locate("clip_vitg14_laion2b", weights), device)


def hps_v2_0(device: torch.device, weights: Path | None = None) -> OpenClipTowers:
    return hps_model("v2.0", locate("hps_v2.0", weights), device)


def hps_v2_1(device: torch.device, weights: Path | None = None) -> OpenClipTowers:
    return hps_model("v2.1", locate("hps_v2.1", weights), device)


def plain_tokens(texts: list[str]) -> Tensor:
    """OpenAI's byte-pair tokens [B, 77], cut at 77, zero-padded."""
    tokens: Tensor = open_clip.tokenize(texts, context_length=CONTEXT_LENGTH)
    return tokens


def prefixed_tokens(texts: list[str]) -> Tensor:
    """`plain_tokens` with "a photo depicts" after the start token; a full row ends in the end token."""
    tokens = plain_tokens(texts)
    prefix = torch.tensor(PREFIX_TOKENS).expand(len(texts), -1)
    tokens = torch.cat([tokens[:, :1], prefix, tokens[:, 1:]], dim=1)[:, :CONTEXT_LENGTH]
    tokens[:, -1] = torch.where(tokens[:, -1] == 0, 0, END_TOKEN)
    return tokens


def load_open_clip(architecture: str, path: Path) -> open_clip.CLIP:
    """An open_clip model in float32 with the weights of a local file, never unpickled.

    Raises:
        CheckpointError: the file is damaged or of another network.
    """
    try:
        read_public(path)  # before gigabytes of a network are made for what is no weight file
        model = open_clip.create_model(architecture, load_weights=False)
        open_clip.load_checkpoint(model, str(path), weights_only=True)
    except DAMAGE as error:
        raise unfit(path, f"does not hold weights of open_clip {architecture}", error) from None
    assert isinstance(model, open_clip.CLIP)
    return model
