"""Distances against double loops, scipy and finite differences, and what must hold whatever the samples are."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from fpd_core.conditioning import ClassCondition, TextCondition, identity
from fpd_core.distances import Scene
from fpd_core.distances.frechet import bures
from fpd_core.objective import ObjectiveConfig, comparison
from fpd_core.reference import SamplesConfig, TeacherSamples

LABELS = [0, 1, 0, 0, 1, 1, 0]


def batch(seed=0, b=7, f=2, d=3, spread=0.3):
    """Two samples in pairs that are close to each other, [B, F, D] float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, f, d, generator=generator, dtype=torch.float64)
    return x, x + spread * torch.randn(b, f, d, generator=generator, dtype=torch.float64) + 0.4


def made(section, scene=None, **objective):
    """A distance, with landmarks of its own where it wants some."""
    samples = TeacherSamples(scene.samples if scene else [], torch.zeros(0))
    return comparison(ObjectiveConfig.model_validate({"distance": section} | objective), scene, samples).distance


def solve(distance, x, y, labels=LABELS):
    """The block of one map."""
    return distance([x], [y], [ClassCondition(torch.tensor(labels))])[0]


def differences(function, x, step=1e-6):
    """Gradient of a scalar function by central differences."""
    slope = torch.zeros_like(x)
    for place in np.ndindex(*x.shape):
        moved = torch.zeros_like(x)
        moved[place] = step
        slope[place] = (function(x + moved) - function(x - moved)) / (2 * step)
    return slope


# -- MMD -----------------------------------------------------------------------------------------------------------


def kernel_of(kernel, bandwidths, scale):
    def k(a, b):
        r = math.dist(a, b) / scale
        return -r if kernel == "energy" else sum(math.exp(-r / h) for h in bandwidths)

    return k


def mean_distance(x, y):
    """Of all pairs of both samples in all cells, a sample and itself included."""
    both = [*x.tolist(), *y.tolist()]
    cells = range(x.shape[1])
    return sum(math.dist(a[f], b[f]) for a in both for b in both for f in cells) / (len(both) ** 2 * len(cells))


def brute_mmd(x, y, k, labels, across, own_target):
    """Sums over pairs, one at a time."""
    total, number, cells = 0.0, len(x), x.shape[1]
    for f in range(cells):
        a, b = x[:, f].tolist(), y[:, f].tolist()
        within, crossed, pairs, crossed_pairs = 0.0, 0.0, 0.0, 0.0
        for i in range(number):
            for j in range(number):
                weight = 1.0 if labels[i] == labels[j] else across
                if i != j:
                    within += weight * (k(a[i], a[j]) + k(b[i], b[j]))
                    pairs += weight
                if i != j or own_target == "keep":
                    crossed += weight * k(a[i], b[j])
                    crossed_pairs += weight
        total += (within / pairs - 2 * crossed / crossed_pairs) / cells
    return total


MMDS = [
    ({"name": "mmd"}, "mask"),
    ({"name": "mmd", "across": 0.3}, "keep"),
    ({"name": "mmd", "kernel": "laplace", "bandwidths": [0.3, 1.5], "across": 1}, "mask"),
]


@pytest.mark.parametrize(("section", "own"), MMDS)
def test_mmd_is_its_double_loop_and_the_gradient_its_slope(section, own):
    x, y = batch()
    found = solve(made(section, own_target=own), x.requires_grad_(), y)
    scale = mean_distance(x.detach(), y)
    k = kernel_of(section.get("kernel", "energy"), section.get("bandwidths"), scale)

    def brute(moved):
        return brute_mmd(moved, y, k, LABELS, section.get("across", 0), own)

    assert found.loss.item() == pytest.approx(brute(x.detach()), abs=1e-12)
    assert found.numbers["scale"].item() == pytest.approx(scale, rel=1e-12)
    torch.testing.assert_close(found.gradient, differences(brute, x.detach()), rtol=0, atol=1e-8)
    (pulled,) = torch.autograd.grad(found.loss, x)
    torch.testing.assert_close(pulled, found.gradient, rtol=0, atol=0)


