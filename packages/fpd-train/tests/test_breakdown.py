"""Stopwatches against a clock that is set by hand; operations against counts by hand; recomputation against memory."""

import json
import sys
import types

import pytest
import torch
from rich.console import Console
from torch import distributed as dist
from torch import nn

from fpd_core.config import ConfigError
from fpd_train import breakdown
from fpd_train.breakdown import Breakdown, CountedFlops, peak_flops
from fpd_train.pace import Pace
from fpd_train.recompute import recompute, recompute_blocks
from fpd_train.runlog import RunLog
from fpd_train.timing import draw, draw_if_many, parts, read, table
from fpd_train.trackers import Tracker, require_trackers

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """`clock(seconds)` lets time pass."""
    now = [100.0]
    monkeypatch.setattr(breakdown.time, "perf_counter", lambda: now[0])

    def let_pass(seconds):
        now[0] += seconds

    return let_pass


class Worker:
    def work(self, clock):
        clock(3)
        return "done"

    def fail(self, clock):
        clock(2)
        raise KeyError


def test_a_part_counts_without_those_inside_it(clock):
    parts, worker = Breakdown(CPU), Worker()
    parts.watch(worker, "work", "teacher")
    clock(1)
    with parts.part("drift"):
        clock(2)
        assert worker.work(clock) == "done"
        clock(4)
    clock(8)  # belongs to nothing
    with parts.part("data"):
        clock(16)
    found = parts.seconds()
    assert found == {"seconds/data": 16, "seconds/teacher": 3, "seconds/drift": 6}
    assert list(found) == ["seconds/data", "seconds/teacher", "seconds/drift"]  # as in a step
    assert parts.seconds() == {}


def test_what_fails_is_counted_and_closed(clock):
    parts, worker = Breakdown(CPU), Worker()
    parts.watch(worker, "fail", "lift")
    with pytest.raises(KeyError):
        worker.fail(clock)
    with parts.part("decode"):
        clock(1)
    assert parts.seconds() == {"seconds/decode": 1, "seconds/lift": 2}


def test_collectives_are_communication_while_they_are_watched(clock, monkeypatch):
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: clock(5))
    before, parts = dist.all_reduce, Breakdown(CPU)
    with parts.watching_collectives(), parts.part("backward"):
        clock(1)
        dist.all_reduce(torch.zeros(1))
    assert dist.all_reduce is before
    assert parts.seconds() == {"seconds/backward": 1, "seconds/communication": 5}


def test_operations_of_a_matrix_product_and_its_gradients_by_hand():
    """[2, 3] @ [3, 5]: 2·2·3·5 forward, as many for each of the two gradients."""
    a, b = torch.ones(2, 3, requires_grad=True), torch.ones(3, 5, requires_grad=True)
    with CountedFlops() as counter:
        (a @ b).sum().backward()
    assert counter.total == 3 * 60


def test_the_pace_of_a_step(clock, monkeypatch):
    monkeypatch.setattr("fpd_train.pace.peak_flops", lambda device, dtype: 24.0)
    parts = Breakdown(CPU)
    pace = Pace(parts, CPU, torch.float32, counts=True, trace=None)
    with pace.step(), parts.part("student"):
        torch.ones(2, 3) @ torch.ones(3, 1)
        clock(3)
    clock(1)
    found = pace.numbers()
    assert found.pop("memory_gib") > 0.01
    assert found == {
        **{"seconds/student": 3, "seconds/other": 1, "seconds/whole": 4},
        **{"flops_per_second": 3.0, "utilization": 0.125},
    }
    with parts.part("grid"):  # between steps
        clock(50)
    with pace.step(), parts.part("student"):
        clock(2)
    found = pace.numbers()
    assert found["flops_per_second"] == 6.0  # counted once
    assert "seconds/grid" not in found


def test_a_matrix_product_takes_time():
    assert 1e7 < peak_flops(CPU, torch.float32, side=64) < 1e14


LINE = {"step": 1, "seconds/data": 0.001, "seconds/student": 0.1, "seconds/other": 0.02, "seconds/whole": 0.121}


