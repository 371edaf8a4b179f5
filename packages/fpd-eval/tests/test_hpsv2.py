"""HPSv2 against its rules written out with other primitives."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from fpd_core.checkpoints import CheckpointError
from fpd_eval.cli import main
from fpd_eval.extractors import open_clip_towers
from fpd_eval.extractors.open_clip_towers import hps_model, plain_tokens
from fpd_eval.images.prompts import read_hps_prompts
from fpd_eval.metrics.hpsv2 import aggregate, hps_scores, one_version

CPU = torch.device("cpu")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A small random network whose weights lie under `state_dict` as in the published files."""
    shape = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8}}
    shape["vision_cfg"]["patch_size"] = 8
    shape["text_cfg"] = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "tiny-hps.json").write_text(json.dumps(shape))
    open_clip.add_model_config(tmp_path / "tiny-hps.json")
    monkeypatch.setattr(open_clip_towers, "HPS_ARCHITECTURE", "tiny-hps")
    torch.manual_seed(0)
    network = open_clip.create_model("tiny-hps", load_weights=False).eval()
    for name in ("HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt"):
        torch.save({"epoch": 1, "state_dict": network.state_dict()}, tmp_path / name)
    return network, tmp_path


def test_the_tensor_is_resized_and_not_the_image(tiny):
    network, folder = tiny
    pixels = np.random.default_rng(0).integers(0, 256, (90, 71, 3), dtype=np.uint8)
    model = hps_model("v2.0", folder / "HPS_v2_compressed.pt", CPU)
    tensor = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    resized = torch.nn.functional.interpolate(tensor, (40, 32), mode="bicubic", antialias=True)[:, :, 4:36]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    expected = network.encode_image((resized - mean) / std)
    torch.testing.assert_close(model.images([Image.fromarray(pixels)]), expected, rtol=1e-5, atol=1e-5)
    small = np.asarray(Image.fromarray(pixels).resize((32, 40), Image.Resampling.BICUBIC))[4:36]
    rounded = (torch.tensor(small / 255).permute(2, 0, 1)[None].float() - mean) / std
    assert not torch.allclose(network.encode_image(rounded), expected, atol=1e-5)


def test_captions_have_no_prefix_and_scores_no_logit_scale(tiny):
    network, folder = tiny
    model = hps_model("v2.1", folder / "HPS_v2.1_compressed.pt", CPU)
    texts = ["a fox", "a hat " * 70]
    features = model.texts(texts)
    torch.testing.assert_close(features, network.encode_text(plain_tokens(texts)))
    image = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    expected = 100 * torch.nn.functional.cosine_similarity(image.double(), features.double())
    torch.testing.assert_close(hps_scores(image, features), expected)


@pytest.mark.parametrize(("version", "name"), [("v2.0", "HPS_v2.1_compressed.pt"), ("v2.1", "HPS_v2_compressed.pt")])
def test_weights_of_the_other_version_are_refused(tiny, version, name):
    with pytest.raises(CheckpointError, match="different scales"):
        hps_model(version, tiny[1] / name, CPU)


def test_aggregation_of_a_worked_example():
    """80 zeros, 80 ones and 40 fours: group means 0, 1, 4; the style's mean is theirs and not that of the images."""
    anime = torch.cat([torch.zeros(80), torch.ones(80), torch.full((40,), 4.0)])
    scores = aggregate({"anime": anime, "photo": torch.full((80,), 2.0)}, "v2.0")
    assert scores.styles["anime"].mean == pytest.approx(5 / 3)
    assert scores.styles["anime"].std == pytest.approx(np.std([0, 1, 4]))
    assert scores.styles["photo"].model_dump() == {"mean": 2, "std": 0, "num_images": 80}
    assert scores.average == pytest.approx((80 + 160 + 160) / 280)
    assert set(scores.columns()) == {"hps_v2.0_anime", "hps_v2.0_photo", "hps_v2.0_average"}


def test_versions_share_no_column_and_no_table():
    old, new = (aggregate({"anime": torch.ones(80)}, version) for version in ("v2.0", "v2.1"))
    assert not old.columns().keys() & new.columns().keys()
    assert one_version([old, old]) == "v2.0"
    with pytest.raises(ValueError, match=r"v2\.0 and v2\.1: the scales differ"):
        one_version([old, new])
    with pytest.raises(ValueError, match="no row"):
        one_version([])


def test_an_empty_style_is_answered():
    with pytest.raises(ValueError, match="at least one image"):
        aggregate({"anime": torch.empty(0)}, "v2.1")


def test_prompts_come_from_the_four_files(tmp_path):
    for style, count in (("anime", 3), ("concept-art", 1), ("paintings", 2), ("photo", 1)):
        (tmp_path / f"{style}.json").write_text(json.dumps([f"{style} {index}" for index in range(count)]))
    prompts = read_hps_prompts(tmp_path)
    assert prompts["paintings"].keys == ("00000", "00001")
    assert prompts["anime"].texts[2] == "anime 2"
    (tmp_path / "photo.json").write_text('{"not": "a list"}')
    with pytest.raises(ValueError, match="must hold a JSON list of prompts"):
        read_hps_prompts(tmp_path)
    (tmp_path / "photo.json").unlink()
    with pytest.raises(ValueError, match=r"photo\.json does not exist: copy .* zhwang/HPDv2"):
        read_hps_prompts(tmp_path)


@pytest.fixture
def benchmark(tmp_path):
    """Four styles of two prompts, and an image for each as the official folder has them."""
    for number, style in enumerate(("anime", "concept-art", "paintings", "photo")):
        (tmp_path / f"{style}.json").write_text(json.dumps([f"{style} one", f"{style} two"]))
        (tmp_path / "images" / style).mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng([number, index]).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / style / f"{index:05d}.jpg")
    return tmp_path


def run(arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_the_command_scores_every_style(tiny, benchmark, capsys):
    arguments = ["hps", "--images", benchmark / "images", "--prompts", benchmark, "--weights"]
    weights = tiny[1] / "HPS_v2.1_compressed.pt"
    assert run([*arguments, weights, "--version", "v2.1", "--json", "--batch-size", 1]) == 0
    found = json.loads(capsys.readouterr().out)
    model = hps_model("v2.1", weights, CPU)
    image = Image.open(benchmark / "images" / "paintings" / "00001.jpg")
    second = float(hps_scores(model.images([image]), model.texts(["paintings two"])))
    image = Image.open(benchmark / "images" / "paintings" / "00000.jpg")
    first = float(hps_scores(model.images([image]), model.texts(["paintings one"])))
    assert found["values"]["hps_v2.1_paintings"] == pytest.approx((first + second) / 2, abs=1e-4)
    assert len(found["values"]) == 5
    assert found["num_images"] == 8
    assert run([*arguments, weights, "--version", "v2.1"]) == 0
    assert "hps_v2.1_average" in capsys.readouterr().out


def test_the_command_refuses_an_incomplete_style_and_the_other_version(tiny, benchmark, capsys):
    arguments = ["hps", "--images", benchmark / "images", "--prompts", benchmark]
    old = tiny[1] / "HPS_v2_compressed.pt"
    assert run([*arguments, "--weights", old, "--version", "v2.1"]) == 2
    assert "different scales" in " ".join(capsys.readouterr().err.split())
    (benchmark / "images" / "photo" / "00001.jpg").unlink()
    assert run([*arguments, "--weights", old, "--version", "v2.0"]) == 2
    assert "lacks 1 of 2 images" in " ".join(capsys.readouterr().err.split())
    assert run(arguments) == 2
