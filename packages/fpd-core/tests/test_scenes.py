"""The scenes against GenEval's official prompts, plain geometry and Pillow's own compositing."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpd_core.checkpoints import CheckpointError
from fpd_core.networks.scene_text import SceneText, SceneTextConfig
from fpd_core.scenes import Drawing, Placed, Scene, draw_scene, held_out
from fpd_core.scenes.captions import all_records, position, single_object
from fpd_core.scenes.draw import BACKGROUNDS, read_sheet
from fpd_core.scenes.vocabulary import OBJECTS, TASKS, TINTED, words
from fpd_eval.geneval.prompts import make_prompts

SPRITES = Path(__file__).resolve().parents[3] / "assets/scenes/sprites"


def is_ours(record):
    return all(
        clause["class"] in OBJECTS and ("color" not in clause or clause["class"] in TINTED)
        for clause in record["include"]
    )


def scenes(task, count, seed=0):
    random = np.random.default_rng(seed)
    return [draw_scene(random, task) for _ in range(count)]


@pytest.fixture(scope="module")
def drawing():
    return Drawing(SPRITES)


def test_official_records_of_these_objects_are_ours_word_for_word():
    ours = {record["prompt"]: record for task in TASKS for record in all_records(task)}
    official = [record for record in make_prompts() if is_ours(record)]
    assert len(official) == 75
    for record in official:
        assert ours[record["prompt"]] == record


def test_official_prompts_are_held_out_but_single_objects():
    for record in filter(is_ours, make_prompts()):
        assert held_out(record) == (record["tag"] != "single_object")


@pytest.mark.parametrize("task", TASKS)
def test_training_never_draws_a_held_out_prompt(task):
    hidden = {record["prompt"] for record in all_records(task) if held_out(record)}
    drawn = {scene.record["prompt"] for scene in scenes(task, 1500)}
    assert not drawn & hidden
    assert bool(hidden) == (task != "single_object")


def test_a_held_out_pair_is_held_out_in_either_order_and_relation():
    assert held_out(position("apple", "above", "tv"))
    assert held_out(position("tv", "left of", "apple"))


@pytest.mark.parametrize("task", TASKS)
def test_sprites_stand_on_the_lattice_and_never_overlap(task):
    for scene in scenes(task, 300):
        for placed in scene.objects:
            x0, y0, x1, y1 = placed.box
            assert (x1 - x0, y1 - y0) == (24, 24)
            assert x0 % 8 == y0 % 8 == 0
            assert min(x0, y0) >= 0
            assert max(x1, y1) <= 64
        for a, b in combinations((placed.box for placed in scene.objects), 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_position_scenes_show_the_relation():
    for scene in scenes("position", 300):
        relation = scene.record["include"][1]["position"][0]
        box = {placed.name: placed.box for placed in scene.objects}
        subject, target = (box[scene.record["include"][clause]["class"]] for clause in (1, 0))
        axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[relation]
        offset = (subject[0] - target[0], subject[1] - target[1])
        assert sign * offset[axis] >= 24
        assert abs(offset[1 - axis]) <= 8


def test_counting_scenes_show_the_number():
    for scene in scenes("counting", 200):
        clause = scene.record["include"][0]
        assert [placed.name for placed in scene.objects] == [clause["class"]] * clause["count"]


def test_the_same_seed_draws_the_same_scenes(drawing):
    first, second = (scenes("color_attr", 20, seed=3) for _ in range(2))
    assert first == second
    assert first != scenes("color_attr", 20, seed=4)
    assert np.array_equal(drawing(first[0]), drawing(second[0]))


@pytest.mark.parametrize("name", ["car", "umbrella", "potted plant"])
def test_composite_is_pillows(drawing, name):
    """Pillow composites straight RGBA in 8 bits; two roundings may part the two by 1/255."""
    sprite = Image.open(SPRITES / "sprites.png").convert("RGBA")
    row, column = divmod(OBJECTS.index(name), 5)
    sprite = sprite.crop((24 * column, 24 * row, 24 * column + 24, 24 * row + 24))
    scene = Scene(single_object(name), (Placed(name, None, 2, 4),), 1)
    ground = np.empty((64, 64, 3))
    ground[:48], ground[48:] = BACKGROUNDS[1]
    canvas = Image.fromarray(np.round(ground * 255).astype(np.uint8)).convert("RGBA")
    canvas.alpha_composite(sprite, (16, 32))
    wanted = np.asarray(canvas.convert("RGB"), dtype=np.float64) / 255
    assert np.abs(drawing(scene).transpose(1, 2, 0) - wanted).max() < 1.6 / 255


def test_pictures_stay_in_range(drawing):
    pictures = np.stack([drawing(scene) for task in TASKS for scene in scenes(task, 20)])
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_a_tint_has_the_hue_it_is_named_after(drawing):
    """The mean colour of a tinted sprite in the middle of the object, seen by its strongest channel."""
    strongest = {"red": 0, "green": 1, "blue": 2}
    for color, channel in strongest.items():
        scene = Scene(single_object("apple"), (Placed("apple", color, 2, 2),), 0)
        assert drawing(scene)[:, 24:32, 24:32].mean((1, 2)).argmax() == channel


def test_a_damaged_sheet_is_named(tmp_path):
    (tmp_path / "sprites.png").write_bytes(b"no picture")
    with pytest.raises(CheckpointError, match=r"sprites\.png cannot be decoded"):
        Drawing(tmp_path)
    Image.new("RGBA", (24, 24)).save(tmp_path / "small.png")
    with pytest.raises(CheckpointError, match="24x24 pixels"):
        read_sheet(tmp_path / "small.png")


def test_every_caption_has_known_words():
    text = SceneText(SceneTextConfig(words=words(), width=8, num_heads=2))
    prompts = [record["prompt"] for task in TASKS for record in all_records(task)]
    numbers = text.tokenize(prompts)
    assert numbers.shape == (len(prompts), 12)
    assert len({tuple(row) for row in numbers.tolist()}) == len(set(prompts))


def test_a_plural_is_its_kind_and_an_ending():
    text = SceneText(SceneTextConfig(words=words(), width=8, num_heads=2))
    assert text.pieces("A photo of three buses.") == ["a", "photo", "of", "three", "bus", "+s"]
    assert text.pieces("a photo of two potted plants")[-3:] == ["potted", "plant", "+s"]
    assert text.pieces("a photo of a bus") == ["a", "photo", "of", "a", "bus"]
    bus, buses = text.tokenize(["a photo of a bus", "a photo of two buses"]).tolist()
    assert bus[4] == buses[4]
    # A tower that knows plurals as words of their own reads them so.
    whole = SceneText(SceneTextConfig(words=("bus", "buses", "+s"), width=8, num_heads=2))
    assert whole.pieces("buses bus") == ["buses", "bus"]


def test_an_unknown_word_is_named():
    text = SceneText(SceneTextConfig(words=words(), width=8, num_heads=2))
    with pytest.raises(ValueError, match="does not know the word 'giraffe'"):
        text.tokenize(["a photo of a giraffe"])
    with pytest.raises(ValueError, match="13 tokens"):
        text.tokenize(["a " * 13])
    assert text.tokenize(["A photo of a dog."]).equal(text.tokenize(["a photo of a dog"]))
