"""The projected discriminator against its published shapes and counts, and against losses written out by hand."""

import pytest
import torch
from torch import nn

from fpd_core.discriminator import (
    DeitBranch,
    Discriminator,
    EfficientNetBranch,
    Features,
    Taps,
    augmented,
    discriminator_loss,
    generator_loss,
    joint_loss,
    share_called_real,
)

DEIT = Taps((768,) * 4, (14,) * 4, are_tokens=True)
LITE = Taps((24, 40, 112, 320), (64, 32, 16, 8), are_tokens=False)
LITE_64 = Taps((24, 40, 112, 320), (16, 8, 4, 2), are_tokens=False)


def count(module, trained=True):
    return sum(p.numel() for p in module.parameters() if p.requires_grad == trained)


def maps(taps, batch=2):
    return [torch.randn(batch, c, s, s) for c, s in zip(taps.channels, taps.sides, strict=True)]


def test_the_published_sizes_at_256_pixels():
    discriminator = Discriminator([DEIT, LITE])
    assert count(discriminator) == 20_662_656
    for branch in discriminator.branches:
        assert [count(head) for head in branch.heads] == [2_829_120, 2_763_392, 2_631_936, 2_106_880]
    norms = [m for m in discriminator.modules() if type(m).__name__ == "_SpectralNorm"]
    assert len(norms) == 28
    # DeiT with its classifiers and EfficientNet-Lite0 up to its last block, as published, are the rest.
    assert count(discriminator, trained=False) + 87_338_192 + 2_958_848 == 98_085_392


def test_the_published_shapes_at_256_pixels():
    discriminator = Discriminator([DEIT, LITE])
    a, b = discriminator.branches
    tokens, pyramid = maps(DEIT, 1), maps(LITE, 1)
    assert [tuple(m.shape[1:]) for m in a.projection.pyramid(tokens)] == [
        (96, 56, 56),
        (192, 28, 28),
        (384, 14, 14),
        (768, 7, 7),
    ]
    assert [tuple(m.shape[1:]) for m in a.projection(tokens)] == [
        (64, 112, 112),
        (64, 56, 56),
        (128, 28, 28),
        (256, 14, 14),
    ]
    mixed = b.projection(pyramid)
    assert [tuple(m.shape[1:]) for m in mixed] == [(64, 128, 128), (64, 64, 64), (128, 32, 32), (256, 16, 16)]
    b.eval()
    assert [head(one).shape[1] for head, one in zip(b.heads, mixed, strict=True)] == [25] * 4
    a.eval()
    assert [head(one).shape[1] for head, one in zip(a.heads, a.projection(tokens), strict=True)] == [16] * 4


def test_small_images_get_fewer_down_blocks_and_one_logit_per_head():
    discriminator = Discriminator([LITE_64])
    blocks = [len(head.layers) - 1 for head in discriminator.branches[0].heads]
    assert blocks == [3, 2, 1, 0]
    (logits,) = discriminator([maps(LITE_64, 3)])
    assert logits.shape == (3, 4)


def test_the_projection_is_mixed_from_deep_to_shallow_without_a_nonlinearity():
    """Affine in the maps; and a deep map reaches every scale, a shallow one only its own."""
    projection = Discriminator([LITE_64]).branches[0].projection
    x, y = maps(LITE_64), maps(LITE_64)
    halfway = projection([(a + b) / 2 for a, b in zip(x, y, strict=True)])
    for mid, a, b in zip(halfway, projection(x), projection(y), strict=True):
        torch.testing.assert_close(mid, (a + b) / 2, rtol=1e-4, atol=1e-5)
    for depth in range(4):
        changed = [m + (i == depth) for i, m in enumerate(x)]
        moved = [not torch.equal(a, b) for a, b in zip(projection(x), projection(changed), strict=True)]
        assert moved == [scale <= depth for scale in range(4)]


