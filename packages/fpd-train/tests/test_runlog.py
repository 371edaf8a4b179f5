"""The log of a run: lines whole or absent, a cut end forgiven, a full disk met as the configuration says."""

import json
import resource
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fpd_core import atomic
from fpd_train.runlog import METRICS, RunLog

NUMBERS = {"loss": 1.5, "images_per_second": 10.0}


def log(folder, start=0, **options):
    return RunLog(folder, active=True, start=start, steps=9, title="run", **options)


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / METRICS).read_text().splitlines()]


@pytest.mark.parametrize(
    "end", [b'{"step": 3, "lo', b"\x00" * 50, b'{"step": 3, "loss": 1}garbage\n', b"[" * 10**5, b"7\n"]
)
def test_an_unreadable_end_is_dropped_aloud_and_the_run_goes_on(tmp_path, capsys, end):
    lines = [json.dumps({"step": step, "loss": 1.0}).encode() + b"\n" for step in (1, 2, 4)]
    (tmp_path / METRICS).write_bytes(b"".join(lines) + end)
    with log(tmp_path, start=2) as resumed:
        resumed.step(3, 24, NUMBERS, write=True)
    assert steps(tmp_path) == [1, 2, 3]
    assert "dropped 1 unreadable line(s)" in capsys.readouterr().err


def test_metrics_and_tensorboard_agree(tmp_path):
    with log(tmp_path) as fresh:
        for step in (1, 2):
            fresh.step(step, 8 * step, {**NUMBERS, "loss": step / 2}, write=True)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.5), (2, 1.0)]
    assert json.loads((tmp_path / METRICS).read_text().splitlines()[1])["images_seen"] == 16


def test_what_is_measured_now_and_then_is_written_once_and_shown_until_the_next_time(tmp_path, capsys):
    with log(tmp_path) as fresh:
        fresh.step(1, 8, NUMBERS, {"progress/a": 0.25, "progress/b": 0.5, "heldout/c": 3.0}, write=True)
        fresh.step(2, 16, NUMBERS, write=True)
    first, second = (json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines())
    assert (first["progress/a"], first["heldout/c"]) == (0.25, 3.0)
    assert second.keys() == {"step", "images_seen", *NUMBERS}
    assert capsys.readouterr().err.count("progress 0.25 / 0.5") == 2
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("progress/b")] == [(1, 0.5)]


@pytest.fixture
def full_disk(tmp_path):
    """`full_disk(n)`: files of this process may have n bytes; the same error path as a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("survive", [False, True])
def test_a_line_that_does_not_fit_is_left_out_whole(tmp_path, full_disk, capsys, survive):
    with log(tmp_path, survive_full_disk=survive) as short:
        short.step(1, 8, NUMBERS, write=True)
        full_disk((tmp_path / METRICS).stat().st_size + 20)
        short.step(2, 16, NUMBERS, write=True)
        short.grid(2, torch.rand(10, 3, 64, 64))
        full_disk(10**9)
        short.step(3, 24, NUMBERS, write=True)
        assert (short.failure is None) == survive
        if not survive:
            assert atomic.is_disk_full(short.failure)
            with pytest.raises(OSError, match="File too large"):
                short.raise_failure()
    assert steps(tmp_path) == [1, 3]
    assert list((tmp_path / "samples").iterdir()) == []
    assert ("warning: the disk is full" in capsys.readouterr().err) == survive
