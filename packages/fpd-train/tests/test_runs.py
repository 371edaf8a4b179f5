"""Whole runs in real processes: they finish, resume to the same numbers after a kill, answer mistakes in a sentence."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fpd_core import load_generator
from fpd_core.weights import WEIGHT_FILES

pytestmark = pytest.mark.distributed
REPO = Path(__file__).resolve().parents[3]


def metrics(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def weights(folder):
    return load_file(Path(folder) / "student" / "model.safetensors")


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.02)


@pytest.mark.parametrize(("how", "accumulation"), [("fresh", 1), ("warm", 2)])
def test_a_killed_run_resumes_to_the_same_numbers(launch, config, tmp_path, how, accumulation):
    """Fresh interpreters differ in their hashes of strings: no number may depend on the order of a set."""
    config["engine"] = {"accumulation": accumulation}
    code, output = launch(how=how)
    assert code == 0, output
    straight = tmp_path / "straight"
    Path(config["output"]).rename(straight)

    process = launch(how=how, wait=False)
    wait_for(Path(config["output"]) / "checkpoints" / "step_000002" / "state.json", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (Path(config["output"]) / "student").exists()
    code, output = launch(how=how)
    assert code == 0, output
    assert "resuming" in output
    assert metrics(config["output"]) == metrics(straight)
    assert all(torch.equal(value, weights(straight)[name]) for name, value in weights(config["output"]).items())

    code, output = launch()
    assert code == 0
    assert "is done (6 steps)" in output


@pytest.mark.parametrize("how", ["fresh", "deepspeed"])
def test_ctrl_c_keeps_the_last_step_and_says_how_to_resume(launch, config, how):
    """A terminal signals the whole process group; the launcher then dies with a traceback of its own."""
    process = launch(how=how, wait=False, steps=100_000)
    wait_for(Path(config["output"]) / "checkpoints" / "step_000003" / "state.json", process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    assert "nothing is lost" in output
    assert "resume" in output
    if how == "fresh":
        assert process.returncode == 130
        assert "Traceback" not in output
    state = json.loads(max(Path(config["output"], "checkpoints").glob("*/state.json")).read_text())
    assert metrics(config["output"])[-1]["step"] == state["step"] >= 3


def test_the_launcher_runs_two_ranks_that_agree_and_resume(launch, config):
    config["method"]["sampling_temperature"] = 0.5
    code, output = launch(2, "deepspeed", steps=3)
    assert code == 0, output
    generator = load_generator(Path(config["output"]) / "student")
    assert generator.generation.temperature == 0.5
    assert generator.generate([0, 1, 2]).shape == (3, 3, 32, 32)
    assert metrics(config["output"])[-1]["images_seen"] == 3 * 8 * 2
    assert Path(config["output"], "samples", "step_000003.png").exists()
    card = (Path(config["output"]) / "student" / "README.md").read_text()
    assert "with 2 rank(s)" in card

    Path(config["output"], "done.json").unlink()
    code, output = launch()
    assert code == 0, output
    assert "its 2 rank(s) at ZeRO stage 1 go on as 1 at stage 1, with 8 images in a step, not 16" in output
    assert [line["images_seen"] for line in metrics(config["output"])] == [16, 32, 48, 56, 64, 72]


def test_partitioning_does_not_change_the_mathematics(launch, tmp_path):
    """Every ZeRO stage logs the same losses on two ranks; step 4 sees the weights of three updates."""
    losses = {}
    for stage in (0, 1, 2, 3):
        folder = tmp_path / f"stage{stage}"
        code, output = launch(ranks=2, steps=4, engine={"zero_stage": stage}, output=str(folder))
        assert code == 0, output
        losses[stage] = [line["loss"] for line in metrics(folder)]
        assert all(value.numel() > 0 for value in weights(folder).values())
    assert len(set(losses[1])) == 4
    for stage in (0, 2, 3):
        assert losses[stage] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"method": {"name": "fpd", "teacher": {"path": "nowhere"}}}, [], "nowhere is not a weight folder"),
        ({}, ["--set", "optimizer.lrr=1"], "did you mean 'lr'?"),
        ({"output": "config.json/run"}, [], "cannot write to config.json/run"),
        (
            {
                "method": {"name": "classifier"},
                "data": {"name": "image_shards", "folder": "none", "num_classes": 3, "image_size": 8},
            },
            [],
            "none does not exist",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(launch, changes, arguments, message):
    code, output = launch(arguments=arguments, **changes)
    assert code == 2, output
    assert message in output
    assert "Traceback" not in output


def test_a_finished_folder_refuses_other_settings(launch, config):
    assert launch(steps=1)[0] == 0
    code, output = launch(steps=1, seed=5)
    assert code == 2
    assert "other settings (seed)" in output
    code, output = launch(steps=1, resume="never")
    assert code == 2
    assert "already holds a run at step 1" in output


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("maskgit", "deepspeed"),
        ("halton", "warm"),
        ("maskgen", "fresh"),
        ("paper/maskgit", "warm"),
        ("paper/maskgen", "warm"),
    ],
)
def test_a_shipped_config_without_weights_stops_with_the_list_of_files(launch, name, how):
    shipped = json.loads((REPO / f"configs/{name}.json").read_text())
    code, output = launch(how=how, **shipped, device="cpu")
    assert code != 0
    teacher = name.removeprefix("paper/")
    family = (*WEIGHT_FILES[teacher], *WEIGHT_FILES["dinov3"])
    assert f"{len(family)} weight files are missing" in output
    for file in family:
        assert str(file.local) in output
        assert file.repo_id in output
    assert f"fpd-train weights pull {teacher}" in output
    assert "Traceback" not in output
