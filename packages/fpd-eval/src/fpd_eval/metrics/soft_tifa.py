"""Soft-TIFA (GenEval 2; Kamath et al. 2025, arXiv:2512.16853): how sure a network is of the right answers."""

import math
from collections.abc import Sequence
from statistics import fmean


def soft_tifa_am(prompts: Sequence[Sequence[float]]) -> float:
    """100 × the mean over prompts of the mean probability of their right answers: the atoms' view.

    Raises:
        ValueError: no prompt, a prompt without answers, or a number that is no probability.
    """
    return 100 * fmean(fmean(answers) for answers in _checked(prompts))


def soft_tifa_gm(prompts: Sequence[Sequence[float]]) -> float:
    """100 × the mean over prompts of the geometric mean: the prompts' view, in which one wrong answer fails all."""
    return 100 * fmean(_geometric(answers) for answers in _checked(prompts))


def _geometric(answers: Sequence[float]) -> float:
    return math.exp(fmean(map(math.log, answers))) if all(answers) else 0.0


def _checked(prompts: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    if not prompts or not all(prompts):
        raise ValueError("Soft-TIFA needs prompts with at least one answer each")
    wrong = [one for answers in prompts for one in answers if not 0 <= one <= 1]
    if wrong:
        raise ValueError(f"{wrong[0]} is no probability of an answer")
    return prompts
