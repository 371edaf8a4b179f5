"""A decoder that knows its student: trained on the student's own tokens, the transformer frozen, inference unchanged.

Loss: the Fréchet distance (`fpd_core.frechet`) between decoded drafts and real images, in the features of an encoder
that the student's loss did not use, and the error of real images encoded and decoded, which holds the decoder in place.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor, nn
from torch import distributed as dist

from fpd_core.backbones import load_backbone
from fpd_core.backbones.dinov3 import Dinov3Config
from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0Config
from fpd_core.conditioning import Condition
from fpd_core.config import Config, Location, Share, Size, Weight
from fpd_core.frechet import frechet_loss
from fpd_core.generator import Generator, load_generator, save_generator
from fpd_core.networks.classifier import load_classifier
from fpd_core.teachers.teacher import Teacher
from fpd_core.weights import RequiredFile, require
from fpd_train.batch import Batch
from fpd_train.methods.interface import Forward, NetworkSettings, Parts, Report
from fpd_train.methods.real_tokens import Tokenizes
from fpd_train.shared_copy import shared_copy

DECODER = "decoder"
QUALITY_BATCHES = 64


class BundledClassifier(Config):
    """The garments' own classifier, which no student's loss has seen."""

    name: Literal["classifier"] = "classifier"
    path: Location = Field(Path("assets/fashion/classifier"), description="Weight folder of the classifier.")

    def required_files(self) -> list[RequiredFile]:
        """None: it is a weight folder of this repository."""
        return []


def _name(value: Any) -> str | None:
    return str(value.get("name", "classifier")) if isinstance(value, dict) else value.name


EncoderConfig = Annotated[
    Annotated[BundledClassifier, Tag("classifier")]
    | Annotated[EfficientNetLite0Config, Tag("efficientnet_lite0")]
    | Annotated[Dinov3Config, Tag("dinov3")],
    Discriminator(_name),
]


class AlignedDecoderConfig(Config):
    """The short stage after a distillation; its data must bring real images."""

    name: Literal["aligned_decoder"] = "aligned_decoder"
    generator: Location = Field(Path("assets/fashion/student"), description="Folder of the finished student.")
    encoder: EncoderConfig = Field(
        BundledClassifier(), description="Sees drafts and real images; one that the student's loss did not use."
    )
    decay: Share = Field(0.98, description="Of the features' mean and covariance, per micro-batch.")
    reconstruction_weight: Weight = Field(
        1.0, description="Weight of the L1 error of real images through the tokenizer; 0 for a family without encoder."
    )
    grid_images: Size = Field(20, description="Images in each sample grid: rows before, rows after.")


class _Decoder(nn.Module):
    """A family's decoder, alone trained, and the running moments of both sides' features."""

    def __init__(self, model: Teacher, width: int) -> None:
        super().__init__()
        self.model = shared_copy(model)
        for side in ("drafts", "real"):
            self.register_buffer(f"{side}_mean", torch.zeros(width))
            self.register_buffer(f"{side}_square", torch.zeros(width, width))
        self.batches: Tensor
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, embeddings: Tensor, condition: Condition) -> Tensor:
        return self.model.decode(embeddings, condition)

    def moments(self, side: str, features: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Running mean and covariance with features [B, D] taken in; gradients reach these alone."""
        mean, square = getattr(self, f"{side}_mean"), getattr(self, f"{side}_square")
        new_mean = mean.lerp(features.mean(0), weight)
        new_square = square.lerp(features.T @ features / len(features), weight)
        mean.copy_(new_mean.detach())
        square.copy_(new_square.detach())
        return new_mean, new_square - new_mean[:, None] * new_mean