def landmarks(x, y):
    return Scene([tuple(x.shape[1:])], 2, [torch.cat([x, y])])


@pytest.mark.parametrize("kernel", ["energy", "laplace"])
@pytest.mark.parametrize("own", ["mask", "keep"])
def test_nystrom_with_every_sample_a_landmark_is_the_exact_mmd(kernel, own):
    x, y = batch(b=8)
    exact = solve(made({"name": "mmd", "kernel": kernel}, own_target=own), x, y, [*LABELS, 1])
    section = {"name": "nystrom", "kernel": kernel, "landmarks": 16}
    found = solve(made(section, landmarks(x, y), own_target=own), x, y, [*LABELS, 1])
    torch.testing.assert_close(found.numbers["mmd"], exact.loss, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.gradient, exact.gradient, rtol=0, atol=1e-7)


SWAPPED = [
    {"name": "mmd"},
    {"name": "mmd", "kernel": "laplace", "across": 0.5},
    {"name": "nystrom", "landmarks": 9},
    {"name": "nystrom", "landmarks": 9, "kernel": "laplace", "conditions": "pooled"},
]


@pytest.mark.parametrize("section", SWAPPED, ids=str)
def test_at_equilibrium_the_mean_force_is_zero(section):
    """If X and Y have one law, the other pairs may change sides: with the own target masked that turns the force
    around exactly, so its mean over both is zero. Kept, the own target breaks this."""
    x, y = batch()
    for own, balances in (("mask", True), ("keep", False)):
        scene = landmarks(*batch(5)) if section["name"] == "nystrom" else None
        distance = made(section, scene, own_target=own)
        for i in range(3):
            a, b = y.clone(), x.clone()
            a[i], b[i] = x[i], y[i]
            there, back = (solve(distance, *sides).gradient[i] for sides in ((x, y), (a, b)))
            assert torch.allclose(there, -back, rtol=0, atol=1e-12) == balances


def test_a_condition_is_tied_to_its_samples_unless_pooled():
    """Targets of the two conditions exchanged: the pool is the same, the problems per condition are not."""
    generator = torch.Generator().manual_seed(3)
    labels = [0] * 8 + [1] * 8
    x = torch.randn(16, 2, 3, generator=generator, dtype=torch.float64)
    x[8:] += 5
    y = x.roll(8, 0)
    scene = Scene([(2, 3)], 2, [x])
    for tied, pooled in (
        ({"name": "mmd"}, {"name": "mmd", "across": 1}),
        ({"name": "nystrom", "landmarks": 12}, {"name": "nystrom", "landmarks": 12, "conditions": "pooled"}),
        ({"name": "frechet"}, {"name": "frechet", "conditions": "pooled"}),
    ):
        values = [solve(made(one, scene), x, y, labels).numbers for one in (tied, pooled)]
        apart, together = (float(next(iter(numbers.values()))) for numbers in values)
        assert apart > 0.5
        assert abs(together) < 0.15


def test_nystrom_remembers_each_conditions_average():
    """Three steps against averages of explicit embeddings; a condition that is not there keeps its own."""
    scene, decay = landmarks(*batch(9)), 0.7
    distance = made({"name": "nystrom", "landmarks": 8, "decay": decay}, scene, own_target="mask")
    past, seen = {}, {}
    for step, labels in enumerate(([0, 1, 0, 0, 1, 1, 0], [0] * 7, [1, 1, 0, 1, 0, 1, 1])):
        x, y = batch(20 + step)
        found = solve(distance, x, y, labels)
        apart = distance.maps[0](x) - distance.maps[0](y)  # [F, B, m]
        pairs = {c: labels.count(c) * (labels.count(c) - 1) for c in set(labels)}
        value = 0.0
        for c, count in pairs.items():
            mine = apart[:, [i for i, label in enumerate(labels) if label == c]]
            number, now = mine.shape[1], mine.mean(1)
            share = max(1 - decay, 1 / (seen.get(c, 0) + 1))
            square = sum((mine[:, i] * mine[:, j]).sum(1) for i in range(number) for j in range(number) if i != j) / (
                number * (number - 1)
            )
            old = past.get(c, torch.zeros_like(now))
            whole = (1 - share) ** 2 * old.square().sum(1) + share**2 * square
            whole = whole + 2 * share * (1 - share) * (old * now).sum(1)
            value += count / sum(pairs.values()) * float(whole.mean())
            past[c], seen[c] = (1 - share) * old + share * now, seen.get(c, 0) + 1
        assert found.numbers["mmd"].item() == pytest.approx(value, abs=1e-12)


