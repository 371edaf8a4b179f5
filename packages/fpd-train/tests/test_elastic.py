"""How a run is spread changes nothing: ranks, ZeRO stages, what is kept, computed again or lies elsewhere.

Adam's eps is 1e-6 here: at 1e-8 a weight whose gradient is exactly zero, an attention's key bias, moves by rounding.
"""

import gzip
import json
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from warm_python import outcome

pytestmark = pytest.mark.distributed
OPTIMIZER = {"lr": 1e-3, "warmup_steps": 2, "eps": 1e-6}
# Each stage on two ranks, with what else may be switched there.
SPREADS = [
    {"zero_stage": 0, "compile": "eager"},
    {"zero_stage": 1, "activation_checkpointing": "student"},
    {"zero_stage": 2, "offload": "optimizer"},
    {"zero_stage": 3, "activation_checkpointing": "all", "offload": "all", "partition_frozen": True},
]


def lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (Path(folder) / name).read_text().splitlines()]


def average(folder, step):
    return load_file(Path(folder) / f"checkpoints/step_{step:06d}/student.ema.safetensors")


def same(folder, expected, step):
    """Losses up to a step to 1e-6, the averages of the weights there to 1e-6 at the worst entry."""
    found, wanted = ([line["loss"] for line in lines(one)][:step] for one in (folder, expected))
    assert len(set(wanted)) == step
    assert found == pytest.approx(wanted, rel=1e-6, abs=0)
    first, second = average(folder, step), average(expected, step)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-6


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return tmp_path_factory.mktemp("whole") / "one"


@pytest.fixture
def whole(one, launch, config):
    """Six steps of one rank with eight images each; with torch traces."""
    config |= {"optimizer": OPTIMIZER, "keep_checkpoints": 9, "sample_every": 100}
    config["method"]["grid_images"] = 10
    if not one.exists():
        code, output = launch(output=str(one), arguments=["--profile"])
        assert code == 0, output
    return one


@pytest.mark.parametrize("engine", SPREADS, ids=lambda engine: f"stage{engine['zero_stage']}")
def test_two_ranks_with_half_the_batch_each_are_one_rank(launch, config, whole, engine):
    code, output = launch(2, steps=4, micro_batch=4, engine=engine)
    assert code == 0, output
    assert same(config["output"], whole, 4)
    assert Path(config["output"], "samples/step_000004.png").exists()
    assert lines(config["output"], "timing.jsonl")[-1]["seconds/communication"] > 0


@pytest.mark.parametrize(("stage", "between"), [(1, 2), (3, 3)])
def test_a_run_goes_on_with_two_ranks_and_then_with_one(launch, config, whole, stage, between):
    """Also at stage 2 after stage 1 and back. Nothing is repeated or left out of the data."""
    last = None
    for ranks, steps, zero_stage in ((1, 2, stage), (2, 4, between), (1, 6, stage)):
        code, output = launch(ranks, steps=steps, micro_batch=8 // ranks, engine={"zero_stage": zero_stage})
        assert code == 0, output
        assert last is None or f"{last} go on as {ranks} at stage {zero_stage}" in output
        last = f"{ranks} rank(s) at ZeRO stage {zero_stage}"
    assert same(config["output"], whole, 6)
    assert [line["images_seen"] for line in lines(config["output"])] == [8, 16, 24, 32, 40, 48]
    assert not [path for path in Path(config["output"], "checkpoints").iterdir() if path.name.startswith(".")]

    if stage == 1:
        code, output = launch(2, steps=8, micro_batch=4, engine={"zero_stage": 3})
        assert code == 2
        assert "is of ZeRO stage 1 and engine.zero_stage is 3" in output
        code, output = launch(1, steps=8, micro_batch=4)
        assert code == 2
        assert "is of a run with 8 images in a step, now there are 4" in output
        assert "Traceback" not in output


def test_a_step_is_taken_apart_without_a_rest(whole):
    for line in lines(whole, "timing.jsonl"):
        parts = {name: value for name, value in line.items() if name.startswith("seconds/")}
        whole_step = parts.pop("seconds/whole")
        assert sum(parts.values()) == pytest.approx(whole_step, rel=1e-4)
        assert set(parts) > {f"seconds/{name}" for name in ("data", "student", "teacher", "decode", "lift", "drift")}
        assert 0 < line["utilization"] < 1
        assert line["flops_per_second"] > 0
        assert line["memory_gib"] > 0.05


def test_the_trace_names_the_parts_of_a_step(whole):
    traces = sorted((whole / "profile").glob("rank0_step_*.json.gz"))
    assert [trace.name for trace in traces] == ["rank0_step_1.json.gz", "rank0_step_2.json.gz"]
    names = {event.get("name") for event in json.loads(gzip.decompress(traces[0].read_bytes()))["traceEvents"]}
    assert {f"fpd/{name}" for name in ("data", "student", "teacher", "decode", "lift", "drift", "backward")} <= names


def frozen():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)).requires_grad_(False)


