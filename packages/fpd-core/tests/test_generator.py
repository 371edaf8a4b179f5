"""Exported students: self-contained, strict, reproducible."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fpd_core import load_generator
from fpd_core.checkpoints import CheckpointError
from fpd_core.config import ConfigError
from fpd_core.generator import GenerationConfig, Generator, save_generator


@pytest.fixture
def folder(teacher, tmp_path):
    save_generator(
        tmp_path / "student",
        teacher,
        teacher.network,
        GenerationConfig(init_mask_ratio=0.8),
        {"name": "fashion"},
        "# card",
        torch.float32,
    )
    return tmp_path / "student"


def test_a_saved_generator_opens_and_draws_the_same(teacher, folder):
    direct = Generator(teacher, GenerationConfig(init_mask_ratio=0.8), {})
    opened = load_generator(folder)
    images = opened.generate([0, 2, 1], seed=5)
    assert images.shape == (3, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, direct.generate([0, 2, 1], seed=5))
    assert not torch.equal(images, opened.generate([0, 2, 1], seed=6))
    assert opened.teacher_config == {"name": "fashion"}


def test_it_takes_one_forward_pass_and_no_null_condition(folder):
    generator, calls = load_generator(folder), []
    generator.model.network.register_forward_pre_hook(lambda _, args: calls.append(args[1]))
    generator.generate(1)
    assert [labels.tolist() for labels in calls] == [[1]]


@pytest.mark.parametrize("wanted", [3, [0, -1]])
def test_labels_out_of_range(folder, wanted):
    with pytest.raises(ValueError, match="0 to 2"):
        load_generator(folder).generate(wanted)


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "not a weight folder"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "model.safetensors").unlink(), "does not exist"),
        (lambda f: (f / "model.safetensors").write_bytes(b"garbage"), "damaged"),
        (lambda f: (f / "config.json").write_text('{"architecture": {}}'), "lacks generation, teacher"),
        (lambda f: change_weights(f, lambda t: t.pop("network.bias")), r"1 missing \(network.bias\)"),
        (lambda f: change_weights(f, lambda t: t.update(extra=torch.zeros(1))), r"1 unexpected \(extra\)"),
        (
            lambda f: change_weights(f, lambda t: t.update({"network.bias": torch.zeros(2, 3)})),
            r"wrong shape \(network.bias \(2, 3\) instead of",
        ),
    ],
)
def test_damage_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_generator(folder)


def test_it_notes_which_networks_its_loss_saw(teacher, folder):
    assert load_generator(folder).encoders is None  # nobody noted them
    where, how = folder.with_name("noted"), GenerationConfig()
    save_generator(where, teacher, teacher.network, how, {"name": "fashion"}, "card", encoders=["dinov3", "deit"])
    assert load_generator(where).encoders == ("deit", "dinov3")
    assert load_generator(where).at_temperature(2.0).encoders == ("deit", "dinov3")


@pytest.mark.parametrize("training", ["deit", {}, {"encoders": "deit"}, {"encoders": [1]}])
def test_a_damaged_note_is_named(folder, training):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"training": training}))
    with pytest.raises(ConfigError, match=r"config\.json: training"):
        load_generator(folder)


def test_an_unknown_family_is_answered_with_the_nearest(folder):
    config = json.loads((folder / "config.json").read_text())
    config["architecture"]["name"] = "fasion"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="did you mean 'fashion'"):
        load_generator(folder)