# -- Fréchet -------------------------------------------------------------------------------------------------------


def frechet(mean, covariance, other_mean, other_covariance):
    root = sqrtm(np.asarray(covariance) @ np.asarray(other_covariance))
    gap = np.asarray(mean) - np.asarray(other_mean)
    return float(gap @ gap + np.trace(covariance) + np.trace(other_covariance) - 2 * np.trace(root).real)


def test_frechet_of_a_batch_is_scipys_and_the_gradient_its_slope():
    x, y = batch(b=9)
    section = {"name": "frechet", "conditions": "pooled", "decay": 0}
    found = solve(made(section), x, y, [0] * 9)
    scale = np.mean([np.trace(np.cov(y[:, f].numpy().T)) for f in range(2)])

    def brute(moved):
        cells = [(moved[:, f].numpy(), y[:, f].numpy()) for f in range(2)]
        return np.mean([frechet(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T)) for a, b in cells]) / scale

    assert found.loss.item() == pytest.approx(brute(x), rel=1e-9)
    assert found.numbers["frechet"].item() == pytest.approx(brute(x), rel=1e-9)
    torch.testing.assert_close(found.gradient, torch.as_tensor(differences(brute, x)), rtol=0, atol=1e-6)


def test_frechet_separates_means_per_condition_from_one_covariance():
    x, y = batch()
    found = solve(made({"name": "frechet", "decay": 0}), x, y)
    means, spread, scales = 0.0, 0.0, 0.0
    for f in range(2):
        within = [np.zeros((3, 3)), np.zeros((3, 3))]
        for c in (0, 1):
            places = [i for i, label in enumerate(LABELS) if label == c]
            a, b = (side[places, f].numpy() for side in (x, y))
            number = len(places)
            products = [(a[i] - b[i]) @ (a[j] - b[j]) for i in range(number) for j in range(number) if i != j]
            means += sum(products) / (number - 1) / len(LABELS) / 2
            for side, points in zip(within, (a, b), strict=True):
                side += number * np.cov(points.T) / len(LABELS)
        spread += frechet(np.zeros(3), within[0], np.zeros(3), within[1]) / 2
        scales += np.trace(within[1]) / 2
    assert found.numbers["means"].item() == pytest.approx(means / scales, rel=1e-9)
    assert found.numbers["spread"].item() == pytest.approx(spread / scales, rel=1e-9)
    assert found.loss.item() == pytest.approx((means + spread) / scales, rel=1e-9)


def weighted(points, weights):
    """Mean and unbiased covariance of weighted samples."""
    mean = (weights[:, None] * points).sum(0)
    gap = points - mean
    return mean, (weights[:, None] * gap).T @ gap / (1 - (weights**2).sum())


