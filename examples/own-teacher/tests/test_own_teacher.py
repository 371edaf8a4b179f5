"""The package installed beside fpd: every door of fpd sees it. Run where both are installed, not from fpd's sources."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import fpd_core
from fpd_core import load_generator
from fpd_core.checkpoints import save_folder
from own_teacher.teacher import ToyNetwork, ToyTeacher

CONFIG = json.loads((Path(__file__).parents[1] / "toy.json").read_text())
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A working folder with weights of a toy teacher and the config."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    teacher = ToyTeacher(ToyNetwork(16))
    save_folder(folder / "toy-teacher", {"architecture": teacher.architecture()}, teacher.state_dict(), "a toy")
    (folder / "toy.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def student(world):
    """Distilled by the command, as a user would."""
    done = call(world, "fpd-train", "run", "--config", "toy.json")
    assert done.returncode == 0, done.stderr
    return world / "runs/toy/student"


def call(folder, program, *arguments):
    return subprocess.run([BIN / program, *arguments], cwd=folder, capture_output=True, text=True, timeout=280)


def test_fpd_is_installed_and_not_a_source_tree():
    assert Path(fpd_core.__file__).is_relative_to(sys.prefix)


def test_a_student_of_the_family_is_distilled_opened_and_drawn(student, world):
    losses = [json.loads(line)["loss"] for line in (world / "runs/toy/metrics.jsonl").read_text().splitlines()]
    assert losses
    assert all(0 < loss < 100 for loss in losses)
    images = load_generator(student).generate([0, 2], seed=1)
    assert images.shape == (2, 3, 32, 32)
    drawn = call(world, "fpd-generate", "--ckpt", str(student), "--class", "0", "--n", "2", "--out", "pictures")
    assert drawn.returncode == 0, drawn.stderr
    assert len(list((world / "pictures").glob("0*.png"))) == 2


def test_the_schema_knows_its_section(capsys):
    from fpd_train.cli import schema_command

    schema_command()
    assert json.loads(capsys.readouterr().out)["$defs"]["ToyConfig"]["properties"]["name"]["const"] == "toy"


def test_the_doctor_names_it(world, capsys, monkeypatch):
    from fpd_train.doctor_cli import doctor_command

    monkeypatch.chdir(world)
    doctor_command(world / "toy.json")
    assert "fpd.teachers: 'toy' of own-teacher 0.1.0 is ready" in capsys.readouterr().out
    doctor_command(world / "toy.json", as_json=True)
    names = {(one["group"], one["name"]) for one in json.loads(capsys.readouterr().out) if one["family"] == "plug-in"}
    assert ("fpd.teachers", "toy") in names


def test_a_misspelt_name_is_answered_with_it(world):
    from fpd_core.config import ConfigError
    from fpd_train.config import load_config

    with pytest.raises(ConfigError, match=r"method\.fpd\.teacher: unknown name 'tooy'; did you mean 'toy'"):
        load_config(world / "toy.json", ["method.teacher.name=tooy"])


@pytest.mark.parametrize("what", ["--ckpt", "--system", "--images"])
def test_its_metric_measures_its_student_its_system_and_pictures(student, world, what, capsys, monkeypatch):
    """Mosaics have no spread within squares. Of stripes of 0 and 200, a pixel wide, it is 100."""
    from fpd_eval.cli import main

    monkeypatch.chdir(world)
    (world / "mosaic.json").write_text('{"kind": "mosaic", "name": "random mosaics"}')
    (world / "stripes").mkdir(exist_ok=True)
    stripes = Image.fromarray((torch.arange(32) % 2 * 200).to(torch.uint8).expand(32, 32).numpy()).convert("RGB")
    for number in range(6):
        stripes.save(world / f"stripes/{number}.png")
    place = {"--ckpt": str(student), "--system": "mosaic.json", "--images": "stripes"}[what]
    options = ["--num-images", "6", "--only", "square_spread", "--cache-dir", "cache", "--device", "cpu", "--json"]
    with pytest.raises(SystemExit) as end:
        main(["metrics", "--protocol", "clean", what, place, *options])
    out, err = capsys.readouterr()
    assert end.value.code == 0, err
    expected = 100.0 if what == "--images" else 0.0
    assert json.loads(out)["values"] == {"square_spread": pytest.approx(expected, abs=1e-3)}


def test_a_misspelt_metric_is_answered_with_it(world, capsys, monkeypatch):
    from fpd_eval.cli import main

    with pytest.raises(SystemExit) as end:
        main(["metrics", "--protocol", "clean", "--images", "stripes", "--only", "square_spred"])
    assert end.value.code == 2
    assert "did you mean 'square_spread'" in capsys.readouterr().err