def test_the_table_and_the_picture_of_a_run(tmp_path):
    with pytest.raises(ConfigError, match=r"timing\.jsonl holds no timings"):
        read(tmp_path)
    rows = [
        LINE | {"step": step, "memory_gib": 1.5, "utilization": 0.25, "flops_per_second": 2e12} for step in range(12)
    ]
    rows[3] |= {"seconds/discriminator": 0.3}
    (tmp_path / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:9]))
    draw_if_many(tmp_path)
    assert not (tmp_path / "timing.png").exists()
    (tmp_path / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = read(tmp_path)
    assert parts(lines) == [f"seconds/{name}" for name in ("data", "student", "discriminator", "other")]
    console = Console(width=120, record=True)
    console.print(table(lines))
    text = console.export_text()
    assert "100.0" in text  # ms of the student
    assert "82.6%" in text  # 0.1 of 0.121
    assert "25.0% of a large matrix product's" in text
    draw_if_many(tmp_path)
    assert (tmp_path / "timing.png").read_bytes().startswith(b"\x89PNG")
    draw(lines[:1], tmp_path / "one.png")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_hears_all_numbers(tmp_path, monkeypatch, name):
    heard = []

    class Run:
        def log(self, numbers, step):
            heard.append((step, numbers))

        def finish(self):
            heard.append("finished")

    def init(**options):
        heard.append(options)
        return Run()

    module = types.ModuleType(name)
    module.init = init
    monkeypatch.setitem(sys.modules, name, module)
    folder = tmp_path / "mine"
    start = {"active": True, "start": 0, "steps": 9, "title": "mine"}
    with RunLog(folder, **start, trackers=lambda: [Tracker(name, folder, {"seed": 4})]) as log:
        log.step(1, 8, {"loss": 1.5, "images_per_second": 2.0}, write=True)
        log.timing(1, {"seconds/whole": 0.5})
        log.step(2, 16, {"loss": 1.0, "images_per_second": 2.0}, write=False)
    assert (heard[0]["project"], heard[0]["name"], heard[0]["config"]) == ("fpd", "mine", {"seed": 4})
    assert heard[1:] == [(1, {"loss": 1.5, "images_per_second": 2.0}), (1, {"seconds/whole": 0.5}), "finished"]
    assert json.loads((folder / "timing.jsonl").read_text()) == {"step": 1, "seconds/whole": 0.5}


def test_a_tracker_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setattr("fpd_train.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"trackers names trackio, .*pip install 'fpd-train\[trackio\]'"):
        require_trackers(["trackio"])
    require_trackers([])


def deep():
    torch.manual_seed(0)
    block = lambda: nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, 8))  # noqa: E731
    return nn.Sequential(nn.Linear(8, 8), nn.ModuleDict({"inner": nn.ModuleList(block() for _ in range(6))}))


def through(network):
    """Loss, its gradients, and the bytes that the backward pass keeps."""
    kept = [0]

    def pack(tensor):
        kept[0] += tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x = network[0](torch.ones(64, 8))
        for block in network[1]["inner"]:
            x = x + block(x)
    loss = x.square().mean()
    loss.backward()
    return loss, [p.grad for p in network.parameters()], kept[0]


def test_recomputed_blocks_keep_less_and_give_the_same_gradients():
    """With dropout, whose mask has to come again."""
    loss, gradients, kept = through(deep())
    network = deep()
    recompute_blocks(network)
    again, found, less = through(network)
    assert torch.equal(again, loss)
    assert all(torch.equal(a, b) for a, b in zip(found, gradients, strict=True))
    assert less < kept / 3
    assert network.state_dict().keys() == deep().state_dict().keys()


def test_a_recomputed_method_runs_once_where_nobody_asks_for_gradients():
    class Decoder:
        calls = 0

        def decode(self, x, scale=1.0):
            self.calls += 1
            return (x * scale).exp()

    decoder = Decoder()
    recompute(decoder, "decode")
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        decoder.decode(x)
    decoder.decode(x.detach())
    assert decoder.calls == 2
    decoder.decode(x, scale=2.0).sum().backward()
    assert decoder.calls == 4
    torch.testing.assert_close(x.grad, 2 * torch.full((3,), 2.0).exp())