def pieces():
    """A frozen network in pieces, beside the same one whole."""
    from fpd_train.engine import Partitioned, start_processes
    from fpd_train.ranks import leave

    start_processes("cpu", 60)
    whole, network = frozen(), frozen()
    partitioned = Partitioned({"teacher": network}, 4)
    assert all(p.numel() == 0 for p in network.parameters())
    inputs = [torch.ones(4, 6, requires_grad=True) for _ in range(2)]
    for x, one in zip(inputs, (whole, network), strict=True):
        one(x).square().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    assert all(p.numel() == 0 for p in network.parameters())
    with partitioned.gathered():
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), whole.parameters(), strict=True))
    assert all(p.numel() == 0 for p in network.parameters())
    leave()
    print("in pieces")


def test_a_partitioned_frozen_network_lies_in_pieces_and_computes_as_before(warm_python, tmp_path):
    code, output = outcome(warm_python.start([__file__, "pieces"], ranks=2, cwd=tmp_path))
    assert code == 0, output
    assert "in pieces" in output


def learned(rank, precision, stage):
    """The masters of a small network after three steps of two micro-batches."""
    from fpd_train.engine import Engine, EngineConfig, OptimizerConfig

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 4))
    how = EngineConfig(zero_stage=stage, precision=precision, accumulation=2)
    engine = Engine(network, how, OptimizerConfig(lr=1e-2, warmup_steps=0), micro_batch=3, steps=9)
    random = torch.Generator().manual_seed(1 + rank)
    for _ in range(6):
        inputs = torch.randn(3, 6, generator=random).to(next(network.parameters()).dtype)
        engine.update(engine(inputs).float().square().mean())
    return dict(engine.masters())


def buckets():
    """Gradients in a bucket as large as the network, and in DeepSpeed's own of 500 million elements."""
    from fpd_train import engine
    from fpd_train.ranks import leave

    engine.start_processes("cpu", 60)
    rank, config = torch.distributed.get_rank(), engine._deepspeed_config

    def own(*how):
        found = config(*how)
        del found["zero_optimization"]["reduce_bucket_size"]
        return found

    for stage, precision in ((1, "float32"), (2, "bfloat16"), (3, "float32")):
        fitting = learned(rank, precision, stage)
        with patch.object(engine, "_deepspeed_config", own):
            expected = learned(rank, precision, stage)
        assert fitting.keys() == expected.keys()
        assert len(fitting) == 4
        assert all(torch.equal(fitting[name], expected[name]) for name in expected)
    leave()
    print("bit for bit")


def test_a_bucket_of_the_networks_size_changes_nothing(warm_python, tmp_path):
    code, output = outcome(warm_python.start([__file__, "buckets"], ranks=2, cwd=tmp_path))
    assert code == 0, output
    assert output.count("bit for bit") == 2


if __name__ == "__main__":
    {"pieces": pieces, "buckets": buckets}[sys.argv[1]]()