@pytest.mark.parametrize("history", [{"decay": 0, "queue": 10}, {"decay": 0.6}], ids=["queue", "moments"])
def test_frechet_remembers_and_its_gradient_goes_through_the_batch_alone(history):
    """Three steps: the value is scipy's for all samples with the weights they have by then; the gradient is its slope
    in the last batch, over the batch's share."""
    distance = made({"name": "frechet", "conditions": "pooled"} | history, Scene([(1, 2)], 2))
    steps = [batch(seed, b=4, f=1, d=2) for seed in (30, 31, 32)]
    *_, found = [solve(distance, x, y, [0] * 4) for x, y in steps]
    if "queue" in history:  # four of this step, ten of those before, the newest first
        weights, share = np.full(12, 1 / 12), 4 / 12
    else:  # shares of the steps: 1, then max(0.4, 1/2), then max(0.4, 1/3)
        weights, share = np.repeat([0.3, 0.3, 0.4], 4) / 4, 0.4
    everyone = [np.concatenate([side[i][:, 0].numpy() for side in steps]) for i in (0, 1)]
    scale = np.trace(weighted(everyone[1], weights)[1])

    def brute(moved):
        mine = np.concatenate([everyone[0][:8], moved[:, 0].numpy()])
        return frechet(*weighted(mine, weights), *weighted(everyone[1], weights)) / scale

    x = steps[-1][0]
    assert found.numbers["frechet"].item() == pytest.approx(brute(x), rel=1e-9)
    assert found.loss.item() == pytest.approx(brute(x) / share, rel=1e-9)
    torch.testing.assert_close(found.gradient, torch.as_tensor(differences(brute, x)) / share, rtol=0, atol=1e-6)


def test_the_queue_holds_the_newest():
    distance = made({"name": "frechet", "conditions": "pooled", "decay": 0, "queue": 6}, Scene([(1, 2)], 2))
    steps = [batch(seed, b=4, f=1, d=2) for seed in (30, 31, 32)]
    for x, y in steps:
        solve(distance, x, y, [0] * 4)
    kept = torch.cat([steps[2][0], steps[1][0][:2]])
    torch.testing.assert_close(distance.queue0[0, 0], kept[:, 0])


def test_covariances_of_few_samples_have_the_slope_of_a_nuclear_norm():
    """Four samples in twelve dimensions: tr (ΣT)^(1/2) is the sum of the singular values of the samples' products."""
    x, y = batch(b=4, f=1, d=12)
    found = solve(made({"name": "frechet", "conditions": "pooled", "decay": 0}), x, y, [0] * 4)

    def brute(moved):
        a, b = (side[:, 0] - side[:, 0].mean(0) for side in (moved, y))
        traces = (a.square().sum() + b.square().sum()) / 3
        gap = (moved[:, 0].mean(0) - y[:, 0].mean(0)).square().sum()
        return (gap + traces - 2 * torch.linalg.matrix_norm(a @ b.T, "nuc") / 3) / (b.square().sum() / 3)

    torch.testing.assert_close(found.loss, brute(x), rtol=1e-7, atol=0)
    torch.testing.assert_close(found.gradient, differences(brute, x), rtol=0, atol=1e-6)


def test_equal_and_degenerate_samples_have_finite_slopes():
    x, _ = batch(b=5, f=2, d=8)
    for sides in ((x, x.clone()), (x, torch.zeros_like(x)), (torch.ones_like(x), x), (torch.ones_like(x),) * 2):
        for section in ({"name": "frechet", "decay": 0}, {"name": "mmd"}, {"name": "mmd", "kernel": "laplace"}):
            found = solve(made(section), *sides, [0, 0, 0, 1, 1])
            assert found.gradient.isfinite().all()
            assert found.loss.isfinite()
    same = solve(made({"name": "frechet", "decay": 0}), x, x.clone(), [0] * 5)
    assert abs(same.loss) < 1e-12
    assert same.gradient.abs().max() < 1e-7


def test_bures_is_differentiable_in_all_directions():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, 6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda points: bures(points.mT @ points, b.mT @ b), a)


# -- what all share ------------------------------------------------------------------------------------------------


