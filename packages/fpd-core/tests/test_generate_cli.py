"""`fpd-generate` as a user calls it: pictures, a grid, a record of what each shows, a sentence for every mistake."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_core import load_generator
from fpd_core.generator import GenerationConfig, save_generator


def call(*arguments):
    program = "from fpd_core.generate_cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def student(teacher, tmp_path):
    save_generator(tmp_path / "student", teacher, teacher.network, GenerationConfig(), {}, "card")
    return tmp_path / "student"


def test_pictures_are_those_of_the_python_interface(student, tmp_path):
    result = call("--ckpt", student, "--class", 2, "--class", 0, "--n", 3, "--seed", 5, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    expected = (load_generator(student).generate([2, 2, 2, 0, 0, 0], seed=5) * 255).round().to(torch.uint8)
    files = sorted((tmp_path / "out").glob("0*.png"))
    assert len(files) == 6
    for file, image in zip(files, expected, strict=True):
        assert np.array_equal(np.array(Image.open(file)), image.permute(1, 2, 0).numpy())
    grid = np.array(Image.open(tmp_path / "out/grid.png"))
    assert grid.shape == (64, 96, 3)
    assert np.array_equal(grid[32:, 64:], expected[5].permute(1, 2, 0).numpy())
    records = [json.loads(line) for line in (tmp_path / "out/images.jsonl").read_text().splitlines()]
    assert [record["class"] for record in records] == [2, 2, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", 7], "labels must lie in 0 to 2"),
        (["--prompt", "a shoe"], "draws classes 0 to 2"),
        ([], "either --prompt or --class"),
        (["--prompt", "a shoe", "--class", 1], "either --prompt or --class"),
        (["--class", 1, "--temperature", 0], "must be positive"),
    ],
)
def test_wrong_requests_get_one_sentence_and_write_nothing(student, tmp_path, arguments, message):
    result = call("--ckpt", student, "--out", tmp_path / "out", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_help_does_not_wait_for_torch():
    program = "import sys; from fpd_core import generate_cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
