"""GenEval of the scenes by real processes: two ranks, one killed, one resumed; and the same images as a folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_python import free_port

ROOT = Path(__file__).resolve().parents[3]
GENEVAL = ("-m", "fpd_eval", "geneval", "--suite", "scenes", "--samples", "2", "--per-task", "2")
STUDENT = (*GENEVAL, "--ckpt", "assets/scenes/student")
IMAGES = 24


def launched(*arguments):
    """Two ranks under torchrun."""
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()))
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output


def contents(folder):
    """Every file that two runs must share, with the run's own place taken out."""
    files = [path for path in folder.rglob("*") if path.suffix in (".png", ".jsonl", ".json")]
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"")
        for path in files
        if path.is_file()
    }


@pytest.fixture(scope="module")
def start(warm_python):
    return lambda *arguments: warm_python.start(arguments, cwd=ROOT)[0]


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finish(start(*STUDENT, "--out", folder))
    return folder


def test_two_ranks_give_the_bytes_of_one(alone, tmp_path):
    finish(launched(*STUDENT, "--out", tmp_path))
    assert contents(tmp_path) == contents(alone)
    assert len((tmp_path / "student" / "results.jsonl").read_text().splitlines()) == IMAGES


def test_a_killed_run_continues_to_the_same_bytes(start, alone, tmp_path):
    process = start(*STUDENT, "--out", tmp_path)
    deadline = time.monotonic() + 600
    while not (made := list(tmp_path.rglob("*.png"))) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(made) < IMAGES
    assert not (tmp_path / "student" / "results.jsonl").exists()
    finish(start(*STUDENT, "--out", tmp_path))
    assert contents(tmp_path) == contents(alone)


def test_a_folder_of_the_same_images_is_judged_the_same(start, alone, tmp_path):
    finish(start(*GENEVAL, "--images", alone / "student" / "images", "--out", tmp_path))
    judged = (tmp_path / "results.jsonl").read_bytes()
    assert judged == (alone / "student" / "results.jsonl").read_bytes()
