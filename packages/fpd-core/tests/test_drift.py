"""Eqs. 6-7 against a hand-worked example, a float64 loop written from the formulas, and what must hold for any data."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd_core.drift import bias_corrected, drift_loss

BANDWIDTHS = (0.02, 0.05, 0.2)


def features(seed, batch=5, cells=2, dim=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, cells, dim, generator=generator, dtype=torch.float64)
    y = x + 0.4 * torch.randn(batch, cells, dim, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), y.to(dtype)


def reference(x, y, bandwidths, cross=False, corrected=False):
    """Loss and gradient by plain loops over samples, one scalar at a time."""
    batch, cells, dim = len(x), len(x[0]), len(x[0][0])

    def dist(a, b):
        return max(math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True))), 1e-4)

    everyone = [[s[f] for s in x] + [s[f] for s in y] for f in range(cells)]
    d = [[[dist(x[i][f], t) for t in everyone[f]] for i in range(batch)] for f in range(cells)]
    s = sum(v for cell in d for row in cell for v in row) / (cells * batch * 2 * batch)
    c = max(s / math.sqrt(dim), 1e-3)
    dn = [
        [[v / max(s, 1e-3) + (100 if i == j else 0) for j, v in enumerate(row)] for i, row in enumerate(cell)]
        for cell in d
    ]
    loss, rms, gradient = 0.0, [], [[[0.0] * dim for _ in range(cells)] for _ in range(batch)]
    for h in bandwidths:
        drift = [[[0.0] * dim for _ in range(cells)] for _ in range(batch)]
        for f in range(cells):
            e = [[math.exp(-v / h) for v in row] for row in dn[f]]
            rows = [sum(row) for row in e]
            columns = [sum(e[i][j] for i in range(batch)) for j in range(2 * batch)]
            a = [
                [
                    math.sqrt(max((e[i][j] / rows[i]) * (e[i][j] / columns[j] if columns[j] > 0 else 0.0), 1e-6))
                    for j in range(2 * batch)
                ]
                for i in range(batch)
            ]
            if corrected:
                for i in range(batch):
                    for side in (range(batch), range(batch, 2 * batch)):
                        total = sum(a[i][j] for j in side)
                        p = {j: a[i][j] / total for j in side}
                        for j in side:
                            a[i][j] *= 1 + p[j] - sum(q * q for q in p.values())
            for i in range(batch):
                minus, plus = sum(a[i][:batch]), sum(a[i][batch:])
                for j, other in enumerate(everyone[f]):
                    sign, factor = (-1, plus) if j < batch else (1, minus)
                    weight = sign * a[i][j] * (factor if cross else 1)
                    for k in range(dim):
                        drift[i][f][k] += weight * (other[k] - x[i][f][k]) / c
        z = math.sqrt(max(sum(v * v for p in drift for q in p for v in q) / (batch * cells * dim), 1e-8))
        rms.append(z)
        loss += z
        for i in range(batch):
            for f in range(cells):
                for k in range(dim):
                    gradient[i][f][k] -= 2 * drift[i][f][k] / z / (batch * cells * dim * c)
    return loss, rms, s, gradient


def test_worked_example_plain():
    x = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[[1.0, 0.0]], [[3.0, 3.0]]], dtype=torch.float64)
    result = drift_loss(x, y)
    result.loss.backward()
    torch.testing.assert_close(result.scale.item(), 2.589372080, rtol=0, atol=1e-9)
    expected = torch.tensor([0.386194208, 0.386194208, 0.360199592], dtype=torch.float64)
    torch.testing.assert_close(result.rms, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.loss.item(), 1.132588008, rtol=0, atol=1e-9)
    gradient = torch.tensor([[[-1.1619896, 0.03319225]], [[-0.02585722, 1.15294205]]], dtype=torch.float64)
    torch.testing.assert_close(x.grad, gradient, rtol=0, atol=1e-7)


def test_worked_example_cross():
    x = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[[1.0, 0.0]], [[3.0, 3.0]]], dtype=torch.float64)
    result = drift_loss(x, y, weighting="cross")
    expected = torch.tensor([0.001494626, 0.001494626, 0.035086188], dtype=torch.float64)
    torch.testing.assert_close(result.rms, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.loss.item(), 0.038075441, rtol=0, atol=1e-9)


@pytest.mark.parametrize("normalisation", ["joint", "corrected"])
@pytest.mark.parametrize("weighting", ["plain", "cross"])
@pytest.mark.parametrize("shape", [(5, 2, 3), (1, 3, 4), (2, 1, 7), (4, 4, 1)])
def test_equals_the_loop_reference(weighting, shape, normalisation):
    x, y = features(3, *shape)
    result = drift_loss(x, y, weighting=weighting, normalisation=normalisation)
    result.loss.backward()
    options = weighting == "cross", normalisation == "corrected"
    loss, rms, scale, gradient = reference(x.tolist(), y.tolist(), BANDWIDTHS, *options)
    torch.testing.assert_close(result.loss.item(), loss, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(result.rms.tolist(), rms, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(result.scale.item(), scale, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(x.grad, torch.tensor(gradient, dtype=torch.float64), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_input_is_computed_in_float32(dtype):
    x, y = features(1, 16, 4, 64, dtype)
    result = drift_loss(x, y)
    assert result.loss.dtype == torch.float32
    wide = drift_loss(x.detach().double(), y.double())
    torch.testing.assert_close(result.loss.double(), wide.loss, rtol=1e-3, atol=0)


def test_autocast_does_not_reach_the_distances():
    x, y = features(2, 8, 2, 16, torch.float32)
    outside = drift_loss(x, y).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(drift_loss(x, y).loss, outside)


seeds = st.integers(0, 2**16)
weightings = st.sampled_from(["plain", "cross"])


@settings(max_examples=20, deadline=None)
@given(seed=seeds, weighting=weightings, factor=st.floats(0.5, 50))
def test_scaling_leaves_the_loss_and_divides_the_gradient(seed, weighting, factor):
    x, y = features(seed)
    scaled = (x.detach() * factor).requires_grad_()
    a, b = drift_loss(x, y, weighting=weighting), drift_loss(scaled, y * factor, weighting=weighting)
    a.loss.backward()
    b.loss.backward()
    # Not exact: the floor of 1e-4 under a sample's distance to itself does not scale.
    torch.testing.assert_close(a.loss, b.loss, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(x.grad, scaled.grad * factor, rtol=1e-2, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, weighting=weightings)
def test_offset_rotation_and_permutation(seed, weighting):
    x, y = features(seed)
    base = drift_loss(x, y, weighting=weighting)
    base.loss.backward()
    generator = torch.Generator().manual_seed(seed)
    offset = torch.randn(3, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    order = torch.randperm(5, generator=generator)

    moved = ((x.detach() + offset) @ rotation)[order].requires_grad_()
    other = drift_loss(moved, ((y + offset) @ rotation)[order], weighting=weighting)
    other.loss.backward()
    torch.testing.assert_close(base.loss, other.loss, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close((x.grad @ rotation)[order], moved.grad, rtol=1e-7, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, weighting=weightings)
def test_targets_are_a_set(seed, weighting):
    x, y = features(seed)
    a = drift_loss(x, y, weighting=weighting).loss
    torch.testing.assert_close(a, drift_loss(x, y.flip(0), weighting=weighting).loss, rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, weighting=weightings)
def test_value_is_the_sum_of_the_normalisers(seed, weighting):
    result = drift_loss(*features(seed), weighting=weighting)
    torch.testing.assert_close(result.loss, result.rms.sum(), rtol=1e-9, atol=1e-12)


def test_a_single_bandwidth_has_a_force_of_unit_rms():
    x, y = features(5)
    result = drift_loss(x, y, bandwidths=(0.2,))
    result.loss.backward()
    unit = result.scale / 3**0.5
    torch.testing.assert_close((x.grad * x.numel() * unit / 2).square().mean().item(), 1.0, rtol=1e-9, atol=0)


def test_one_sample_drifts_along_its_correction():
    x, y = features(9, 1, 2, 3)
    drift_loss(x, y).loss.backward()
    torch.testing.assert_close(
        torch.cosine_similarity(-x.grad, (y - x).detach(), dim=-1), torch.ones(1, 2, dtype=torch.float64)
    )


def test_nothing_flows_into_the_target():
    x, y = features(0)
    y.requires_grad_()
    drift_loss(x, y).loss.backward()
    assert y.grad is None


def test_cells_share_scale_but_not_neighbours():
    """Moving cell 1 rigidly keeps every distance, so cell 0's gradient cannot notice."""
    x, y = features(4)
    drift_loss(x, y).loss.backward()
    shift = torch.zeros(1, 2, 3, dtype=torch.float64)
    shift[:, 1] = 50
    moved = (x.detach() + shift).requires_grad_()
    drift_loss(moved, y + shift).loss.backward()
    torch.testing.assert_close(x.grad[:, 0], moved.grad[:, 0], rtol=1e-6, atol=1e-9)


