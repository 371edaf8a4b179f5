"""Kills of real processes at seeded random moments: every run ends in the numbers of one that was left alone."""

import json
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.faults, pytest.mark.distributed, pytest.mark.timeout(600)]
STEPS = 40
SETTINGS = {"steps": STEPS, "sample_every": 10}


def metrics(folder):
    """Every number of every step but the speed: they depend on the weights and on the order of the data."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def tensors(folder):
    """All tensors that a finished run leaves: the export, the average, weights and optimizer of the last checkpoint."""
    last = folder / "checkpoints" / f"step_{STEPS:06d}"
    found = {}
    for path in [folder / "student/model.safetensors", last / "student.ema.safetensors"]:
        found |= {f"{path.name} {name}": tensor for name, tensor in load_file(path).items()}
    for path in sorted((last / "student").glob("*.pt")):
        flatten(torch.load(path, weights_only=False), path.name, found)
    return found


def flatten(value, name, found):
    if isinstance(value, torch.Tensor):
        found[name] = value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            flatten(part, f"{name} {key}", found)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def partial_checkpoints(folder):
    return list(folder.glob("checkpoints/.step_*"))


def wait_until(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def kill_after_a_while(start, folder, chance):
    """SIGKILL to every process of the run, at a moment of its training or of the end of it."""
    process = start(wait=False)
    wait_until((folder / "metrics.jsonl").exists, process)
    time.sleep(chance.uniform(0, 5))
    kill(process)


def kill_while_a_checkpoint_is_written(start, folder, chance):
    for _ in range(10):
        process = start(wait=False)
        begun = chance.randrange(2, STEPS // 2)
        wait_until(lambda: (folder / "checkpoints" / f"step_{begun:06d}").exists(), process)  # noqa: B023
        wait_until(lambda: partial_checkpoints(folder), process)
        kill(process)
        if partial_checkpoints(folder):
            return
    pytest.fail("no kill hit a checkpoint that was being written")


@pytest.fixture(scope="module")
def unbroken():
    """Finished folders of runs that nobody disturbed, by number of ranks and micro-batches per step."""
    return {}


CASES = [
    *((seed, 1, 1, kill_after_a_while) for seed in range(13)),
    *((seed, 2, 1, kill_after_a_while) for seed in range(13, 18)),
    (18, 1, 1, kill_while_a_checkpoint_is_written),
    (19, 2, 1, kill_while_a_checkpoint_is_written),
    (20, 1, 2, kill_after_a_while),
    (21, 2, 2, kill_after_a_while),
    (22, 1, 2, kill_while_a_checkpoint_is_written),
]


@pytest.mark.parametrize(
    ("seed", "ranks", "accumulation", "disturb"), CASES, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_killed_run_ends_in_the_numbers_of_an_unbroken_one(
    launch, config, unbroken, tmp_path_factory, seed, ranks, accumulation, disturb
):
    folder, kind = Path(config["output"]), (ranks, accumulation)
    start = partial(
        launch, ranks, "deepspeed" if ranks > 1 else "fresh", engine={"accumulation": accumulation}, **SETTINGS
    )
    if kind not in unbroken:
        code, output = start()
        assert code == 0, output
        unbroken[kind] = folder.rename(tmp_path_factory.mktemp("unbroken") / "run")

    disturb(start, folder, random.Random(seed))
    assert not any(path.name.endswith(".partial") for path in folder.glob("checkpoints/step_*"))
    code, output = start()
    assert code == 0, output
    assert metrics(folder) == metrics(unbroken[kind])
    expected, found = tensors(unbroken[kind]), tensors(folder)
    assert found.keys() == expected.keys()
    assert len(found) > 50
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert partial_checkpoints(folder) == []
