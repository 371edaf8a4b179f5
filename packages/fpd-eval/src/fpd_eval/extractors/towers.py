"""Networks with a tower for images and one for captions, into one feature space."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from fpd_eval.images.pairs import Pairs


class Towers(ABC):
    """Outputs "images" [B, D] and "texts" [B, D]; `fingerprint` is the hash of weights and preparation rules."""

    fingerprint: str

    def __call__(self, pairs: Pairs) -> dict[str, Tensor]:
        return {"images": self.images(pairs.pictures), "texts": self.texts(pairs.captions)}

    @abstractmethod
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images of any size -> float32 [B, D] on the CPU, not normalised."""

    @abstractmethod
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Captions -> float32 [B, D] on the CPU, not normalised."""
