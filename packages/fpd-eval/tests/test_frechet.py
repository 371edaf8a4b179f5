"""Fréchet distance against scipy's matrix root, torch-fidelity, closed forms and invariances."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from fpd_eval.metrics import frechet_distance


def correlated(rows, dimensions, seed, shift=0.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, dimensions)) @ random.normal(size=(dimensions, dimensions)) + shift


def exactly_distributed(rows, mean, deviations, seed):
    """Rows whose sample mean and sample covariance (N - 1) are exactly `mean` and diag(deviations²)."""
    white = np.random.default_rng(seed).normal(size=(rows, len(mean)))
    orthogonal, _ = np.linalg.qr(white - white.mean(0))
    return orthogonal * np.sqrt(rows - 1) * deviations + mean


def by_matrix_root(real, fake):
    covariances = [np.cov(features, rowvar=False) for features in (real, fake)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    return np.sum((real.mean(0) - fake.mean(0)) ** 2) + np.trace(sum(covariances) - 2 * root)


@pytest.mark.parametrize(("rows_real", "rows_fake", "dimensions"), [(90, 70, 5), (200, 333, 24)])
def test_equals_the_matrix_root_of_scipy(rows_real, rows_fake, dimensions):
    real, fake = correlated(rows_real, dimensions, 0), correlated(rows_fake, dimensions, 1, shift=0.3)
    assert frechet_distance(real, fake) == pytest.approx(by_matrix_root(real, fake), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_equals_torch_fidelity(shift):
    real, fake = torch.tensor(correlated(300, 17, 2)), torch.tensor(correlated(250, 17, 3, shift))
    statistics = [fid_features_to_statistics(features) for features in (real, fake)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)


def test_diagonal_gaussians_have_the_closed_form():
    real = exactly_distributed(50, np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 0.5]), 4)
    fake = exactly_distributed(40, np.array([3.0, 1.0, 2.0]), np.array([4.0, 2.0, 2.5]), 5)
    assert frechet_distance(real, fake) == pytest.approx(9 + 9 + 0 + 4, abs=1e-9)


def test_singular_covariances_need_no_epsilon():
    """Two lines along different axes share no variance: the distance is the sum of both."""
    line = np.array([[-1.0], [0.0], [1.0]])
    real, fake = np.hstack([line, 0 * line]), np.hstack([0 * line, 2 * line])
    assert frechet_distance(real, fake) == pytest.approx(1 + 4, abs=1e-12)


def test_one_dimension_is_accepted():
    assert frechet_distance([[0.0], [2.0]], [[5.0], [5.0]]) == pytest.approx(16 + 2, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.floats(0.1, 10))
def test_rotation_translation_and_row_order_change_nothing_and_scaling_squares(seed, scale):
    random = np.random.default_rng(seed)
    real, fake = random.normal(size=(40, 6)), 2 * random.normal(size=(30, 6)) + 1
    rotation, _ = np.linalg.qr(random.normal(size=(6, 6)))
    expected = frechet_distance(real, fake)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-9)
    moved = frechet_distance(random.permutation(real) @ rotation + 7, fake @ rotation + 7)
    assert moved == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(scale * real, scale * fake) == pytest.approx(scale**2 * expected, rel=1e-9)


def test_float32_input_is_computed_in_float64():
    real, fake = (torch.tensor(correlated(60, 4, seed) + 1000, dtype=torch.float32) for seed in (6, 7))
    assert frechet_distance(real, fake) == frechet_distance(real.double(), fake.double())


def test_fewer_rows_than_dimensions_are_warned_about():
    with pytest.warns(UserWarning, match="5 fake features of 8 dimensions"):
        frechet_distance(correlated(20, 8, 0), correlated(5, 8, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(correlated(20, 8, 0), correlated(9, 8, 1))


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), "real features have 3 dimensions, fake features 2"),
        (np.zeros((4, 3)), np.full((4, 3), np.nan), "fake features contain NaN or infinity in 4 of 4 rows"),
        (np.full((4, 3), np.inf), np.zeros((4, 3)), "real features contain NaN or infinity"),
        (np.zeros((1, 3)), np.zeros((4, 3)), "at least 2 are needed"),
        (np.zeros(3), np.zeros((4, 3)), r"must be a matrix \[N, D\], got shape \[3\]"),
    ],
)
def test_unusable_features_are_refused(real, fake, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(real, fake)
