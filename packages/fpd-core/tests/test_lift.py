"""The lift: cells are means over windows, in row-major order, with gradient and frozen modules."""

import pytest
import torch
from torch import nn

from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0Config
from fpd_core.lift import Lift, LiftConfig, SpaceConfig, pixel_cells, pooled_cells


def test_cells_are_window_means_in_row_major_order():
    features = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8)
    cells = pooled_cells(features, 4)
    assert cells.shape == (2, 16, 3)
    for row in range(4):
        for column in range(4):
            window = features[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(cells[:, 4 * row + column], window.mean((2, 3)))


def test_pixel_cells_hold_every_pixel_once():
    images = torch.randn(2, 3, 8, 12)
    cells = pixel_cells(images, 4)
    assert cells.shape == (2, 16, 3 * 2 * 3)
    torch.testing.assert_close(cells[1, 6].view(3, 2, 3), images[1, :, 2:4, 6:9])
    assert cells.sum().item() == pytest.approx(images.sum().item(), abs=1e-3)


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (LiftConfig(), [(2, 16, 24), (2, 16, 40), (2, 16, 112)]),
        (LiftConfig(grid="global", backbone=EfficientNetLite0Config(blocks=(0, 4))), [(2, 1, 16), (2, 1, 320)]),
        (LiftConfig(space="pixel"), [(2, 16, 3 * 64)]),
        (LiftConfig(space="pixel", grid="global"), [(2, 1, 3 * 32 * 32)]),
        (LiftConfig(more=(SpaceConfig(space="pixel"),)), [(2, 16, 24), (2, 16, 40), (2, 16, 112), (2, 16, 3 * 64)]),
    ],
)
def test_shapes_and_gradient(teacher, config, shapes):
    lift = Lift(teacher, config)
    embeddings = torch.randn(2, 64, 5, requires_grad=True)
    features = lift(embeddings, teacher.condition([0, 1]))
    assert [tuple(f.shape) for f in features] == shapes
    torch.stack([f.square().mean() for f in features]).sum().backward()
    assert embeddings.grad.abs().sum() > 0


def test_everything_in_the_lift_is_frozen_even_inside_a_training_parent(teacher):
    lift = Lift(teacher, LiftConfig())
    before = {k: v.clone() for k, v in lift.state_dict().items()}
    nn.ModuleList([lift, teacher]).train()
    assert not any(m.training for m in [*lift.modules(), *teacher.modules()])
    assert not any(p.requires_grad for p in [*lift.parameters(), *teacher.parameters()])
    lift(torch.randn(2, 64, 5), teacher.condition([0, 1]))
    assert all(torch.equal(before[k], v) for k, v in lift.state_dict().items())


def test_several_spaces_are_the_features_of_each(teacher):
    images = torch.rand(2, 3, 32, 32)
    pixels = SpaceConfig(space="pixel", grid="global")
    both = Lift(teacher, LiftConfig(more=(pixels,))).features(images)
    alone = Lift(teacher, LiftConfig()).features(images)
    for found, expected in zip(both, [*alone, images.flatten(1)[:, None]], strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "section", [{"space": "pixel", "more": [{"space": "pixel"}]}, {"more": [{"backbone": {"blocks": [4]}}]}]
)
def test_a_space_is_given_once(section):
    with pytest.raises(ValueError, match=r"(pixels|efficientnet_lite0) stands twice"):
        LiftConfig.model_validate(section)
