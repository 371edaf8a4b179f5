"""Cut-out objects pixel by pixel, and colours by a tiny random CLIP against the rule written out."""

import json
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from fpd_core.checkpoints import CheckpointError
from fpd_eval.geneval import colors
from fpd_eval.geneval.classes import COLORS
from fpd_eval.geneval.colors import ClipColors, cut_out
from fpd_eval.geneval.detector import Detection

ARCHITECTURE = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny_clip():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.CLIP(**ARCHITECTURE).eval()


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(30, 40, 3), dtype=np.uint8))


def ellipse(box, height=30, width=40):
    x0, y0, x1, y1 = box
    y, x = np.mgrid[:height, :width] + 0.5
    return ((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0)) ** 2 < 0.25


def found(*boxes):
    return [Detection(*box, 0.9, ellipse(box)) for box in boxes]


def test_an_object_is_cut_out_on_grey():
    mask = np.zeros((4, 5), bool)
    mask[1, 1:4] = mask[2, 2] = True
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    crop = np.array(cut_out(Image.fromarray(pixels), Detection(1.0, 1.0, 4.0, 3.0, 0.9, mask)))
    grey = [153, 153, 153]
    assert crop.tolist() == [
        [pixels[1, 1].tolist(), pixels[1, 2].tolist(), pixels[1, 3].tolist()],
        [grey, pixels[2, 2].tolist(), grey],
    ]


@pytest.mark.parametrize("mask", [None, np.ones((40, 30), bool)])
def test_a_mask_must_fit_the_image(image, mask):
    with pytest.raises(ValueError, match=r"needs the object's mask of \[30, 40\] pixels"):
        cut_out(image, Detection(0, 0, 5, 5, 0.9, mask))


def test_colors_follow_the_rule(tiny_clip, image):
    objects = found((2, 3, 20, 28), (10, 0, 40, 12), (25, 15, 33, 30))
    classify = ClipColors(tiny_clip, model_name="ViT-B-32", batch_size=2)
    answers = []
    for box in objects:
        masked = np.where(box.mask[..., None], np.array(image), 153).astype(np.uint8)
        crop = Image.fromarray(masked[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)])
        scale = 16 / min(crop.size)
        crop = crop.resize([max(16, int(side * scale)) for side in crop.size], Image.Resampling.BICUBIC)
        left, top = (round((side - 16) / 2) for side in crop.size)
        pixels = np.array(crop.crop((left, top, left + 16, top + 16))) / 255
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        normalised = torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.no_grad():
            picture = tiny_clip.encode_image(normalised)[0]
            scores = []
            for color in COLORS:
                texts = [f"a photo of a {color} tv remote", f"a photo of a {color}-colored tv remote"]
                words = tiny_clip.encode_text(open_clip.tokenize([*texts, f"a photo of a {color} object"]))
                text = sum(word / word.norm() for word in words) / 3
                scores.append(torch.nn.functional.cosine_similarity(picture, text, dim=0).item())
        answers.append(COLORS[int(np.argmax(scores))])
    assert classify(image, "tv remote", objects) == answers
    assert classify(image, "tv remote", []) == []


class Vectors(torch.nn.Module):
    """A CLIP whose picture is (1, 0) and whose texts are chosen vectors, colour by colour."""

    visual = SimpleNamespace(image_size=16)

    def encode_image(self, pixels):
        return torch.tensor([[1.0, 0.0]]).expand(len(pixels), -1)

    def encode_text(self, tokens):
        far = [(0.0, 1.0)] * 3
        texts = {
            "red": [(0.9, 0.436), (0.9, -0.436), (0.9, 0.436)],  # mean (0.9, 0.15): cosine 0.99, but short
            "orange": [(1.0, 0.0), (0.0, 1.0), (0.0, 1.0)],  # best by its first text alone
            "yellow": [(100.0, 0.0), (0.0, 1.0), (0.0, 1.0)],  # best if texts keep their length
            "green": [(0.95, 0.312)] * 3,  # best if the mean keeps its length
        }
        return torch.tensor([vector for color in COLORS for vector in texts.get(color, far)])


def test_texts_are_normalised_averaged_and_normalised_again(image):
    assert ClipColors(Vectors(), model_name="ViT-B-32")(image, "car", found((2, 3, 20, 28))) == ["red"]


def test_texts_of_a_class_are_encoded_once(tiny_clip, image, monkeypatch):
    classify = ClipColors(tiny_clip, model_name="ViT-B-32")
    calls, encode = [], tiny_clip.encode_text
    monkeypatch.setattr(tiny_clip, "encode_text", lambda tokens: calls.append(len(tokens)) or encode(tokens))
    for name in ("car", "dog", "car"):
        classify(image, name, found((2, 3, 20, 28)))
    assert calls == [30, 30]


def test_the_published_model_has_quick_gelu():
    assert open_clip.get_model_config(colors.MODEL)["quick_gelu"] is True


def test_weights_are_read_from_a_file(tiny_clip, image, tmp_path, monkeypatch):
    (tmp_path / "tiny-quickgelu.json").write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(tmp_path / "tiny-quickgelu.json")
    monkeypatch.setattr(colors, "MODEL", "tiny-quickgelu")
    torch.save(tiny_clip.state_dict(), tmp_path / "weights.pt")
    loaded = ClipColors.load(tmp_path / "weights.pt")
    assert loaded.identity["colors_weights_sha256"] == ClipColors(tiny_clip).identity["colors_weights_sha256"]
    torch.save({"visual.proj": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="tiny-quickgelu"):
        ClipColors.load(tmp_path / "weights.pt")
