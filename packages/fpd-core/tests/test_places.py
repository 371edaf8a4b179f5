"""Relative paths from other folders, devices by name, folders that can be written, progress without a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from fpd_core import load_generator
from fpd_core.config import ConfigError
from fpd_core.devices import device_called, require_driver
from fpd_core.places import beside, bundled
from fpd_core.preflight import require_writable
from fpd_core.track import lines

REPO = Path(__file__).resolve().parents[3]


def test_bundled_files_are_found_from_anywhere_and_nothing_else_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = Path("assets/fashion/teacher")
    assert bundled(teacher) == REPO / teacher
    assert bundled(Path("README.md")) == Path("README.md")
    assert bundled(Path("assets/nothing")) == Path("assets/nothing")
    (tmp_path / teacher).mkdir(parents=True)
    assert bundled(teacher) == teacher  # what the user has here comes first


def test_a_bundled_student_opens_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_generator("assets/fashion/student").model.num_classes == 10


def test_paths_of_a_config_lead_from_the_folder_that_holds_it(tmp_path, monkeypatch):
    student = tmp_path / "project/runs/a/student"
    (tmp_path / "project/runs/own/teacher").mkdir(parents=True)
    student.mkdir(parents=True)
    section = {"name": "fashion", "path": "runs/own/teacher", "size": 3, "other": "gone/teacher"}
    monkeypatch.chdir(tmp_path)
    found = {**section, "path": str(tmp_path / "project/runs/own/teacher")}
    assert beside(section, student) == found
    monkeypatch.chdir(tmp_path / "project")
    assert beside(section, student) == section


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_without_a_driver_is_refused_without_torch(name, monkeypatch):
    monkeypatch.setattr("fpd_core.devices.DRIVER_FILES", ())
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ConfigError, match="no GPU driver"):
        require_driver(name)


def test_auto_takes_a_gpu_where_torch_finds_one(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_called("auto").type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_called("auto").type == "cuda"


def test_folders_are_tried_and_left_as_they_were(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        require_writable(tmp_path / "file" / "b")


def test_without_a_terminal_there_is_a_line_every_half_minute():
    console, now = Console(file=io.StringIO(), width=200), [0.0]
    with lines(console, clock=lambda: now[0])("images", 10) as advance:
        for _ in range(10):
            now[0] += 12  # said at 36, 72 and 108 seconds; 120 is the end
            advance(1)
    assert console.file.getvalue().splitlines() == [
        "images: 3 of 10, 84 s left",
        "images: 6 of 10, 48 s left",
        "images: 9 of 10, 12 s left",
    ]
