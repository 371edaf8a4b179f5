"""EfficientNet-Lite0 really carries its ImageNet weights: it knows what a photograph shows."""

import matplotlib.cbook
import numpy as np
import pytest
import torch
from PIL import Image

from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0, load_imagenet_weights, weights_path
from fpd_core.checkpoints import CheckpointError

MILITARY_UNIFORM = 652  # ImageNet class of the portrait of Grace Hopper


def test_a_real_photograph_is_recognised():
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        photo = Image.open(file).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255
    backbone = EfficientNetLite0(blocks=(1,), image_size=224)
    logits = backbone.network(backbone.normalized(image))
    assert MILITARY_UNIFORM in logits.topk(1).indices[0]
    assert logits.softmax(-1).max() > 0.3


def test_pooled_features_feed_the_classifier():
    backbone = EfficientNetLite0(blocks=(1,), image_size=64)
    images = torch.rand(2, 3, 32, 32)
    pooled = backbone.pooled(images)
    assert pooled.shape == (2, 1280)
    logits = backbone.network(backbone.normalized(images))
    torch.testing.assert_close(backbone.network.classifier(pooled), logits)


def test_blocks_come_shallow_to_deep_with_their_strides():
    maps = EfficientNetLite0(blocks=(3, 1, 2), image_size=64)(torch.rand(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4)]


def test_a_file_of_another_network_is_refused(tmp_path):
    weights = torch.load(weights_path(), weights_only=True)
    first = next(iter(weights))
    weights[first] = weights[first][:5]
    torch.save(weights, tmp_path / "cut.pth")
    network = EfficientNetLite0(blocks=(1,), image_size=64).network
    with pytest.raises(CheckpointError, match="does not fit"):
        load_imagenet_weights(network, tmp_path / "cut.pth")
    torch.save({first: weights[first]}, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match="holds 1 tensors"):
        load_imagenet_weights(network, tmp_path / "short.pth")
