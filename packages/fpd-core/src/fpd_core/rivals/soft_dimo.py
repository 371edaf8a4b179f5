"""Soft-Di[M]O's adversarial term: expected token embeddings are what the teacher's backbone sees of a student.

No program is public; this follows notes, the poster and the reviews. Known: ẽ_i = Σ_v p_S,i(v) E_v with the teacher's
token embedding E (`ste.soft_embedding`), plain softmax; light heads on several layers of the frozen teacher; the real
input are the embeddings of real tokens; embeddings are replaced by the mask's at a random share r, best in [0, 0.95];
the generator's term is -log D. Guesses: each position is replaced on its own; the discriminator's term is the other
half of the same non-saturating pair; logits are averaged over positions and heads. The anchor is Di[M]O's loss
(`dimo`), and the weight of this term is relative to its sum over positions and codes (a guess as well). Left out: the
reward term, whose model would have to be another than the judge.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_embeddings(embeddings: Tensor, mask_embedding: Tensor, share: Tensor, places: Tensor) -> Tensor:
    """[B, L, D] with the mask's embedding [D] where the uniform number [B, L] is below the share r [B]."""
    return torch.where((places < share[:, None])[..., None], mask_embedding, embeddings)


def generator_loss(logits: Sequence[Tensor]) -> Tensor:
    """-log D of generated embeddings, each head's logits [B, L]: mean over all."""
    return torch.stack([F.softplus(-one.float()).mean() for one in logits]).mean()


def discriminator_loss(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """-log D(real) - log(1 - D(fake)): mean over positions, images and heads."""
    pairs = zip(fake, real, strict=True)
    return torch.stack([F.softplus(f.float()).mean() + F.softplus(-r.float()).mean() for f, r in pairs]).mean()
