"""Kernel distance against torch-fidelity, clean-fid and a loop over pairs."""

import numpy as np
import pytest
import torch
from cleanfid.fid import kernel_distance as cleanfid_kernel_distance
from torch_fidelity.metric_kid import kid_features_to_metric

from fpd_eval.metrics import kernel_distance


def pair(dimensions=7, rows=(41, 33)):
    random = np.random.default_rng(0)
    return random.normal(size=(rows[0], dimensions)), 1.3 * random.normal(size=(rows[1], dimensions)) + 0.2


def test_equals_torch_fidelity_subset_by_subset():
    real, fake = pair()
    options = {"kid_subsets": 9, "kid_subset_size": 20, "verbose": False}
    expected = kid_features_to_metric(torch.tensor(fake), torch.tensor(real), **options)
    mean, std = kernel_distance(real, fake, subsets=9, subset_size=20)
    assert mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-12)
    assert std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-12)


def test_equals_clean_fid_where_a_subset_is_everything():
    real, fake = pair(rows=(30, 30))
    expected = cleanfid_kernel_distance(real, fake, num_subsets=1, max_subset_size=30)
    assert kernel_distance(real, fake, subsets=1, subset_size=30)[0] == pytest.approx(expected, rel=1e-10)


def test_equals_the_definition_by_loops():
    """Means of k over pairs of different rows within each set, minus twice the mean over all pairs between them."""
    real, fake = pair(dimensions=3, rows=(5, 5))

    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / 3 + 1) ** 3

    within = [sum(kernel(rows[i], rows[j]) for i in range(5) for j in range(5) if i != j) / 20 for rows in (real, fake)]
    between = sum(kernel(x, y) for x in real for y in fake) / 25
    assert kernel_distance(real, fake, subsets=3, subset_size=5)[0] == pytest.approx(sum(within) - 2 * between)


def test_equal_distributions_average_to_zero():
    random = np.random.default_rng(1)
    mean, std = kernel_distance(random.normal(size=(800, 4)), random.normal(size=(800, 4)), subset_size=100)
    assert abs(mean) < std


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset_size": 34}, "fake features have 33 rows, at least 34"),
        ({"subset_size": 1}, "at least 1 and 2"),
        ({"subsets": 0, "subset_size": 5}, "at least 1 and 2"),
    ],
)
def test_unusable_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(*pair(), **options)
