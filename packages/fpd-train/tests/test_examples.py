"""Other people's loops around fpd_core alone: the losses are the trainer's, from the same settings and streams."""

import ast
import json
import runpy
import sys
from pathlib import Path

import pytest
from warm_python import outcome

pytestmark = pytest.mark.distributed
REPO = Path(__file__).resolve().parents[3]
EXAMPLES = REPO / "examples"
STEPS = 2
CHANGES = {"log_every": 1, "sample_every": 100, "save_every": 100, "steps": STEPS, "device": "cpu"}


def one_rank(folder):
    """What this file does when it is started as a script: the trainer's run and then FSDP2's loop, on these ranks."""
    from torch import distributed as dist

    from fpd_train import trainer
    from fpd_train.config import parse
    from fpd_train.stopping import StopRequest

    leave, trainer.leave = trainer.leave, lambda: None  # the loop goes on in the same process group
    trainer.run(parse(json.loads((folder / "config.json").read_text()), "test"), "test", StopRequest())
    losses = list(runpy.run_path(str(EXAMPLES / "fsdp2_loop.py"))["train"](STEPS))
    (folder / f"fsdp{dist.get_rank()}.json").write_text(json.dumps(losses))
    leave()


def config_in(folder, **more):
    config = json.loads((REPO / "configs/fashion.json").read_text())
    config["method"].pop("monitor")
    (folder / "config.json").write_text(json.dumps(config | CHANGES | {"output": str(folder / "run")} | more))


def logged(folder):
    return [json.loads(line)["loss"] for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def test_two_ranks_of_fsdp2_have_the_trainers_losses(warm_python, tmp_path):
    config_in(tmp_path, engine={"joint_draws": False})  # as a loop of one's own does, each rank draws for itself
    code, output = outcome(warm_python.start([__file__, tmp_path], ranks=2, cwd=REPO))
    assert code == 0, output
    assert json.loads((tmp_path / "fsdp0.json").read_text()) == pytest.approx(logged(tmp_path), abs=1e-6)


def test_plain_and_accelerated_loops_have_the_trainers_losses(warm_python, tmp_path, monkeypatch, capsys):
    config_in(tmp_path)
    command = [REPO / "packages/fpd-train/run.py", "--config", tmp_path / "config.json"]
    code, output = outcome(warm_python.start(command, cwd=REPO))
    assert code == 0, output
    monkeypatch.chdir(REPO)
    for arguments in (["plain_loop.py", str(tmp_path / "student"), str(STEPS)], ["accelerate_loop.py", str(STEPS)]):
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(EXAMPLES / arguments[0]), run_name="__main__")
        printed = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
        assert printed == pytest.approx(logged(tmp_path), abs=1e-6)
    assert (tmp_path / "student/model.safetensors").exists()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_knows_fpd_core_alone(path):
    tree = ast.parse(path.read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert any(name.startswith("fpd_core") for name in names)
    assert not any(name.startswith(("fpd_train", "fpd_eval")) for name in names)


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]))
