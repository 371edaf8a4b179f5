"""FDD's features: the hub's position rule, Pillow's resize, the normed class token."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from fpd_core.checkpoints import CheckpointError
from fpd_eval.extractors.dinov2 import Dinov2Extractor, resize_positions, resized

CPU = torch.device("cpu")


def cubic(distance):
    """Keys' kernel with a = -0.75, which torch uses."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def by_hand(grid, row, column, scale):
    """Bicubic sample at (index + 0.5) / scale - 0.5, edges repeated; no antialiasing."""
    own = len(grid)
    y, x = ((index + 0.5) / scale - 0.5 for index in (row, column))
    total = 0.0
    for i in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
        for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            weight = cubic(y - i) * cubic(x - j)
            total += weight * grid[min(max(i, 0), own - 1), min(max(j, 0), own - 1)]
    return total


def test_positions_are_sampled_with_the_offset_of_a_tenth():
    grid = np.random.default_rng(0).normal(size=(37, 37))
    positions = torch.tensor(np.concatenate([[[9.0]], grid.reshape(-1, 1)]))[None]
    found = resize_positions(positions, 16)
    assert found.shape == (1, 257, 1)
    assert float(found[0, 0]) == 9.0
    cells = found[0, 1:].view(16, 16)
    for row, column in ((0, 0), (3, 11), (15, 15), (8, 2)):
        assert float(cells[row, column]) == pytest.approx(by_hand(grid, row, column, 16.1 / 37), abs=1e-9)
        assert abs(float(cells[row, column]) - by_hand(grid, row, column, 16 / 37)) > 1e-3


def test_positions_of_the_right_size_stay():
    positions = torch.randn(1, 257, 3)
    assert resize_positions(positions, 16) is positions


def test_images_are_resized_as_8_bit_pictures():
    pixels = torch.randint(256, (2, 3, 50, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture = Image.fromarray(pixels[1].permute(1, 2, 0).contiguous().numpy()).resize((224, 224), Image.BICUBIC)
    assert np.array_equal(resized(pixels)[1].permute(1, 2, 0).numpy(), np.asarray(picture))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file like the published one, of the small architecture: a 37 x 37 grid and a mask token."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0)
    state = {name: value + 0.01 for name, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("dinov2") / "published.pth"
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, path)
    return path, state


def test_features_are_the_normed_class_token(published):
    path, state = published
    pixels = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found = Dinov2Extractor(CPU, path, architecture="small")(pixels)["features"]
    # timm's own network at its native grid, given the positions of the 224-pixel grid.
    network = timm.create_model("vit_small_patch14_dinov2", pretrained=False, img_size=224, num_classes=0).eval()
    network.load_state_dict({**state, "pos_embed": resize_positions(state["pos_embed"], 16)})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (resized(pixels).float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = network.forward_features(images)
    assert found.shape == (2, 384)
    torch.testing.assert_close(found, expected[:, 0])


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"pos_embed": torch.zeros(1, 1370, 384)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth does not fit"):
        Dinov2Extractor(CPU, tmp_path / "other.pth", architecture="small")
