"""Whole runs in real processes that are attacked, stopped, starved and frozen."""

import json
import math
import os
import re
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from warm_python import free_port

from fpd_train.errors import Exit

pytestmark = pytest.mark.distributed


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.02)


def ranks_of(process):
    """The processes of the ranks under the launcher, in order."""
    below = psutil.Process(process.pid).children(recursive=True)
    ranks = [one for one in below if any(word.startswith("--local_rank") for word in one.cmdline())]
    return sorted(ranks, key=lambda one: one.cmdline())


def output_of(process, seconds=60):
    """What the run says until its last process is gone; the pipe closes with it."""
    began = time.monotonic()
    output, _ = process.communicate(timeout=seconds)
    return output, time.monotonic() - began


def checkpoint(folder, step):
    return Path(folder) / "checkpoints" / f"step_{step:06d}"


FAULTS = pytest.mark.faults  # the same again, or slow: left to `make test-faults`


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=FAULTS)])
def test_a_signal_to_the_launcher_alone_stops_the_ranks_with_a_checkpoint(launch, config, number):
    process = launch(2, "deepspeed", wait=False, steps=100_000)
    wait_for(checkpoint(config["output"], 3), process)
    process.send_signal(number)
    output, seconds = output_of(process)
    assert "nothing is lost" in output
    assert seconds < 30
    last = Path(config["output"], "checkpoints", "latest").read_text().split()[0]
    lines = Path(config["output"], "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == int(last.removeprefix("step_"))


@pytest.mark.parametrize(
    ("victim", "number"),
    [
        (1, signal.SIGKILL),
        pytest.param(0, signal.SIGKILL, marks=FAULTS),
        pytest.param(1, signal.SIGHUP, marks=FAULTS),
        pytest.param(0, signal.SIGTERM, marks=FAULTS),
    ],
)
def test_one_rank_that_dies_or_is_asked_to_stop_ends_the_job(launch, config, victim, number):
    process = launch(2, "deepspeed", wait=False, steps=100_000)
    wait_for(checkpoint(config["output"], 2), process)
    ranks_of(process)[victim].send_signal(number)
    output, seconds = output_of(process)
    assert process.returncode != 0
    assert seconds < 60
    expected = "another rank is gone" if number == signal.SIGKILL else "nothing is lost. Run the same command"
    assert expected in " ".join(output.split())
    assert "Traceback" not in output


@FAULTS
def test_a_frozen_rank_is_named_and_the_job_ends(launch, config):
    process = launch(2, "deepspeed", wait=False, steps=100_000, watchdog_seconds=5)
    wait_for(checkpoint(config["output"], 2), process)
    frozen = ranks_of(process)[1]
    frozen.suspend()
    output, seconds = output_of(process, 120)  # the launcher gives the frozen one 30 s
    assert process.returncode == Exit.LOST
    assert "rank 1 gives no sign of life since the " in output
    assert "the last checkpoint is step" in output
    assert seconds < 60


def test_stop_signals_work_while_the_ranks_have_not_met(launch, config):
    """Rank 1 never comes."""
    lonely = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    lonely["MASTER_PORT"] = str(free_port())
    process = launch(wait=False, environment=lonely)
    wait_for(Path(config["output"]) / "run.lock", process)
    time.sleep(4)  # into the meeting, where Python runs no handler
    process.send_signal(signal.SIGTERM)
    output, seconds = output_of(process)
    assert process.returncode == Exit.INTERRUPTED
    assert seconds < 5
    assert "stopped before the first step; nothing is lost" in output


def test_a_taken_port_is_one_sentence(launch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        code, output = launch(environment=address | {"MASTER_PORT": str(taken.getsockname()[1])})
    assert code == Exit.MISTAKE
    assert "EADDRINUSE" in output
    assert "another --master_port" in output
    assert "Traceback" not in output


class Payload:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@FAULTS
def test_two_ranks_refuse_code_and_fall_back_together(launch, config, tmp_path):
    """A checkpoint with a payload on rank 1 is damaged by its checksum; without manifest, by what it holds."""
    assert launch(2, steps=3)[0] == 0
    newest = checkpoint(config["output"], 3)
    file = newest / "student" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    states = torch.load(file, weights_only=False)
    torch.save(states | {"more": Payload(tmp_path / "ran")}, file)
    before = {path.name: path.read_bytes() for path in newest.glob("*.json")}

    code, output = launch(2, steps=4, arguments=["--checkpoint", newest.name])
    assert code == Exit.MISTAKE
    assert "no checkpoint in" in output
    (newest / "manifest.json").unlink()
    code, output = launch(2, steps=4, arguments=["--checkpoint", newest.name])
    assert code == Exit.MISTAKE
    assert "damaged or holds more than tensors" in output
    assert file.name in output
    (newest / "manifest.json").write_bytes(before["manifest.json"])
    code, output = launch(2, steps=4)
    assert code == 0
    assert f"{file} is damaged: its checksum differs" in output
    assert f"step_{2:06d} is taken instead" in output
    assert "Traceback" not in output
    assert not (tmp_path / "ran").exists()


def test_two_ranks_finish_a_run_that_was_killed_before_it_could_say_so(launch, config):
    assert launch(2, steps=2)[0] == 0
    Path(config["output"], "done.json").unlink()
    code, output = launch(2, steps=2)
    assert code == 0, output
    assert json.loads(Path(config["output"], "done.json").read_text())["steps"] == 2


@pytest.mark.parametrize("stage", [1, *(pytest.param(stage, marks=FAULTS) for stage in (0, 2, 3))])
def test_weights_that_explode_name_the_tensor_and_leave_the_last_good_checkpoint(launch, config, stage):
    """Weight decay of ten times the learning rate's inverse multiplies every weight by -9 in each step."""
    code, output = launch(
        steps=200,
        sample_every=1000,
        keep_checkpoints=1,
        optimizer={"lr": 1.0, "weight_decay": 10.0, "warmup_steps": 0},
        engine={"zero_stage": stage, "max_skipped": 3},
    )
    assert code == Exit.MISTAKE, output
    assert "Traceback" not in output
    assert re.search(r"3 steps in a row .* not finite: the (output|weight|gradient) .*\(rank 0\)", output)
    losses = [json.loads(line)["loss"] for line in Path(config["output"], "metrics.jsonl").read_text().splitlines()]
    good = len(losses) - 2  # the third skipped step ended the run before it was logged
    assert good > 1
    assert all(map(math.isfinite, losses[:good]))
    (last,) = Path(config["output"], "checkpoints").glob("step_*")
    assert last == checkpoint(config["output"], good)
    assert f"the last checkpoint is step {good}" in output
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(last / "student.ema.safetensors").values())


def test_a_gpu_that_is_not_there_is_told_at_once(launch):
    if Path("/dev/nvidiactl").exists() or torch.cuda.is_available():
        pytest.fail("this machine has a GPU driver, so nothing can be told here")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, output = launch(how="fresh", device="cuda")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == Exit.MISTAKE
    assert "device is cuda, and this machine has no GPU driver" in output
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2  # of work, whatever else runs here


def test_a_second_run_in_the_folder_is_refused(launch, config):
    first = launch(wait=False, steps=100_000)
    wait_for(checkpoint(config["output"], 1), first)
    code, output = launch(steps=100_000)
    first.kill()
    first.communicate()
    assert code == Exit.MISTAKE
    assert f"{config['output']} is in use by process {first.pid} on {socket.gethostname()}, started" in output
    assert launch(steps=1)[0] in (0, Exit.MISTAKE)  # the lock of a killed run is stale


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_full_disk_is_one_sentence_and_leaves_no_partial_file(launch, config, policy):
    """A limit on the size of files stands for the disk: checkpoints of this run do not fit, its log does."""
    code, output = launch(on_disk_full=policy, file_limit=20_000)
    folder = Path(config["output"])
    assert ("the disk is full, so step 1 has no checkpoint" in output) == (policy == "continue")
    assert ("File too large; there is no checkpoint yet" in output) == (policy == "stop")
    assert code == Exit.MISTAKE  # in the end the export does not fit either
    assert "Traceback" not in output
    assert [path for path in folder.rglob("*") if path.name.endswith(".partial")] == []
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == (6 if policy == "continue" else 1)


def test_nobody_reads_the_output(launch, config, tmp_path):
    process = launch(wait=False)
    process.stdout.close()
    assert process.wait(120) == 0
    assert (Path(config["output"]) / "done.json").exists()


def test_a_folder_that_goes_away_is_one_sentence(launch, config):
    process = launch(wait=False, steps=100_000, log_every=1)
    wait_for(checkpoint(config["output"], 2), process)
    subprocess.run(["rm", "-rf", config["output"]], check=False)
    Path(config["output"]).touch()
    output, _ = output_of(process)
    assert process.returncode == Exit.MISTAKE
    assert "Traceback" not in output
    assert config["output"] in output


@FAULTS
@pytest.mark.parametrize(
    ("stage", "precision"), [(0, "float32"), (1, "float32"), (1, "bfloat16"), (2, "bfloat16"), (3, "float32")]
)
def test_two_ranks_resume_bit_identically_at_every_stage(launch, config, stage, precision):
    engine, numbers = {"zero_stage": stage, "precision": precision}, []
    for name, stops in (("straight", [4]), ("broken", [2, 4])):
        folder = Path(config["output"]).with_name(name)
        for steps in stops:
            code, output = launch(2, steps=steps, engine=engine, output=str(folder))
            assert code == 0, output
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses = [(line["step"], line["loss"], line["lr"]) for line in lines]
        numbers.append((losses, load_file(folder / "student/model.safetensors")))
    (straight, expected), (broken, found) = numbers
    assert broken == straight
    assert all(torch.equal(found[name], expected[name]) for name in expected)
