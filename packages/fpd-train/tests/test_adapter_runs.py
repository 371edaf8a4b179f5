"""Runs with adapters on two real ranks, at every ZeRO stage: one loss, small checkpoints, resumed bit by bit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.distributed
STAGES, RESUMED = (0, 1, 2, 3), (3,)


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in found]


def test_every_stage_trains_adapters_alike_and_resumes_bit_by_bit(launch, config, tmp_path):
    config["method"]["adapter"] = {"rank": 4, "alpha": 8}
    config |= {"steps": 3, "sample_every": 3, "keep_checkpoints": 9, "optimizer": {"lr": 1e-2, "warmup_steps": 1}}
    straights = [tmp_path / f"straight{stage}" for stage in STAGES]
    for stage, straight in zip(STAGES, straights, strict=True):
        code, output = launch(2, engine={"zero_stage": stage}, output=str(straight))
        assert code == 0, output
    for straight in straights:
        losses = [line["loss"] for line in lines(straight)]
        assert len(set(losses)) == 3
        assert losses == pytest.approx([line["loss"] for line in lines(tmp_path / "straight1")], rel=1e-4)
        weights = load_file(straight / "student/model.safetensors")
        assert not any("lora" in name for name in weights)
        average = load_file(straight / "checkpoints/step_000002/student.ema.safetensors")
        assert all("lora_" in name for name in average)
        saved = torch.load(
            next((straight / "checkpoints/step_000002/student").glob("*model_states.pt")), weights_only=False
        )["module"]
        assert saved.keys() == average.keys()
    for stage in RESUMED:
        straight, resumed = straights[stage], tmp_path / f"resumed{stage}"
        shutil.copytree(straight, resumed)
        shutil.rmtree(resumed / "student")
        change = {"engine": {"zero_stage": stage}, "output": str(resumed)}
        code, output = launch(2, arguments=["--checkpoint", "step_000002"], **change)
        assert code == 0, output
        assert lines(resumed) == lines(straight)
        again = load_file(resumed / "student/model.safetensors")
        assert all(torch.equal(v, again[k]) for k, v in load_file(straight / "student/model.safetensors").items())
