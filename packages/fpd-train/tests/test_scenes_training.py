"""What the scenes' networks learn from, and that a tiny run of each leads to a teacher that samples."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fpd_core.checkpoints import save_folder
from fpd_core.networks.patch_tokenizer import PatchTokenizer, PatchTokenizerConfig, load_patch_tokenizer
from fpd_core.networks.scene_judge import JudgeMaps, SceneJudgeConfig, load_scene_judge
from fpd_core.networks.scene_text import load_scene_text
from fpd_core.sampling import sample
from fpd_core.scenes import Drawing, Placed, Scene
from fpd_core.scenes.captions import color_attr, counting, position
from fpd_core.scenes.vocabulary import COLORS, OBJECTS
from fpd_core.teachers import load_teacher
from fpd_train.data.scenes import SceneCloseups
from fpd_train.methods.interface import Parts
from fpd_train.pretrain.patch_tokenizer import PatchTokenizerMethod, PatchTokenizerTraining
from fpd_train.pretrain.scene_damage import BROKEN, add_object, damage
from fpd_train.pretrain.scene_judge import _losses
from fpd_train.pretrain.scene_text import cell_targets, exchange_relation, noun_targets

SPRITES = Path(__file__).resolve().parents[3] / "assets/scenes/sprites"
SCENES = {"name": "scenes", "sprites": str(SPRITES)}
TOKENIZER = {"codebook_size": 32, "code_dim": 4, "encoder_width": 16, "widths": [8, 8, 8]}


@pytest.fixture(scope="module")
def drawing():
    return Drawing(SPRITES)


def scene(record, *objects):
    return Scene(record, tuple(Placed(*one) for one in objects), 0)


APPLE_AND_PLANT = scene(
    color_attr("apple", "red", "potted plant", "blue"), ("apple", "red", 0, 2), ("potted plant", "blue", 5, 3)
)


def test_noun_targets_stand_at_the_last_word_of_each_name():
    caption = "a photo of a red apple and a blue potted plant"
    targets = noun_targets(APPLE_AND_PLANT, caption.split(), 12)
    assert targets[:, 5].tolist() == [0, 2, 1 + COLORS.index("red")]
    assert targets[:, 10].tolist() == [5, 3, 1 + COLORS.index("blue")]
    assert (np.delete(targets, (5, 10), axis=1) == -1).all()


def test_noun_targets_know_plurals_and_empty_captions():
    buses = scene(counting("bus", 2), ("bus", None, 0, 2), ("bus", None, 4, 3))
    assert noun_targets(buses, ["a", "photo", "of", "two", "bus", "+s"], 12)[:, 4].tolist() == [4, 3, 0]
    assert (noun_targets(buses, [], 12) == -1).all()


def test_cell_targets_follow_the_sprites():
    kinds, colors, parts = cell_targets(APPLE_AND_PLANT)
    assert (kinds == 1 + OBJECTS.index("apple")).sum() == 9
    assert kinds[2, 0] == 1 + OBJECTS.index("apple")
    assert colors[5, 7] == 2 + COLORS.index("blue")
    assert parts[3:6, 5:8].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert kinds[0, 0] == colors[0, 0] == parts[0, 0] == 0


def test_exchanging_the_relation_changes_one_word():
    assert exchange_relation(position("cat", "left of", "dog")["prompt"]) == "a photo of a cat right of a dog"
    assert exchange_relation(position("cat", "below", "dog")["prompt"]) == "a photo of a cat above a dog"


def test_damage_stays_inside_the_sprite_and_is_measured(drawing):
    """What changes lies inside the box; what counts as untouched equals the drawing there, whatever was done to it."""
    image = drawing(APPLE_AND_PLANT)
    x0, y0, x1, y1 = APPLE_AND_PLANT.objects[0].box
    bare = drawing(scene(APPLE_AND_PLANT.record))[:, y0:y1, x0:x1]
    contrast = np.abs(image[:, y0:y1, x0:x1] - bare).mean()
    changes = []
    for seed in range(60):
        damaged = image.copy()
        change = damage(np.random.default_rng(seed), drawing, damaged, APPLE_AND_PLANT, 0)
        difference = np.abs(damaged - image)
        assert difference.sum() == pytest.approx(difference[:, y0:y1, x0:x1].sum())
        # Never more than the change against the object itself: another whole thing may be nearer.
        assert change <= difference[:, y0:y1, x0:x1].mean() / contrast + 1e-5
        changes.append(change)
    assert sum(change > BROKEN for change in changes) > 30


def test_a_further_object_stands_apart():
    crowded = scene(counting("cup", 4), *(("cup", None, x, y) for x in (1, 4) for y in (1, 4)))
    for seed in range(20):
        random = np.random.default_rng(seed)
        assert add_object(random, crowded) == crowded
        *others, added = add_object(random, APPLE_AND_PLANT).objects
        assert all(max(abs(added.x - one.x), abs(added.y - one.y)) >= 3 for one in others) or added in others


def test_the_judge_is_not_asked_for_malformed_objects():
    """The loss of a perfect answer: zero with the object whole, large with it counted as damaged."""
    config = SceneJudgeConfig(kinds=OBJECTS, colors=COLORS)
    kinds = torch.full((1, 20, 16, 16), -20.0)
    for placed in APPLE_AND_PLANT.objects:
        kinds[0, OBJECTS.index(placed.name), 2 * placed.y + 3, 2 * placed.x + 3] = 20.0
    maps = JudgeMaps(kinds, torch.zeros(1, 4, 16, 16), torch.zeros(1, 10, 16, 16))
    whole = _losses(maps, [APPLE_AND_PLANT], [np.zeros(2)], config)
    malformed = _losses(maps, [APPLE_AND_PLANT], [np.array([2 * BROKEN, 0])], config)
    assert float(whole[0]) < 1e-6
    assert float(malformed[0]) == pytest.approx(20, abs=0.1)


def test_a_started_tokenizer_keeps_its_codes(tmp_path):
    torch.manual_seed(0)
    first = PatchTokenizer(PatchTokenizerConfig.model_validate(TOKENIZER))
    save_folder(tmp_path / "first", {"tokenizer": first.config.model_dump()}, first.state_dict(), "tiny")
    training = PatchTokenizerTraining(tokenizer=first.config, start=tmp_path / "first")
    method = PatchTokenizerMethod(training, Parts(torch.device("cpu"), 1, 0, 1))
    network = method.networks["tokenizer"]
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    batch = next(SceneCloseups(sprites=SPRITES).open(batch_size=4, seed=0, rank=0, world=1, start=0))
    loss, _ = method.loss("tokenizer", batch, method.networks, torch.Generator(), 0)
    loss.backward()
    optimizer.step()
    method.export(tmp_path / "second", method.networks, "tiny")
    second = load_patch_tokenizer(tmp_path / "second")
    assert torch.equal(second.encode(batch.images), first.encode(batch.images))
    assert not torch.equal(second.decoder[0].weight, first.decoder[0].weight)


def test_tiny_runs_make_a_teacher_and_a_judge(launch, config, tmp_path):
    """Tokenizer, text tower, teacher and judge through the trainer, two steps each, then sampling from a prompt."""
    tokenizer, text = tmp_path / "tokenizer/tokenizer", tmp_path / "text/text"
    runs = {
        "tokenizer": {"name": "patch_tokenizer", "tokenizer": TOKENIZER, "free_steps": 1},
        "text": {"name": "scene_text"},
        "teacher": {
            "name": "masked_text_model",
            "tokenizer": str(tokenizer),
            "text": str(text),
            "sprites": str(SPRITES),
            "network": {"codebook_size": 32, "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 16},
        },
        "judge": {"name": "scene_judge", "tokenizer": str(tokenizer), "sprites": str(SPRITES)},
    }
    for name, method in runs.items():
        code, output = launch(method=method, data=SCENES, output=str(tmp_path / name), steps=2)
        assert code == 0, output
    lines = [json.loads(line) for line in (tmp_path / "teacher/metrics.jsonl").read_text().splitlines()]
    assert all("relation_gap" in line for line in lines)
    assert load_scene_judge(tmp_path / "judge/judge").config.kinds == OBJECTS
    assert load_scene_text(text).config.width == 128
    teacher = load_teacher({"name": "scenes", "path": tmp_path / "teacher/teacher"})
    condition = teacher.condition("a photo of a cat left of a dog")
    tokens = sample(teacher, condition, 4, generator=torch.Generator().manual_seed(0))
    assert teacher.decode(teacher.codebook[tokens], condition).shape == (1, 3, 64, 64)
