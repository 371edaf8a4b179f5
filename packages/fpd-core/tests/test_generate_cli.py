"""`fpd-generate` as a user calls it: pictures, a grid, a record of what each shows, a sentence for every mistake."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fpd_core import load_generator
from fpd_core.demo.cli import app as demo_app
from fpd_core.export.cli import app as export_app
from fpd_core.generate_cli import _wanted, main
from fpd_core.generator import GenerationConfig, save_generator
from fpd_core.picture_folder import grid_columns, parse_seeds, planned


def call(*arguments):
    """The command in this process, as its entry point runs it."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["fpd-generate", *map(str, arguments)]
    with patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main()
    return SimpleNamespace(returncode=end.value.code or 0, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture
def student(teacher, tmp_path):
    save_generator(tmp_path / "student", teacher, teacher.network, GenerationConfig(), {}, "card")
    return tmp_path / "student"


def pictures(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def records(folder):
    return [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]


def test_each_picture_is_that_of_its_recorded_seed(student, tmp_path):
    out = tmp_path / "out"
    result = call("--ckpt", student, "--class", 2, "--class", 0, "--n", 3, "--seed", 5, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "device: cpu" in result.stderr
    generator, found = load_generator(student), records(out)
    assert [record["class"] for record in found] == [2, 2, 2, 0, 0, 0]
    assert len({record["seed"] for record in found}) == 6
    for record in found:
        expected = (generator.generate([record["class"]], seed=record["seed"])[0] * 255).round().to(torch.uint8)
        picture = Image.open(out / record["file"])
        assert np.array_equal(np.array(picture), expected.permute(1, 2, 0).numpy())
        assert json.loads(picture.text["fpd"]) == record
    assert {path.name for path in out.iterdir()} == {*pictures(out), "images.jsonl", "settings.json"}
    grid = np.array(Image.open(tmp_path / "out-grid.png"))
    assert grid.shape == (64, 96, 3)  # two rows of three
    assert np.array_equal(grid[32:, 64:], np.array(Image.open(out / "00005.png")))


def test_two_seeds_share_no_picture_and_fewer_are_the_first_of_more(student, tmp_path):
    for name, seed, n in (("a", 0, 32), ("b", 1, 32), ("c", 0, 8)):
        assert call("--ckpt", student, "--class", 1, "--seed", seed, "--n", n, "--out", tmp_path / name).returncode == 0
    a, b, c = (records(tmp_path / name) for name in "abc")
    assert not {one["seed"] for one in a} & {one["seed"] for one in b}
    assert not set(_pixels(tmp_path / "a")) & set(_pixels(tmp_path / "b"))
    assert len(set(_pixels(tmp_path / "a"))) == 32
    assert c == a[:8]
    assert pictures(tmp_path / "c") == dict(list(pictures(tmp_path / "a").items())[:8])


def _pixels(folder):
    return [Image.open(path).tobytes() for path in sorted(folder.glob("*.png"))]


def test_a_list_of_seeds_and_a_batch_size_change_no_picture(student, tmp_path):
    assert call("--ckpt", student, "--class", 1, "--seeds", "3,8-10", "--out", tmp_path / "a").returncode == 0
    assert [one["seed"] for one in records(tmp_path / "a")] == [3, 8, 9, 10]
    more = ("--batch-size", 3, "--class", 2)
    assert call("--ckpt", student, "--class", 1, *more, "--seeds", "3,8-10", "--out", tmp_path / "b").returncode == 0
    assert _pixels(tmp_path / "b")[:4] == _pixels(tmp_path / "a")


def test_finished_pictures_are_kept_and_others_are_refused(student, tmp_path):
    out = tmp_path / "out"
    wanted = ("--ckpt", student, "--class", 1, "--n", 4, "--out", out)
    assert call(*wanted).returncode == 0
    whole, kept = pictures(out), (out / "00000.png").stat().st_mtime_ns
    (out / "00002.png").unlink()
    result = call(*wanted)
    assert result.returncode == 0, result.stderr
    assert "3 of them from before" in result.stdout
    assert pictures(out) == whole
    assert (out / "00000.png").stat().st_mtime_ns == kept
    for change, what in (
        (("--seed", 9), "seeds"),
        (("--temperature", 0.5), "temperature"),
        (("--n", 3), "seeds"),
        (("--class", 2), "prompts or classes"),
    ):
        refused = call(*wanted, *change)
        assert refused.returncode == 2
        assert f"holds pictures of other settings ({what})" in refused.stderr
    assert pictures(out) == whole


def test_pictures_of_somebody_else_are_never_mixed_in(student, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.png").write_bytes(b"x")
    result = call("--ckpt", student, "--class", 1, "--out", out)
    assert result.returncode == 2
    assert "holds mine.png" in result.stderr
    assert "Traceback" not in result.stderr
    (out / "mine.png").unlink()
    assert call("--ckpt", student, "--class", 1, "--n", 1, "--out", out).returncode == 0
    (out / "00001.png").write_bytes(b"x")
    assert "holds 00001.png" in call("--ckpt", student, "--class", 1, "--n", 1, "--out", out).stderr


def test_prompts_come_from_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a dog\na cup\na dog\n")
    found = planned(_wanted([], file, []), None, seed=0, n=1)
    assert [one.wanted for one in found] == ["a dog", "a cup", "a dog"]
    assert len({one.seed for one in found}) == 3  # one that comes twice is drawn twice
    file.write_text("a dog\n\na cup\n")
    with pytest.raises(ValueError, match="line 2 holds no prompt"):
        _wanted([], file, [])


@pytest.mark.parametrize(("text", "seeds"), [("7", [7]), ("3,5,8-12", [3, 5, 8, 9, 10, 11, 12]), ("2-2", [2])])
def test_lists_of_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-", "-3", "5-3", "3,3", "1-3,2", "1.5", str(2**62), "0-9999999"])
def test_no_lists_of_seeds(text):
    with pytest.raises(ValueError, match="--seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("total", "each", "columns"),
    [(1, 1, 1), (16, 16, 4), (16, 8, 4), (6, 3, 3), (160, 16, 16), (7, 7, 3), (50, 5, 5), (100, 1, 10), (64, 32, 8)],
)
def test_grids_are_near_squares(total, each, columns):
    found = grid_columns(total, each)
    assert found == columns or (0.5 <= found / -(-total // found) <= 2 and each % found == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", 7], "labels must lie in 0 to 2"),
        (["--prompt", "a shoe"], "draws classes 0 to 2"),
        ([], "either --prompt or --class"),
        (["--class", 1, "--seeds", "1-4", "--n", 2], "--seeds names the seed of every picture"),
        (["--class", 1, "--seeds", "1-"], "--seeds is a list such as 3,5,8-12"),
        (["--class", 1, "--class", 7], "labels must lie in 0 to 2"),
        (["--prompts", "/nothing.txt"], "/nothing.txt"),
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


def test_a_gpu_that_is_not_there_is_said_before_torch(student, tmp_path):
    program = (
        "import sys; from fpd_core import devices, generate_cli; devices.DRIVER_FILES = ()\n"
        "try: generate_cli.main()\n"
        "finally: print('torch' in sys.modules)"
    )
    arguments = ("--ckpt", student, "--class", 1, "--out", tmp_path / "out", "--device", "cuda")
    result = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 2
    assert "no GPU driver" in result.stderr
    assert result.stdout.strip() == "False"


def test_the_version_is_printed():
    assert call("--version").stdout.startswith("fpd-generate ")
    for name, group in (("fpd-export", export_app), ("fpd-demo", demo_app)):
        assert CliRunner().invoke(group, ["--version"]).output.startswith(f"{name} ")


def test_help_does_not_wait_for_torch():
    program = "import sys; from fpd_core import generate_cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
