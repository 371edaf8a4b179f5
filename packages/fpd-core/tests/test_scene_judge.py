"""The bundled judge and tokenizer of the scenes, asked through GenEval's own rules."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fpd_core.networks.patch_tokenizer import load_patch_tokenizer
from fpd_core.networks.scene_judge import load_scene_judge
from fpd_core.scenes import Drawing, Placed, Scene, draw_scene
from fpd_core.scenes.captions import color_attr, colors, counting, position
from fpd_core.scenes.layouts import place
from fpd_core.scenes.vocabulary import TASKS
from fpd_eval.geneval.judge import judge

ASSETS = Path(__file__).resolve().parents[3] / "assets/scenes"


@pytest.fixture(scope="module")
def drawing():
    return Drawing(ASSETS / "sprites")


@pytest.fixture(scope="module")
def eye():
    return load_scene_judge(ASSETS / "judge")


@pytest.fixture(scope="module")
def tokenizer():
    return load_patch_tokenizer(ASSETS / "tokenizer")


def look(eye, drawing, scenes):
    return eye.detect(torch.from_numpy(np.stack([drawing(scene) for scene in scenes])))


def rebuild(tokenizer, images):
    return tokenizer.decode(tokenizer.codebook[tokenizer.encode(images)]).clamp(0, 1)


@pytest.mark.parametrize("task", TASKS)
def test_drawn_and_reconstructed_scenes_pass(eye, tokenizer, drawing, task):
    random = np.random.default_rng(11)
    scenes = [draw_scene(random, task) for _ in range(40)]
    images = torch.from_numpy(np.stack([drawing(scene) for scene in scenes]))
    for pictures in (images, rebuild(tokenizer, images)):
        found = eye.detect(pictures)
        passed = [judge(s.record, f.boxes, f.classify_colors).correct for s, f in zip(scenes, found, strict=True)]
        assert np.mean(passed) >= 0.97


def test_boxes_are_the_sprites(eye, drawing):
    scene = Scene(position("bus", "above", "boat"), (Placed("boat", None, 2, 4), Placed("bus", None, 1, 0)), 2)
    (found,) = look(eye, drawing, [scene])
    for placed in scene.objects:
        (box,) = [box for box in found.boxes[placed.name] if box[4] > 0.5]
        assert np.abs(np.subtract(box[:4], placed.box)).max() < 2


WRONG = {
    "another relation": (position("bus", "left of", "boat"), position("bus", "right of", "boat")),
    "another number": (counting("dog", 3), counting("dog", 4)),
    "one too many": (counting("dog", 3), counting("dog", 2)),
    "another colour": (colors("apple", "blue"), colors("apple", "green")),
    "colours exchanged": (
        color_attr("clock", "red", "apple", "black"),
        color_attr("clock", "black", "apple", "red"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_was_not_asked_for_fails(eye, drawing, name):
    shown, asked = WRONG[name]
    scenes = [place(np.random.default_rng(seed), shown) for seed in range(10)]
    for found in look(eye, drawing, scenes):
        assert judge(shown, found.boxes, found.classify_colors).correct
        assert not judge(asked, found.boxes, found.classify_colors).correct


def test_halves_of_two_objects_are_neither(eye, drawing):
    """Left third of one, the rest of another: built here with slices, not with the training's damage."""
    for a, b in (("dog", "bus"), ("apple", "tv"), ("cat", "clock"), ("cake", "elephant")):
        images = [drawing(Scene(counting(name, 2), (Placed(name, None, 3, 2),), 0)) for name in (a, b)]
        mixed = images[0].copy()
        mixed[:, :, 36:] = images[1][:, :, 36:]
        (found,) = eye.detect(torch.from_numpy(mixed[None]))
        assert not any(box[4] > 0.9 for boxes in found.boxes.values() for box in boxes), (a, b)


def test_bare_ground_shows_nothing(eye, drawing):
    images = [drawing(Scene(counting("dog", 2), (), background)) for background in range(3)]
    assert all(not found.boxes for found in eye.detect(torch.from_numpy(np.stack(images))))


def test_the_tokenizer_rebuilds_and_equal_patches_share_codes(tokenizer, drawing):
    corner, middle = (Scene(counting("cup", 2), (Placed("cup", None, x, y),), 1) for x, y in ((0, 0), (4, 3)))
    images = torch.from_numpy(np.stack([drawing(corner), drawing(middle)]))
    first, second = tokenizer.encode(images).view(2, 8, 8)
    assert torch.equal(first[0:3, 0:3], second[3:6, 4:7])
    error = (rebuild(tokenizer, images) - images).square().mean()
    assert -10 * float(error.log10()) > 34