def test_plain_narrow_bandwidths_vanish_at_the_fixed_point():
    x, _ = features(6, 8, 1, 64)
    rms = drift_loss(x, x.detach()).rms
    wide = drift_loss(x, x.detach(), weighting="cross").rms
    assert rms[0] < 1e-3
    assert rms[2] > 0
    assert wide.min() > rms[0]


def test_alignment_is_the_cosine_between_force_and_correction():
    x, y = features(11)
    result = drift_loss(x, y)
    result.loss.backward()
    expected = torch.cosine_similarity(-x.grad, (y - x).detach(), dim=-1).mean()
    torch.testing.assert_close(result.alignment, expected)


@pytest.mark.parametrize(
    ("x", "y", "bandwidths", "message"),
    [
        ((2, 3, 4), (2, 3, 5), BANDWIDTHS, "one shape"),
        ((2, 3), (2, 3), BANDWIDTHS, "one shape"),
        ((2, 3, 4), (2, 3, 4), (0.1, 0.0), "positive"),
        ((2, 3, 4), (2, 3, 4), (0.1, float("nan")), "positive"),
        ((2, 3, 4), (2, 3, 4), (float("inf"),), "positive"),
        ((2, 3, 4), (2, 3, 4), (), "positive"),
    ],
)
def test_wrong_arguments_are_named(x, y, bandwidths, message):
    with pytest.raises(ValueError, match=message):
        drift_loss(torch.zeros(x), torch.zeros(y), bandwidths=bandwidths)


