"""Systems from JSON files: folders of images, teachers, students and public checkpoints; images written as files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_core import Generator, load_generator
from fpd_core.checkpoints import CheckpointError
from fpd_core.conditioning import ClassCondition
from fpd_core.config import ConfigError
from fpd_core.generator import GenerationConfig
from fpd_core.teachers import load_teacher
from fpd_eval.images.paired_files import find_paired, open_rgb
from fpd_eval.images.plan import ClassPlan as Plan
from fpd_eval.images.plan import batch_seed
from fpd_eval.runtime.progress import silent
from fpd_eval.systems import read_system
from fpd_eval.systems.system import GeneratingSystem
from fpd_eval.systems.write_images import write_images

CPU = torch.device("cpu")
LABELS = ClassCondition(torch.tensor([0, 3, 9]))


def write(path, section):
    path.write_text(json.dumps(section))
    return path


@pytest.fixture
def folder(tmp_path):
    """Five images whose only grey level is their number."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in (10, 2, 0, 1, 3):
        Image.new("RGB", (6, 4), (index, index, index)).save(folder / f"{index}.png")
    return folder


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path, folder):
    section = {"kind": "folder", "name": "theirs", "folder": str(folder), "steps": 4, "settings": {"cfg": 2}}
    system = read_system(write(tmp_path / "a.json", section)).load(CPU)
    images = system.image_set(Plan(num_images=5, num_classes=5, batch_size=2))
    batches = list(images.batches())
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert batches[0].shape == (2, 3, 4, 6)
    assert batches[0].dtype == torch.uint8
    assert torch.cat(batches)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 10]
    assert images.labels.tolist() == [0, 1, 2, 3, 4]
    assert (system.name, system.steps, system.network_evaluations, system.settings) == ("theirs", 4, 4, {"cfg": 2})
    with pytest.raises(ValueError, match="holds finished images"):
        system.images(LABELS, seed=0)
    with pytest.raises(ValueError, match="holds 5 images, the protocol needs 6"):
        system.image_set(Plan(num_images=6, num_classes=3, batch_size=2))


def test_the_fingerprint_follows_the_files(tmp_path, folder):
    path = write(tmp_path / "a.json", {"kind": "folder", "name": "a", "folder": str(folder)})
    before, again = (read_system(path).load(CPU).fingerprint for _ in range(2))
    Image.new("RGB", (6, 4)).save(folder / "3.png")
    assert before == again != read_system(path).load(CPU).fingerprint


def test_images_of_two_sizes_are_answered(tmp_path, folder):
    Image.new("RGB", (6, 6)).save(folder / "2.png")
    path = write(tmp_path / "a.json", {"kind": "folder", "name": "a", "folder": str(folder)})
    images = read_system(path).load(CPU).image_set(Plan(num_images=5, num_classes=5, batch_size=5))
    with pytest.raises(ValueError, match=r"2\.png has \(6, 6\) pixels, the first image has \(6, 4\)"):
        images.batch(0)


def test_damaged_and_transparent_images_are_answered(tmp_path):
    whole = tmp_path / "whole.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGBA", (4, 4)).save(tmp_path / "clear.png")
    Image.new("L", (4, 4), 7).save(tmp_path / "grey.png")
    assert open_rgb(tmp_path / "grey.png").getpixel((0, 0)) == (7, 7, 7)
    for name, message in (
        ("cut", "is truncated"),
        ("text", "cannot be decoded"),
        ("clear", "transparent"),
        ("no", "No such file"),
    ):
        with pytest.raises(ValueError, match=message):
            open_rgb(tmp_path / f"{name}.png")


def test_pairs_are_found_by_number_and_must_be_complete(folder):
    assert [path.name for path in find_paired(folder, ["0002", "10", "0", "1", "3"])][:2] == ["2.png", "10.png"]
    with pytest.raises(ValueError, match="lacks 1 of 6 images, first the one called '7'"):
        find_paired(folder, ["0", "1", "2", "3", "10", "7"])
    with pytest.raises(ValueError, match=r"1 images without a caption, first 10\.png"):
        find_paired(folder, ["0", "1", "2", "3"])


def test_empty_and_absent_folders_are_answered(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds no image"), ("absent", "is not a folder of images")):
        path = write(tmp_path / "a.json", {"kind": "folder", "name": "a", "folder": str(tmp_path / name)})
        with pytest.raises(ValueError, match=message):
            read_system(path).load(CPU)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "foldr"}, "unknown kind of system 'foldr'; did you mean 'folder'"),
        ({"name": "x"}, "must be a JSON object with a `kind`"),
        ({"kind": "folder", "name": "x", "foldr": "y"}, "did you mean 'folder'"),
        ({"kind": "teacher", "name": "x", "teacher": "fashion", "steps": 0}, "steps"),
    ],
)
def test_wrong_sections_name_the_key(tmp_path, section, message):
    with pytest.raises(ConfigError, match=message):
        read_system(write(tmp_path / "a.json", section))