def test_the_projection_is_the_same_whatever_was_drawn_before():
    torch.manual_seed(1)
    a = Discriminator([DEIT, LITE_64])
    torch.manual_seed(2)
    b = Discriminator([DEIT, LITE_64])
    same = {name: torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items()}
    projection = {name: equal for name, equal in same.items() if ".projection." in name}
    assert len(projection) > 30
    assert all(projection.values())
    assert not all(same.values())


def test_the_projection_has_the_default_initialisation():
    torch.manual_seed(0)
    own = Discriminator([DEIT]).branches[0].projection
    for drawn, default in (
        (own.across[3], nn.Conv2d(512, 256, 1)),
        (own.pyramid.levels[0][1], nn.ConvTranspose2d(96, 96, 4, stride=4)),
    ):
        for name in ("weight", "bias"):
            a, b = getattr(drawn, name), getattr(default, name)
            torch.testing.assert_close(a.std(), b.std(), rtol=0.15, atol=0)
            torch.testing.assert_close(a.abs().max(), b.abs().max(), rtol=0.05, atol=0)


def test_at_the_start_the_loss_is_about_two_and_logits_have_no_mean():
    torch.manual_seed(0)
    discriminator = Discriminator([LITE_64])
    fake, real = discriminator([maps(LITE_64, 16)]), discriminator([maps(LITE_64, 16)])
    assert discriminator_loss(fake, real).item() == pytest.approx(2, abs=0.2)
    assert abs(torch.cat(fake).mean().item()) < 0.2


def test_frozen_weights_stay_and_only_heads_learn():
    torch.manual_seed(0)
    discriminator = Discriminator([LITE_64])
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in discriminator.parameters() if p.requires_grad], 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        discriminator_loss(discriminator([maps(LITE_64)]), discriminator([maps(LITE_64)])).backward()
        optimizer.step()
    for name, value in discriminator.named_parameters():
        assert torch.equal(value, before[name]) == (".projection." in name)


def test_the_gradient_reaches_the_image_through_both_branches():
    branches = (DeitBranch(weights="synthetic"), EfficientNetBranch(image_size=64))
    features = Features(branches, 32)
    discriminator = Discriminator(features.taps)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    for logits in discriminator(features(images, lambda x: x)):
        (gradient,) = torch.autograd.grad(logits.mean(), images, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient != 0).float().mean() > 0.9
    features.train()
    assert not any(module.training for module in features.modules())
    assert not any(p.requires_grad for p in features.parameters())


def test_deit_taps_are_the_tokens_after_blocks_2_5_8_11():
    """Against hooks on the network's own blocks."""
    features = Features([DeitBranch(weights="synthetic")], 32)
    (branch,) = features.branches
    seen = {}
    for index in (2, 5, 8, 11):
        branch.network.blocks[index].register_forward_hook(lambda m, i, out, index=index: seen.update({index: out}))
    found = branch(torch.rand(1, 3, 32, 32) * 2 - 1)
    for got, index in zip(found, (2, 5, 8, 11), strict=True):
        torch.testing.assert_close(got.flatten(2).transpose(1, 2), seen[index][:, 2:])