def exact_bias(correct, n):
    """Bias of the weighted mean of n draws from three points, every multinomial outcome enumerated."""
    points = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    kernel = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    law, expected = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64), 0.0
    for first in range(n + 1):
        for second in range(n + 1 - first):
            counts = torch.tensor([first, second, n - first - second])
            chance = math.factorial(n) * float((law**counts).prod())
            chance /= math.prod(math.factorial(count) for count in counts.tolist())
            drawn = torch.repeat_interleave(torch.arange(3), counts)
            weights = kernel[drawn]
            weights = bias_corrected(weights) if correct else weights
            expected += chance * float((weights * points[drawn]).sum() / weights.sum())
    return expected - float((law * kernel * points).sum() / (law * kernel).sum())


def test_the_correction_removes_the_first_order_of_the_bias():
    """From 12 draws to 48 the bias falls four times without it, sixteen times with it."""
    plain, corrected = ([abs(exact_bias(correct, n)) for n in (12, 48)] for correct in (False, True))
    assert plain[0] / plain[1] == pytest.approx(4, rel=0.1)
    assert corrected[0] / corrected[1] > 12
    assert corrected[1] < 0.1 * plain[1]


def test_corrected_weights_keep_their_sum_and_their_sign():
    affinity = torch.rand(3, 2, 6, dtype=torch.float64) ** 8
    corrected = bias_corrected(affinity)
    torch.testing.assert_close(corrected.sum(-1), affinity.sum(-1), rtol=1e-12, atol=0)
    assert (corrected >= 0).all()


def field(x, y, reach, **options):
    """V [B, D] at one bandwidth of absolute size `reach`, from the closed form of the loss's gradient."""
    bandwidth = reach / float(drift_loss(x, y).scale)
    position = x.clone().requires_grad_()
    result = drift_loss(position, y, bandwidths=(bandwidth,), **options)
    result.loss.backward()
    unit = result.scale / x.shape[-1] ** 0.5
    return (-position.grad * x.numel() * unit**2 * result.rms / 2)[:, 0]


@pytest.mark.parametrize("own_target", ["keep", "mask"])
def test_the_sharp_drift_is_the_gradient_of_its_potential(own_target):
    """H² (log Σ k# over the targets - log Σ k# over the other students), by autograd, k#(r) = (1 + r/H) exp(-r/H)."""
    x, y = (part.detach() for part in features(8, 6, 1, 3))
    reach = 0.7
    found = field(x, y, reach, normalisation="sharp", own_target=own_target)
    for i in range(6):
        point = x[i, 0].clone().requires_grad_()
        others = [x[j, 0] for j in range(6) if j != i]
        targets = [y[j, 0] for j in range(6) if own_target == "keep" or j != i]

        def density(places, point=point):
            radii = torch.stack([(point - place).norm() / reach for place in places])
            return ((1 + radii) * (-radii).exp()).sum()

        potential = reach**2 * (density(targets).log() - density(others).log())
        (gradient,) = torch.autograd.grad(potential, point)
        torch.testing.assert_close(found[i], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("normalisation", "is_gradient"), [("sharp", True), ("joint", False), ("corrected", False)])
