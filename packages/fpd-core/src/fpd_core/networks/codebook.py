"""The table of code vectors, under the name that the public tokenizers give it: `quantize.embedding.weight`."""

from torch import Tensor, nn


class Codebook(nn.Module):
    """E [K, d] with nearest-neighbour lookup: no normalisation, no moving averages."""

    def __init__(self, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, code_dim)

    def nearest(self, vectors: Tensor) -> Tensor:
        """[..., d] -> [...] int64: the code of least squared distance, computed in float32."""
        flat, codes = vectors.flatten(0, -2).float(), self.embedding.weight.float()
        # |v|^2 is the same for every code.
        distance = codes.square().sum(1) - 2 * flat @ codes.T
        return distance.argmin(1).view(vectors.shape[:-1])
