"""Whether results differ by more than their training seeds: Welch's t-test, corrected by Holm for several questions."""

import math
import warnings
from collections.abc import Sequence

from scipy import stats

LEVEL = 0.05


def welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p of equal means, variances being free; None where it cannot be told: a single value on a side, or no
    spread on either."""
    return None if min(len(first), len(second)) < 2 else _p(first, second)


def against_fixed(values: Sequence[float], fixed: float) -> float | None:
    """Two-sided p of the mean being `fixed`, a number without training seeds; None as in `welch`."""
    return None if len(values) < 2 else _p(values, fixed)


def _p(first: Sequence[float], second: Sequence[float] | float) -> float | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of values without spread, whose p is not a number
        if isinstance(second, Sequence):
            p = float(stats.ttest_ind(first, second, equal_var=False).pvalue)
        else:
            p = float(stats.ttest_1samp(first, second).pvalue)
    spread = len(set(first)) > 1 or (isinstance(second, Sequence) and len(set(second)) > 1)
    return p if spread and math.isfinite(p) else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Step-down corrected p-values in the given order: below a level they keep the chance of any false finding among
    these questions below it (Holm 1979). None asks nothing and stays."""
    asked = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(asked):
        highest = max(highest, min(1.0, (len(asked) - rank) * p))
        corrected[place] = highest
    return corrected
