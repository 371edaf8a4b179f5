"""The table of code vectors, under the name that the public tokenizers give it: `quantize.embedding.weight`."""

from torch import Tensor, nn
from torch.nn import functional as F


class Codebook(nn.Module):
    """E [K, d] with nearest-neighbour lookup, no moving averages.

    Args:
        unit: rows count by their direction alone, as in LlamaGen: l2-normalised at every use, whatever is stored.
    """

    def __init__(self, codebook_size: int, code_dim: int, *, unit: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, code_dim)
        self.unit = unit

    @property
    def vectors(self) -> Tensor:
        """E [K, d] as decoders read it."""
        return self._as_used(self.embedding.weight)

    def _as_used(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.unit else vectors

    def nearest(self, vectors: Tensor) -> Tensor:
        """[..., d] -> [...] int64: the code of least squared distance, computed in float32."""
        flat, codes = self._as_used(vectors.flatten(0, -2).float()), self._as_used(self.embedding.weight.float())
        # |v|^2 is the same for every code.
        distance = codes.square().sum(1) - 2 * flat @ codes.T
        return distance.argmin(1).view(vectors.shape[:-1])