def test_a_file_that_is_no_json_is_answered(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ConfigError, match="is not valid JSON"):
        read_system(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="No such file"):
        read_system(tmp_path / "b.json")


def test_a_teacher_takes_its_steps_from_the_file(tmp_path):
    section = {"kind": "teacher", "name": "teacher, 4 steps", "teacher": "fashion", "steps": 4, "guidance_scale": 1}
    system = read_system(write(tmp_path / "a.json", section)).load(CPU)
    assert (system.name, system.role, system.steps, system.network_evaluations) == ("teacher, 4 steps", "teacher", 4, 4)
    assert system.images(LABELS, seed=0).shape == (3, 3, 32, 32)


def test_a_student_is_its_generator(tmp_path):
    section = {"kind": "student", "name": "ours", "folder": "assets/fashion/student"}
    system = read_system(write(tmp_path / "a.json", section)).load(CPU)
    expected = load_generator("assets/fashion/student").generate([0, 3, 9], seed=5)
    assert torch.equal(system.images(LABELS, seed=5), expected)


def test_a_checkpoint_runs_on_the_teachers_modules(tmp_path):
    """The bundled student's network as another method would publish it: a bare state dict in a `.bin` file."""
    student = load_generator("assets/fashion/student")
    torch.save(student.model.network.state_dict(), tmp_path / "pytorch_model.bin")
    generation = {"init_mask_ratio": 0.6, "embedding_noise": 0.1, "temperature": 2.0}
    section = {"kind": "checkpoint", "name": "theirs", "teacher": "fashion", "generation": generation}
    section["weights"] = str(tmp_path / "pytorch_model.bin")
    system = read_system(write(tmp_path / "a.json", section)).load(CPU)
    teacher = load_teacher("fashion")
    teacher.network.load_state_dict(student.model.network.state_dict())
    expected = Generator(teacher, GenerationConfig(**generation), {}).generate([0, 3, 9], seed=1)
    assert torch.equal(system.images(LABELS, seed=1), expected)
    untrained = Generator(load_teacher("fashion"), GenerationConfig(**generation), {}).generate([0, 3, 9], seed=1)
    assert not torch.equal(expected, untrained)
    assert system.settings == GenerationConfig(**generation).model_dump()


def test_a_checkpoint_of_another_network_is_answered(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.bin")
    section = {"kind": "checkpoint", "name": "theirs", "teacher": "fashion", "generation": {}}
    section["weights"] = str(tmp_path / "other.bin")
    kind = read_system(write(tmp_path / "a.json", section))
    with pytest.raises(CheckpointError, match=r"other\.bin"):
        kind.load(CPU)


class Painter(GeneratingSystem):
    """The grey level of an image is the length of its prompt; counts its calls."""

    name, role, steps, network_evaluations, settings, fingerprint = "painter", "student", 1, 1, {}, "painter"

    def __init__(self):
        self.seeds = []

    def images(self, condition, *, seed):
        self.seeds.append(seed)
        levels = torch.tensor([len(prompt) for prompt in condition.prompts]) / 255
        return levels.view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def test_images_are_written_once_and_runs_go_on(tmp_path):
    prompts, system = ["a", "bb", "ccc", "dddd", "eeeee"], Painter()
    files = [tmp_path / "out" / f"{index}.png" for index in range(5)]
    options = SimpleNamespace(record=tmp_path / "out", seed=3, batch_size=2, track=silent)
    write_images(system, prompts, files, **vars(options))
    assert [open_rgb(file).getpixel((0, 0))[0] for file in files] == [1, 2, 3, 4, 5]
    assert system.seeds == [batch_seed(3, start) for start in (0, 2, 4)]
    files[3].unlink()
    write_images(system, prompts, files, **vars(options))
    assert system.seeds[3:] == [batch_seed(3, 2)]
    with pytest.raises(ValueError, match="another seed"):
        write_images(system, prompts, files, **vars(options) | {"seed": 4})
    system.fingerprint = "another"
    with pytest.raises(ValueError, match="another fingerprint"):
        write_images(system, prompts, files, **vars(options))


def test_images_of_unknown_origin_are_not_completed(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="generate into an empty folder"):
        write_images(Painter(), ["a"], [tmp_path / "0.png"], record=tmp_path, seed=0, batch_size=1, track=silent)
