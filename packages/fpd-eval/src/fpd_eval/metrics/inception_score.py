"""Inception score (Salimans et al. 2016, arXiv:1606.03498), for any classifier's logits."""

import numpy as np
import torch

from fpd_eval.metrics.matrices import Features, matrix


def inception_score(
    logits: Features, splits: int = 10, *, shuffle: bool = True, seed: int = 2020
) -> tuple[float, float]:
    """exp(mean_i KL(p_i ‖ p̄)) of each split, then mean and population standard deviation over the splits.

    Split rule and permutation are torch-fidelity's: rows are permuted by `RandomState(seed)`, split j holds rows
    ⌊jN/S⌋ to ⌊(j+1)N/S⌋. Without `shuffle`, images ordered by class score far too low.

    Args:
        logits: [N, C], unnormalised, any float dtype; computed in float64.

    Returns:
        (mean, std), mean in [1, C].

    Raises:
        ValueError: not a finite matrix, or fewer rows than splits.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    rows = matrix(logits, "logit", min_rows=splits)
    if shuffle:
        permutation = np.random.RandomState(seed).permutation(len(rows))
        rows = rows[torch.from_numpy(permutation).to(rows.device)]
    count = len(rows)
    scores = []
    for j in range(splits):
        log_p = rows[j * count // splits : (j + 1) * count // splits].log_softmax(dim=1)
        p = log_p.exp()
        # A probability that underflows contributes its limit 0, not 0 · log 0.
        terms = torch.where(p > 0, p * (log_p - p.mean(0).log()), 0.0)
        scores.append(float(terms.sum(1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))