def test_only_the_sharp_drift_has_no_curl(normalisation, is_gradient):
    """The Jacobian of V_0 by X_0, by central differences: symmetric where V_0 is a gradient."""
    x, y = (part.detach() for part in features(8, 6, 1, 3))
    columns = []
    for axis in range(3):
        step = torch.zeros_like(x)
        step[0, 0, axis] = 1e-5
        ahead, behind = (field(x + sign * step, y, 0.7, normalisation=normalisation)[0] for sign in (1, -1))
        columns.append((ahead - behind) / 2e-5)
    jacobian = torch.stack(columns, 1)
    curl = (jacobian - jacobian.T).norm() / jacobian.norm()
    assert (curl < 1e-7) if is_gradient else (curl > 1e-2), curl


def test_cross_weights_are_refused_by_the_sharp_normalisation():
    with pytest.raises(ValueError, match="'cross' has nothing to weigh; use weighting 'plain'"):
        drift_loss(*features(0), weighting="cross", normalisation="sharp")


def outward(pairs, weighting, own_target, normalisation="joint"):
    """Mean over batches of the share of the force that points outward, and its standard error: [bandwidths] each.

    The gradient of the loss is -2 Σ_h V_h/Z_h over the number of values, so one bandwidth at a time gives its force.
    """
    shares = []
    for x, y in pairs:
        found = []
        for h in BANDWIDTHS:
            position = x[:, None].clone().requires_grad_()
            options = {"weighting": weighting, "own_target": own_target, "normalisation": normalisation}
            drift_loss(position, y[:, None], bandwidths=(h,), **options).loss.backward()
            found.append(-(position.grad[:, 0] * x).sum() / position.grad.norm() / x.norm())
        shares.append(torch.stack(found))
    shares = torch.stack(shares)
    return shares.mean(0), shares.std(0) / len(shares) ** 0.5


