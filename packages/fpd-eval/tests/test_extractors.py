"""Extractors give what their networks give, and are identified by their weights."""

import pytest
import torch

from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0
from fpd_core.checkpoints import save_folder
from fpd_core.config import ConfigError
from fpd_core.networks.classifier import Classifier, ClassifierConfig, load_classifier
from fpd_eval.extractors import load_extractor

CPU = torch.device("cpu")


def noise(count, size, seed=0):
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def save_classifier(folder, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = Classifier(ClassifierConfig(widths=(4, 4, 4), feature_dim=6))
    save_folder(folder, {"classifier": classifier.config.model_dump()}, classifier.state_dict(), "card")
    return folder


def test_classifier_gives_features_and_logits(tmp_path):
    save_classifier(tmp_path, 0)
    pixels = noise(3, 32)
    outputs = load_extractor("classifier", CPU, tmp_path)(pixels)
    features, logits = load_classifier(tmp_path)(pixels.float() / 255)
    assert torch.equal(outputs["features"], features)
    assert torch.equal(outputs["logits"], logits)
    assert outputs["features"].shape == (3, 6)


def test_fingerprints_follow_the_weights_and_not_the_folder(tmp_path):
    first, copy, other = (
        load_extractor("classifier", CPU, save_classifier(tmp_path / name, seed)).fingerprint
        for name, seed in (("first", 0), ("copy", 0), ("other", 1))
    )
    assert first == copy != other


def test_efficientnet_gives_pooled_features_of_64_pixels():
    pixels = noise(2, 32)
    outputs = load_extractor("efficientnet_lite0", CPU)(pixels)
    expected = EfficientNetLite0(blocks=(1,), image_size=64).pooled(pixels.float() / 255)
    torch.testing.assert_close(outputs["features"], expected)
    assert outputs["features"].shape == (2, 1280)


def test_unknown_extractors_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'classifier'"):
        load_extractor("clasifier", CPU)
