"""The battery's encoders of photographs: small networks of the same kinds, read as their docstrings say."""

import json

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from fpd_core.checkpoints import CheckpointError
from fpd_eval.extractors import load_extractor
from fpd_eval.extractors.clip_embeddings import ClipEmbeddings
from fpd_eval.extractors.timm_encoders import READINGS, Reading, TimmEncoder

CPU = torch.device("cpu")
TINY_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def noise(size):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, size=(2, 3, size, size), dtype=np.uint8))


def save(model, path, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(model, pretrained=False, **options).eval()
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return network


def normalised(pixels, mean, std):
    return (pixels.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize(
    ("model", "pool", "read"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", "class", lambda network, x: network.forward_features(x)[:, 0]),
        ("vit_tiny_patch16_224.augreg_in21k", "patches", lambda network, x: network.forward_features(x)[:, 1:].mean(1)),
        ("convnextv2_atto.fcmae_ft_in1k", "head", lambda network, x: network(x)),
    ],
)
def test_a_network_is_pooled_as_its_reading_says(tmp_path, model, pool, read):
    network = save(model, tmp_path / "x.safetensors", num_classes=0)
    reading = Reading(model, pool)
    known = timm.get_pretrained_cfg(model)
    pixels = noise(known.input_size[-1])  # nothing to resize
    found = TimmEncoder("x", reading, tmp_path / "x.safetensors", CPU)(pixels)["features"]
    with torch.no_grad():
        expected = read(network, normalised(pixels, known.mean, known.std))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_only_the_classifier_may_be_left_over(tmp_path):
    save("convnextv2_atto.fcmae_ft_in1k", tmp_path / "x.safetensors", num_classes=5)
    path, model = tmp_path / "x.safetensors", "convnextv2_atto.fcmae_ft_in1k"
    assert TimmEncoder("x", Reading(model, "head", ("head.fc.",)), path, CPU)(noise(32))["features"].shape == (2, 320)
    with pytest.raises(CheckpointError, match=r"unexpected \(head\.fc"):
        TimmEncoder("x", Reading(model, "head"), path, CPU)


@pytest.mark.parametrize("name", READINGS)
def test_timm_knows_every_reading_and_a_missing_file_is_answered(name, tmp_path):
    known = timm.get_pretrained_cfg(READINGS[name].model)
    assert known.hf_hub_id == f"timm/{READINGS[name].model}"
    with pytest.raises(CheckpointError, match=r"does not exist; get .* from https://huggingface.co/timm/"):
        load_extractor(name, CPU, tmp_path / "gone.safetensors")


def test_clip_gives_its_projected_embedding(tmp_path):
    (tmp_path / "tiny-quickgelu.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "tiny-quickgelu.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.create_model("tiny-quickgelu", load_weights=False).eval()
    torch.save(network.state_dict(), tmp_path / "clip.pt")
    pixels = noise(32)
    found = ClipEmbeddings(CPU, tmp_path / "clip.pt", "tiny-quickgelu")(pixels)["features"]
    with torch.no_grad():
        expected = network.encode_image(normalised(pixels, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_pixels_are_means_of_a_grid():
    pixels = noise(32)
    found = load_extractor("pixels_8x8", CPU)(pixels)["features"].view(2, 3, 8, 8)
    expected = pixels.double().view(2, 3, 8, 4, 8, 4).mean((3, 5)) / 255 - 0.5
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