def gaussian_pairs(batch, rho, count=60, dim=16):
    """X ~ N(0, I) and a kernel that leaves it unchanged: the student at its fixed point, and its refinements."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        x, noise = torch.randn(2, batch, dim, generator=generator, dtype=torch.float64)
        yield x, rho * x + (1 - rho**2) ** 0.5 * noise


def gibbs_pairs(batch, rho, count=60, places=6):
    """One-hot tokens of a law of two modes; the kernel hides a token at random and draws it from its exact conditional.

    The law: all tokens equal a fair coin's side, each then flipped with probability 0.2. Features are centred.
    """
    generator = torch.Generator().manual_seed(1)
    states = torch.cartesian_prod(*[torch.arange(2)] * places)
    ones = states.sum(1, keepdim=True).double()
    law = (0.8**ones * 0.2 ** (places - ones) + 0.2**ones * 0.8 ** (places - ones))[:, 0] / 2
    by_code = {tuple(state): float(p) for state, p in zip(states.tolist(), law, strict=True)}
    for _ in range(count):
        x = states[torch.multinomial(law, batch, replacement=True, generator=generator)]
        y = x.clone()
        for row in y:
            place = int(torch.randint(places, (), generator=generator))
            weights = [by_code[(*row[:place].tolist(), code, *row[place + 1 :].tolist())] for code in (0, 1)]
            row[place] = torch.multinomial(torch.tensor(weights), 1, generator=generator)
        yield x.double() - 0.5, y.double() - 0.5


@pytest.mark.parametrize(
    ("weighting", "normalisation"),
    [("plain", "joint"), ("cross", "joint"), ("cross", "corrected"), ("plain", "sharp")],
)
@pytest.mark.parametrize(
    ("pairs", "batch", "rho"), [(gaussian_pairs, 8, 0.5), (gaussian_pairs, 24, 0.9), (gibbs_pairs, 16, 0)]
)
def test_nothing_is_pushed_at_the_fixed_point_once_the_own_target_is_hidden(
    pairs, batch, rho, weighting, normalisation
):
    """The published form fails this: it spends most of its force on expanding or contracting."""
    mean, error = outward(pairs(batch, rho), weighting, "mask", normalisation)
    assert (mean.abs() < 4 * error + 0.01).all(), (mean, error)
    published, error = outward(pairs(batch, rho), weighting, "keep", normalisation)
    assert (published.abs() > 6 * error).any(), (published, error)


def test_the_published_force_at_the_fixed_point_is_expansion():
    """The independent measurement of this bias: 0.88, 0.86, 0.87 of the force for D = 64, B = 32, correlation 0.9."""
    mean, _ = outward(gaussian_pairs(32, 0.9, count=40, dim=64), "cross", "keep")
    torch.testing.assert_close(mean, torch.tensor([0.88, 0.86, 0.87], dtype=torch.float64), atol=0.03, rtol=0)


def test_hiding_the_own_target_is_a_loop_that_skips_it():
    """Masked affinities by hand: four samples in one dimension, h = 1, plain."""
    x, y = (
        torch.tensor([0.0, 1.0, 3.0, 4.0], dtype=torch.float64),
        torch.tensor([0.5, 1.5, 2.0, 5.0], dtype=torch.float64),
    )
    everyone = torch.cat([x, y])
    distance = (x[:, None] - everyone[None]).abs().clamp_min(1e-4)
    weight = (-distance / distance.mean()).exp()
    for i in range(4):
        weight[i, i] = weight[i, 4 + i] = 0
    affinity = (weight / weight.sum(1, keepdim=True) * (weight / weight.sum(0, keepdim=True))).clamp_min(1e-6).sqrt()
    pull = affinity[:, 4:] @ y - affinity[:, 4:].sum(1) * x
    push = affinity[:, :4] @ x - affinity[:, :4].sum(1) * x
    expected = ((pull - push) / distance.mean()).square().mean().sqrt()
    found = drift_loss(x.view(4, 1, 1), y.view(4, 1, 1), bandwidths=(1.0,), own_target="mask")
    torch.testing.assert_close(found.rms[0], expected, rtol=1e-9, atol=0)


def signal_by_loops(x, y, bandwidths, cross, normalisers, own_target):
    """Mean cosine of the forces from even and from odd samples, one particle at a time; cells 0, 5, 10, ..."""
    batch, dim = len(x), x.shape[2]
    seen = torch.cat([x, y])
    dn = (x[:, None] - seen[None]).norm(dim=3).clamp_min(1e-4)
    dn = dn / dn.mean()
    hidden = 100 * torch.cat([torch.eye(batch), torch.eye(batch) * (own_target == "mask")], 1)[..., None]
    cosines = []
    for f in range(0, x.shape[1], 5):
        affinities = []
        for h in bandwidths:
            e = (-(dn + hidden)[:, :, f] / h).double().exp()
            affinities.append((e / e.sum(1, keepdim=True) * (e / e.sum(0, keepdim=True))).clamp_min(1e-6).sqrt())
        for i in range(batch):
            forces = []
            for half in (0, 1):
                others = [j for j in range(half, batch, 2) if j != i]
                force = torch.zeros(dim, dtype=torch.float64)
                for a, z in zip(affinities, normalisers, strict=True):
                    pull, push = sum(float(a[i, batch + j]) for j in others), sum(float(a[i, j]) for j in others)
                    for j in others:
                        force += a[i, batch + j] * (push if cross else 1) * (y[j, f] - x[i, f]) / z
                        force -= a[i, j] * (pull if cross else 1) * (x[j, f] - x[i, f]) / z
                forces.append(force)
            cosines.append(forces[0] @ forces[1] / forces[0].norm() / forces[1].norm())
    return torch.stack(cosines).mean()


@pytest.mark.parametrize("weighting", ["plain", "cross"])
@pytest.mark.parametrize("own_target", ["keep", "mask"])
@pytest.mark.parametrize("batch", [6, 7])
def test_signal_is_the_cosine_of_the_forces_of_even_and_odd_samples(weighting, own_target, batch):
    x, y = features(12, batch, cells=7, dim=4)
    result = drift_loss(x, y, bandwidths=(0.2, 0.7), weighting=weighting, own_target=own_target)
    expected = signal_by_loops(x.detach(), y, (0.2, 0.7), weighting == "cross", result.rms, own_target)
    torch.testing.assert_close(result.signal, expected, rtol=1e-9, atol=1e-12)


def mean_signal(batch, shift, count, weighting):
    generator = torch.Generator().manual_seed(4)
    found = []
    for _ in range(count):
        x, y = torch.randn(2, batch, 21, 64, generator=generator)
        found.append(drift_loss(x, y + shift / 64**0.5, weighting=weighting).signal)
    return torch.stack(found).mean()


@pytest.mark.parametrize("weighting", ["plain", "cross"])
def test_signal_grows_with_the_batch_where_the_laws_differ_and_is_nothing_where_they_agree(weighting):
    """Z_h brings the force to unit size in all of these: only `signal` tells them apart."""
    small, large = mean_signal(32, 0.5, 16, weighting), mean_signal(256, 0.5, 4, weighting)
    assert 0 < small < 0.1
    assert large > 3 * small
    assert abs(mean_signal(32, 0.0, 16, weighting)) < 0.03
