"""Inception score (Salimans et al. 2016, arXiv:1606.03498), for any classifier's logits."""

from itertools import pairwise

import numpy as np
import torch

from fpd_eval.metrics.matrices import Features, matrix


def inception_score(
    logits: Features, splits: int = 10, *, split_size: int | None = None, shuffle: bool = True, seed: int = 2020
) -> tuple[float, float]:
    """exp(mean_i KL(p_i ‖ p̄)) of each split, then mean and population standard deviation over the splits.

    Split rule and permutation are torch-fidelity's: rows are permuted by `RandomState(seed)`, split j holds rows
    ⌊jN/S⌋ to ⌊(j+1)N/S⌋. Without `shuffle`, images ordered by class score far too low.

    Args:
        logits: [N, C], unnormalised, any float dtype; computed in float64.
        split_size: rows per split instead of a number of splits, the last one shorter where N is no multiple: ADM's
            evaluator, with 5000 and no shuffling.

    Returns:
        (mean, std), mean in [1, C].

    Raises:
        ValueError: not a finite matrix, or fewer rows than splits.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    if split_size is not None and split_size < 1:
        raise ValueError(f"split_size must be at least 1, got {split_size}")
    rows = matrix(logits, "logit", min_rows=1 if split_size else splits)
    if shuffle:
        permutation = np.random.RandomState(seed).permutation(len(rows))
        rows = rows[torch.from_numpy(permutation).to(rows.device)]
    count = len(rows)
    if split_size is None:
        bounds = [j * count // splits for j in range(splits + 1)]
    else:
        bounds = [*range(0, count, split_size), count]
    scores = []
    for start, end in pairwise(bounds):
        log_p = rows[start:end].log_softmax(dim=1)
        p = log_p.exp()
        mean_p = p.mean(0)
        # A probability that underflows contributes its limit 0, not 0 · log 0; so does one whose mean underflows.
        terms = torch.where((p > 0) & (mean_p > 0), p * (log_p - mean_p.log()), 0.0)
        scores.append(float(terms.sum(1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))