@pytest.mark.parametrize(("size", "side"), [(32, 224), (200, 224), (256, 256)])
def test_small_images_are_enlarged_to_224_and_others_left_alone(size, side):
    (taps,) = Features([EfficientNetBranch()], size).taps
    assert taps.sides == tuple(side // stride for stride in (4, 8, 16, 32))


def test_a_side_that_does_not_halve_five_times_is_refused():
    with pytest.raises(ValueError, match="needs a side divisible by 32, the images have 300"):
        Features([EfficientNetBranch()], 300)


def test_every_branch_sees_an_augmentation_of_its_own():
    seen = []
    features = Features([EfficientNetBranch(image_size=64), EfficientNetBranch(image_size=64)], 32)
    features(torch.rand(2, 3, 32, 32), lambda x: seen.append(augmented(x, None)) or seen[-1])
    assert not torch.equal(*seen)


def test_hinge_by_hand():
    fake = [torch.tensor([[-2.0, 1.0]]), torch.tensor([[0.0]])]
    real = [torch.tensor([[0.5, 3.0], [-1.0, 1.0]]), torch.tensor([[2.0], [0.0]])]
    # Branch 1: (0 + 2) / 2 + (0.5 + 0 + 2 + 0) / 4; branch 2: 1 + (0 + 1) / 2.
    assert discriminator_loss(fake, real).item() == 1 + 0.625 + 1 + 0.5
    assert generator_loss(fake).item() == 0.5
    assert share_called_real(real).item() == (0.75 + 0.5) / 2


def test_the_loss_does_not_depend_on_the_number_of_images():
    fake, real = [torch.randn(3, 4)], [torch.randn(5, 4)]
    often = discriminator_loss([fake[0].repeat(4, 1)], [real[0].repeat(2, 1)])
    torch.testing.assert_close(often, discriminator_loss(fake, real))


def test_augmentation_repeats_with_its_generator_and_differs_between_images():
    images = torch.rand(1, 3, 16, 16).expand(4, -1, -1, -1) * 2 - 1
    one, two = (augmented(images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert len({tuple(image.flatten().tolist()) for image in one}) == 4


def test_augmentation_moves_by_at_most_an_eighth_and_cuts_a_fifth():
    """Grey images keep their grey under colour changes, so a bright pixel's place shows the shift."""
    side, shifts, cut = 40, set(), set()
    images = torch.zeros(200, 3, side, side)
    images[..., 20, 20] = 20
    for one in augmented(images, torch.Generator().manual_seed(0)):
        spread = one.abs()[0]
        if spread.max() > 5:
            y, x = divmod(int(spread.argmax()), side)
            shifts |= {y - 20, x - 20}
    assert min(shifts) == -5
    assert max(shifts) == 5
    flat = augmented(torch.ones(200, 3, side, side) * 3, torch.Generator().manual_seed(0))
    for one in flat:
        rows, columns = (one[0] == 0).all(1).sum().item(), (one[0] == 0).all(0).sum().item()
        inside = one[0, rows : side - rows, columns : side - columns]
        cut.add((inside == 0).sum().item())
    assert max(cut) == 8 * 8


def test_augmentation_passes_the_gradient_of_what_is_left():
    images = (torch.rand(3, 3, 16, 16, dtype=torch.float64) * 2 - 1).requires_grad_()

    def work(x):
        return augmented(x, torch.Generator().manual_seed(3))

    assert torch.autograd.gradcheck(work, (images,), fast_mode=True)


def joint(weight, ratio):
    """Images 2 z; drift Σ 3 x, so the pull is 3 everywhere; adversarial Σ x² / 2, so the push is x."""
    z = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2).requires_grad_()
    images = 2 * z
    result = joint_loss(
        (3 * images).sum(), images, lambda x: (x**2).sum() / 2, weight=weight, gradient_ratio=ratio, gather=False
    )
    result.loss.backward()
    return z, result


def test_a_fixed_weight_adds_the_two_gradients():
    z, result = joint(weight=0.5, ratio=0.1)
    torch.testing.assert_close(z.grad, 2 * (3 + 0.5 * 2 * z.detach()))
    assert result.loss.item() == 60 + 0.5 * 60
    assert result.weight.item() == 0.5
    assert result.ratio.item() == pytest.approx(0.5 * (4 + 16 + 36 + 64) ** 0.5 / 6)


def test_a_gradient_ratio_sets_the_weight():
    z, result = joint(weight=None, ratio=0.25)
    expected = 0.25 * 6 / 120**0.5
    assert result.weight.item() == pytest.approx(expected)
    assert result.ratio.item() == pytest.approx(0.25)
    torch.testing.assert_close(z.grad, 2 * (3 + expected * 2 * z.detach()))


def test_nothing_flows_into_the_weights_of_the_adversary():
    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    weight = torch.ones(1, requires_grad=True)
    moved = images * 1
    result = joint_loss(moved.sum(), moved, lambda x: (x * weight).sum(), weight=1.0, gradient_ratio=1)
    result.loss.backward()
    assert images.grad is not None
    assert weight.grad is None