def test_broken_features_leave_nothing_behind():
    x, y = batch()
    for section in ({"name": "frechet"}, {"name": "frechet", "decay": 0, "queue": 9}):
        distance = made(section, Scene([(2, 3)], 2))
        solve(distance, x, y)
        before = {name: value.clone() for name, value in distance.state_dict().items()}
        with pytest.raises((ValueError, RuntimeError)):  # torch's eigenvalues of what is not finite
            solve(distance, torch.full_like(x, math.nan), y)
        assert all(torch.equal(value, before[name]) for name, value in distance.state_dict().items())


def test_conditions_are_equal_where_their_rows_are():
    assert identity(ClassCondition(torch.tensor([3, 1]))).tolist() == [[3], [1]]
    pooled = torch.tensor([[1.0, 2.0], [1.0, 2.5], [1.0, 2.0]])
    rows = identity(TextCondition(pooled[:, None], pooled, pooled[:, None]))
    assert torch.equal(rows[0], rows[2])
    assert not torch.equal(rows[0], rows[1])


def test_samples_are_of_the_class_and_none_comes_twice_before_all_have_come():
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    samples = TeacherSamples([torch.arange(9.0).reshape(9, 1, 1)], labels)
    (drawn,) = samples.draw(ClassCondition(torch.tensor([2, 0, 2, 2, 2, 0])), torch.Generator().manual_seed(0))
    found = drawn.flatten().long()
    assert labels[found].tolist() == [2, 0, 2, 2, 2, 0]
    assert sorted(found[[0, 2, 3]].tolist()) == [2, 5, 8]
    assert found[1] != found[5]
    with pytest.raises(ValueError, match=r"none of class 4; raise samples\.count"):
        samples.draw(ClassCondition(torch.tensor([4])))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"distance": {"name": "mmd"}, "weighting": "cross"}, "weighting is set, and distance 'mmd' has no use for it"),
        ({"distance": {"name": "mmd"}, "bandwidths": [0.2]}, "bandwidths is set, and distance 'mmd'"),
        ({"distance": {"name": "frechet"}, "own_target": "mask"}, "own_target is set, and distance 'frechet'"),
        ({"reference": "samples", "guidance_scale": 3}, "guidance_scale is set, and reference 'samples'"),
        ({"reference": "samples", "own_target": "mask"}, "own_target is set, and reference 'samples'"),
        ({"samples": {"count": 9}}, "samples is set, and reference 'refinement' has no use for it"),
        ({"distance": {"name": "mmd", "bandwidths": [1]}}, "kernel 'energy' has none"),
        ({"distance": {"name": "frechet", "queue": 64}}, "are two ways to remember"),
        ({"distance": {"name": "mmd", "queue": 64}}, "unknown key 'queue'"),
    ],
)
def test_what_a_distance_has_no_use_for_is_refused(objective, message):
    with pytest.raises(ValueError, match=message) as caught:
        ObjectiveConfig.model_validate(objective)
    assert len(caught.value.errors()) == 1


def test_what_lasts_for_a_run_is_made_once():
    for objective in ({"reference": "samples"}, {"distance": {"name": "frechet"}}, {"distance": {"name": "nystrom"}}):
        with pytest.raises(ValueError, match="make the comparison once"):
            comparison(ObjectiveConfig.model_validate(objective))
    few = Scene([(2, 3)], 2, [torch.zeros(4, 2, 3)])
    with pytest.raises(ValueError, match=r"landmarks 9 is above the 4 samples of the teacher; raise samples\.count"):
        made({"name": "nystrom", "landmarks": 9}, few)
    with pytest.raises(ValueError, match="needs classes, which come again"):
        made({"name": "nystrom", "landmarks": 3, "decay": 0.5}, Scene([(2, 3)], None, [torch.zeros(4, 2, 3)]))
    assert ObjectiveConfig().samples == SamplesConfig()


@pytest.mark.parametrize("section", [{"name": "mmd"}, {"name": "frechet", "decay": 0}])
def test_a_single_sample_of_a_condition_is_answered(section):
    x, y = batch(b=3)
    with pytest.raises(ValueError, match="set drafts_per_condition to 2 or more"):
        solve(made(section), x, y, [0, 1, 2])
