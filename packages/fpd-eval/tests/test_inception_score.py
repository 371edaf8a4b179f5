"""Inception score against torch-fidelity and hand-worked values."""

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from fpd_eval.metrics import inception_score


@pytest.mark.parametrize(
    ("rows", "splits", "shuffle", "seed"), [(103, 10, True, 2020), (64, 3, False, 1), (50, 1, True, 7)]
)
def test_equals_torch_fidelity(rows, splits, shuffle, seed):
    """103 rows in 10 splits: the uneven split rule matters."""
    logits = 3 * torch.randn(rows, 7, generator=torch.Generator().manual_seed(rows))
    expected = isc_features_to_metric(logits, splits, shuffle, seed)
    mean, std = inception_score(logits, splits, shuffle=shuffle, seed=seed)
    assert mean == pytest.approx(expected["inception_score_mean"], abs=1e-12)
    assert std == pytest.approx(expected["inception_score_std"], abs=1e-12)


def test_defaults_are_those_of_torch_fidelity():
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    assert inception_score(logits)[0] == pytest.approx(
        isc_features_to_metric(logits)["inception_score_mean"], abs=1e-12
    )


def test_two_rows_by_hand():
    """p = (3/4, 1/4) and (1/4, 3/4), mean (1/2, 1/2): KL = 3/4 log 3/2 + 1/4 log 1/2 for both."""
    logits = np.log([[0.75, 0.25], [0.25, 0.75]])
    expected = math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert inception_score(logits, splits=1) == pytest.approx((expected, 0.0), abs=1e-14)


def test_certain_and_balanced_classes_score_the_class_count():
    """Underflowing probabilities contribute their limit, zero."""
    logits = 2000 * torch.eye(4).repeat(5, 1)
    assert inception_score(logits, splits=1) == pytest.approx((4.0, 0.0), abs=1e-12)


def test_a_class_that_no_row_can_reach_adds_nothing():
    logits = torch.tensor([[0.0, 0.0, -5000.0], [0.0, 0.0, -5000.0]])
    assert inception_score(logits, splits=1)[0] == pytest.approx(1.0, abs=1e-12)


def test_std_is_over_splits_of_the_given_order():
    """Without shuffling, the first split has one class (score 1), the second two (score 2)."""
    logits = 100 * torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert inception_score(logits, splits=2, shuffle=False) == pytest.approx((1.5, 0.5), abs=1e-12)


@pytest.mark.parametrize(
    ("logits", "splits", "message"),
    [
        (np.zeros((3, 2)), 10, "3 rows, at least 10"),
        (np.zeros((3, 2)), 0, "splits must be at least 1"),
        (np.full((3, 2), np.nan), 1, "NaN or infinity"),
    ],
)
def test_unusable_logits_are_refused(logits, splits, message):
    with pytest.raises(ValueError, match=message):
        inception_score(logits, splits)


def test_probabilities_whose_mean_underflows_count_as_zero():
    """exp(-745) is the smallest double; half of it is 0. Two certain classes among two rows score 2."""
    logits = np.array([[0.0, -800.0, -745.0], [-800.0, 0.0, -800.0]])
    assert inception_score(logits, 1) == (pytest.approx(2), 0)
