"""docs/own-teacher.md as a user would follow it: its file and its two lines, put into a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
PAGE = (REPO / "docs/own-teacher.md").read_text()

MAKE_TEACHER = """
from pathlib import Path
import torch
from fpd_core.checkpoints import save_folder
from fpd_core.teachers.toy import ToyNetwork, ToyTeacher
torch.manual_seed(0)
teacher = ToyTeacher(ToyNetwork(16))
save_folder(Path("toy-teacher"), {"architecture": teacher.architecture()}, teacher.state_dict(), "a toy")
"""


def block(language, marker):
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.S) if marker in text)


@pytest.fixture
def world(tmp_path):
    """A folder with its own fpd_core that knows the page's family."""
    copy = tmp_path / "fpd_core"
    shutil.copytree(REPO / "packages/fpd-core/src/fpd_core", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "teachers/toy.py").write_text(block("python", "class ToyTeacher"))
    registry = (copy / "teachers/__init__.py").read_text()
    first = '    "fashion": (FashionConfig, FashionTeacher),\n'
    assert first in registry
    registry = registry.replace(first, first + block("python", '"toy": ('))
    head = "from fpd_core.teachers.fashion"
    registry = registry.replace(head, block("python", "import ToyConfig") + head, 1)
    (copy / "teachers/__init__.py").write_text(registry)
    (tmp_path / "toy.json").write_text(block("json", '"toy"'))

    def call(*command):
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
        program = [sys.executable, "-c", *command]
        return subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return tmp_path, call


def test_the_page_distils_and_draws(world):
    folder, call = world
    made = call(MAKE_TEACHER)
    assert made.returncode == 0, made.stderr
    trained = call("from fpd_train.cli import main; main()", "run", "--config", "toy.json")
    assert trained.returncode == 0, trained.stderr
    losses = [json.loads(line)["loss"] for line in (folder / "runs/toy/metrics.jsonl").read_text().splitlines()]
    assert losses
    assert all(0 < loss < 100 for loss in losses)
    drawn = call(
        "from fpd_core.generate_cli import main; main()",
        *("--ckpt", "runs/toy/student", "--class", "0", "--class", "2", "--n", "4", "--out", "pictures"),
    )
    assert drawn.returncode == 0, drawn.stderr
    assert len(list((folder / "pictures").glob("0*.png"))) == 8


def test_the_new_name_is_known_to_errors_and_to_the_schema(world):
    folder, call = world
    schema = call("from fpd_train.cli import main; main()", "schema")
    assert "ToyConfig" in json.loads(schema.stdout)["$defs"]
    (folder / "toy.json").write_text(block("json", '"toy"').replace('"name": "toy"', '"name": "tooy"'))
    result = call("from fpd_train.cli import main; main()", "run", "--config", "toy.json")
    assert result.returncode == 2
    assert "'toy'" in result.stderr
