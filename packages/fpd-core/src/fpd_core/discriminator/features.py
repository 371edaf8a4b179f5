"""The frozen pretrained networks of the two branches: images -> feature maps at four depths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0
from fpd_core.config import Config, Location, Whole
from fpd_core.containers import load_public
from fpd_core.networks.synthetic import fill_synthetic
from fpd_core.plugins import Registry
from fpd_core.sections import Sections, section_pair
from fpd_core.weights import RequiredFile, require, weight_file

DEIT = weight_file("deit", "discriminator")
SIDE = 224  # that the pretrained networks were made for
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DeitBranch(Config):
    """DeiT-base distilled, always at 224 pixels; `fpd-train weights pull deit` fetches it."""

    name: Literal["deit"] = "deit"
    path: Location = Field(DEIT.local, description="Weight file in timm's naming.")
    weights: Literal["public", "synthetic"] = Field(
        "public", description="`synthetic` fills the network by formula, to prove and profile the path."
    )

    def required_files(self) -> list[RequiredFile]:
        """Published files this branch needs."""
        return [] if self.weights == "synthetic" else [RequiredFile(self.path, DEIT)]


class EfficientNetBranch(Config):
    """EfficientNet-Lite0, whose weights come with a Python package."""

    name: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    image_size: Annotated[Whole, Field(ge=64, le=4096, multiple_of=32)] | None = Field(
        None, description="Images are resized to this side first; null: to 224 those that are smaller, no others."
    )

    def required_files(self) -> list[RequiredFile]:
        """None: the weights come with a Python package."""
        return []


@dataclass(frozen=True)
class Taps:
    """What a branch hands on: channels and side of its four maps, and whether they are tokens of a transformer, all of
    one side, that must be made into a pyramid first."""

    channels: tuple[int, ...]
    sides: tuple[int, ...]
    are_tokens: bool


class Deit(nn.Module):
    """DeiT's tokens after blocks 2, 5, 8, 11, counted from 0, without final norm, class and distillation token."""

    taps = Taps((768,) * 4, (14,) * 4, are_tokens=True)
    blocks = (2, 5, 8, 11)
    mean: Tensor
    std: Tensor

    def __init__(self, config: DeitBranch, image_size: int) -> None:
        super().__init__()
        require(config.required_files())
        import timm  # for seconds

        self.network: Any = timm.create_model("deit_base_distilled_patch16_224", pretrained=False)
        if config.weights == "synthetic":
            fill_synthetic(self.network)
        else:
            load_public(self.network, config.path)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [-1, 1] -> four [B, 768, 14, 14]."""
        images = F.interpolate((images / 2 + 0.5 - self.mean) / self.std, (SIDE, SIDE), mode="bilinear")
        maps: list[Tensor] = self.network.forward_intermediates(
            images, indices=list(self.blocks), intermediates_only=True, stop_early=True
        )
        return maps


class EfficientNet(nn.Module):
    """EfficientNet-Lite0's maps at strides 4, 8, 16, 32."""

    def __init__(self, config: EfficientNetBranch, image_size: int) -> None:
        super().__init__()
        side = config.image_size or max(image_size, SIDE)
        if side % 32:
            raise ValueError(
                f"the discriminator's EfficientNet needs a side divisible by 32, the images have {side}; "
                "set image_size of the branch"
            )
        self.network = EfficientNetLite0(blocks=(1, 2, 3, 4), image_size=side)
        self.taps = Taps((24, 40, 112, 320), tuple(side // stride for stride in (4, 8, 16, 32)), are_tokens=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [-1, 1] -> 24, 40, 112 and 320 channels."""
        maps: list[Tensor] = self.network(images / 2 + 0.5)
        return maps


_OWN: dict[str, tuple[type[Config], Callable[[Any, int], nn.Module]] | str] = {
    "deit": (DeitBranch, Deit),
    "efficientnet_lite0": (EfficientNetBranch, EfficientNet),
}
BRANCHES = Registry("fpd.discriminator_branches", "branch of the discriminator", _OWN, section_pair(Config))

if TYPE_CHECKING:
    BranchConfig = DeitBranch | EfficientNetBranch
else:
    BranchConfig = Annotated[Config, Sections(BRANCHES)]


class Features(nn.Module):
    """The frozen networks of all branches, in eval mode for good.

    Kept out of the discriminator's own tree: they are neither trained nor saved.

    Args:
        image_size: side of the images to come.

    Raises:
        CheckpointError: a weight file is absent or does not fit.
        ValueError: a branch cannot take images of this size.
    """

    def __init__(self, branches: Sequence[BranchConfig], image_size: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(BRANCHES[branch.name][1](branch, image_size) for branch in branches)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Features":
        """Stays in eval mode whatever a parent module does."""
        return super().train(False)

    @property
    def taps(self) -> list[Taps]:
        """What each branch hands on."""
        return [branch.taps for branch in self.branches]  # type: ignore[misc]

    def forward(self, images: Tensor, change: Callable[[Tensor], Tensor]) -> list[list[Tensor]]:
        """Maps of every branch, with gradient to the images.

        Args:
            images: [B, 3, H, W] in [0, 1].
            change: applied to the images in [-1, 1] once per branch, so that each sees an augmentation of its own.
        """
        return [branch(change(images * 2 - 1)) for branch in self.branches]