class AlignedDecoderMethod:
    """The decoder of an exported student."""

    product = "student"
    drafts_per_condition = 1

    def __init__(self, config: AlignedDecoderConfig, parts: Parts) -> None:
        require(config.encoder.required_files())
        self._config, self._gather = config, parts.world > 1
        self._before = load_generator(config.generator).to(parts.device)
        model = self._before.model
        if config.reconstruction_weight and not isinstance(model, Tokenizes):
            family = model.architecture()["name"]
            raise ValueError(f"method.reconstruction_weight: the {family} family has no encoder; set it to 0")
        self._encoder = _encoder(config.encoder).to(parts.device)
        blank = torch.zeros(1, 3, model.image_size, model.image_size, device=parts.device)
        _train_what_decodes(model)  # marked before the copy, which shares the memory of all the rest
        network = _Decoder(model, self._features(blank).shape[1]).to(parts.device)
        model.requires_grad_(False)
        self.networks: Mapping[str, nn.Module] = {DECODER: network}
        # The moments are buffers, and covariances want full precision.
        self.settings: Mapping[str, NetworkSettings] = {
            DECODER: NetworkSettings(precision="float32", saves_frozen=False)
        }

    def phases(self, step: int) -> Sequence[str]:
        return [DECODER]

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        model = self._before.model
        images, condition = _images(batch), model.condition(batch.condition)
        codebook = model.codebook
        embeddings = codebook[self._before.tokens(condition, generator)]
        if not self._config.reconstruction_weight:
            drafts, error = forward[phase](embeddings, condition), torch.zeros((), device=images.device)
        else:
            assert isinstance(model, Tokenizes)
            both = torch.stack([embeddings, codebook[model.tokenize(images)]], dim=1).flatten(0, 1)
            drafts, rebuilt = forward[phase](both, condition.repeat_interleave(2)).unflatten(0, (-1, 2)).unbind(1)
            error = (rebuilt - images).abs().mean()
        distance, share = self._distance(drafts, images)
        # In units of the real variance, and of this batch's share in the moments: a step does not depend on either.
        loss = distance / share + self._config.reconstruction_weight * error
        return loss, {"loss": loss.item(), "frechet": distance.item(), "l1": error.item()}

    def _distance(self, drafts: Tensor, images: Tensor) -> tuple[Tensor, float]:
        network = self.networks[DECODER]
        assert isinstance(network, _Decoder)
        share = max(1 - self._config.decay, 1 / (1 + int(network.batches)))
        network.batches += 1
        with torch.no_grad():
            real = network.moments("real", self._everyones(self._features(images)), share)
        fake = network.moments("drafts", self._everyones(self._features(drafts)), share)
        return (frechet_loss(*fake, *real) / real[1].double().trace()).float(), share

    def _features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, D]: a classifier's last features, or the means of a backbone's deepest map."""
        found = self._encoder(images)
        features: Tensor = found[0] if isinstance(found, tuple) else found[-1].mean((2, 3))
        return features.float()

    def _everyones(self, features: Tensor) -> Tensor:
        """The features of all ranks, with a gradient to this rank's. Collective."""
        if not self._gather:
            return features
        gathered = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, features.detach().contiguous())
        gathered[dist.get_rank()] = features
        return torch.cat(gathered)

    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        half = torch.arange(self._config.grid_images // 2)
        classes, prompts = self._before.model.num_classes, self._before.model.example_prompts
        wanted = [prompts[i % len(prompts)] for i in half] if classes is None else half % classes
        return torch.cat(
            [one.generate(wanted, seed=generator.initial_seed()) for one in (self._before, self._after(averaged))]
        )

    @torch.no_grad()
    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        """What the stage costs: PSNR of real images encoded and decoded, by the decoder as it was and as it is."""
        before, after = self._before.model, self._after(averaged).model
        if not isinstance(before, Tokenizes):
            return {}
        squared = []
        for _ in range(QUALITY_BATCHES):
            batch = next(validation)
            images, condition = _images(batch), before.condition(batch.condition)
            embeddings = before.codebook[before.tokenize(images)]
            squared.append(
                [
                    (model.decode(embeddings, condition).clamp(0, 1) - images).square().mean()
                    for model in (before, after)
                ]
            )
        psnr = -10 * torch.tensor(squared).mean(0).log10()
        return dict(zip(("psnr_db_before", "psnr_db"), psnr.tolist(), strict=True))

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        after = self._after(averaged)
        network = after.model.network
        save_generator(folder, after.model, network, after.generation, after.teacher_config, card)

    def _after(self, averaged: Mapping[str, nn.Module]) -> Generator:
        network = averaged[DECODER]
        assert isinstance(network, _Decoder)
        return Generator(network.model, self._before.generation, self._before.teacher_config)


def _encoder(config: EncoderConfig) -> nn.Module:
    return load_classifier(config.path) if isinstance(config, BundledClassifier) else load_backbone(config)


def _train_what_decodes(model: Teacher) -> None:
    """Let the weights that an image depends on be trained, and no others: the graph of one image says which."""
    model.requires_grad_(True)
    wanted = model.example_prompts[:1] if model.num_classes is None else [0]
    embeddings = model.codebook[torch.zeros(1, model.seq_len, dtype=torch.int64, device=model.device)].detach()
    with torch.enable_grad():
        image = model.decode(embeddings, model.condition(wanted))
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(image.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _images(batch: Batch) -> Tensor:
    if batch.images is None:
        raise ValueError("a decoder is aligned with real images, and the data brings none; use image_shards")
    return batch.images
