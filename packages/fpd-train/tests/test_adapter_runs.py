"""Runs with adapters on two real ranks, at every ZeRO stage: one loss, small checkpoints, resumed bit by bit."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.distributed
STAGES, RESUMED = (0, 1, 2, 3), (3,)


def one_rank(folder):
    """What this file does when it is started as a script: per stage a run of three steps and, of some, a copy that goes
    on from step 2."""
    from fpd_train import trainer
    from fpd_train.config import parse
    from fpd_train.stopping import StopRequest

    # One process group for all runs: DeepSpeed remembers the first for as long as the process lives.
    trainer.start_processes, leave, trainer.leave = cache(trainer.start_processes), trainer.leave, lambda: None

    base = json.loads((folder / "config.json").read_text())
    for stage in STAGES:
        for name in ("straight", "resumed") if stage in RESUMED else ("straight",):
            config = base | {"output": str(folder / f"{name}{stage}"), "engine": {"zero_stage": stage}}
            taken = "step_000002" if name == "resumed" else None
            trainer.run(parse(config, "test"), "test", StopRequest(), taken)
            if name == "straight" and os.environ["RANK"] == "0":
                shutil.copytree(config["output"], folder / f"resumed{stage}")
                shutil.rmtree(folder / f"resumed{stage}/student")
    leave()


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in found]


def test_every_stage_trains_adapters_alike_and_resumes_bit_by_bit(config, tmp_path):
    config["method"]["adapter"] = {"rank": 4, "alpha": 8}
    config |= {"steps": 3, "sample_every": 3, "keep_checkpoints": 9, "optimizer": {"lr": 1e-2, "warmup_steps": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ranks = [{"RANK": str(n), "LOCAL_RANK": str(n), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"} for n in range(2)]
    shared = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "MASTER_PORT": str(20000 + os.getpid() % 20000)}
    command = [sys.executable, __file__, str(tmp_path)]
    processes = [subprocess.Popen(command, env={**os.environ, **shared, **own}) for own in ranks]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    for stage in STAGES:
        straight = tmp_path / f"straight{stage}"
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
        straight, resumed = tmp_path / f"straight{stage}", tmp_path / f"resumed{stage}"
        assert lines(resumed) == lines(straight)
        again = load_file(resumed / "student/model.safetensors")
        assert all(torch.equal(v, again[k]) for k, v in load_file(straight / "student/model.safetensors").items())


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]))
