"""The command line outside of training: help at once, schema, bench, shards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpd_train import cli, trainer

COMMAND = Path(sys.executable).with_name("fpd-train")


def call(*arguments, cwd=None):
    return subprocess.run([str(COMMAND), *arguments], capture_output=True, text=True, timeout=120, cwd=cwd)


def test_help_imports_no_torch():
    watch = "atexit.register(lambda: print('torch' in sys.modules))"
    code = f"import atexit, sys; from fpd_train.cli import main; {watch}; main()"
    result = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "False"
    text = call("--help").stdout
    for command in ("run", "schema", "bench", "shards"):
        assert command in text


def test_the_schema_is_json():
    schema = json.loads(call("schema").stdout)
    assert schema["properties"]["steps"]["description"] == "Optimizer steps."


@pytest.mark.parametrize(("device", "accelerator"), [("cpu", "cpu"), ("auto", None)])
def test_deepspeed_is_told_of_a_run_on_the_cpu(config, tmp_path, monkeypatch, device, accelerator):
    """Where there is a GPU as well, DeepSpeed would move the networks to it."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config | {"device": device}))
    asked = []
    monkeypatch.setattr(trainer, "run", lambda *_, **__: asked.append(os.environ.get("DS_ACCELERATOR")))
    monkeypatch.setenv("DS_ACCELERATOR", "")
    monkeypatch.delenv("DS_ACCELERATOR")
    cli.app(["run", "--config", str(path)], standalone_mode=False)
    assert asked == [accelerator]


def test_bench_times_every_component(config, tmp_path):
    path = tmp_path / "run.json"
    config["method"]["lift"] = {}  # the default backbone
    path.write_text(json.dumps(config))
    result = call("bench", "--config", str(path), "--repeats", "1", "--json")
    entries = json.loads(result.stdout)
    assert [entry["component"].split(",")[0] for entry in entries] == [
        *("student forward", "student forward and backward", "teacher step (eq. 5)"),
        *("decode", "decode", "backbone", "backbone"),
        *("straight-through (eq. 8)", "drift (eqs. 6-7)", "whole step: forward"),
    ]
    assert all(entry["milliseconds"] > 0 and entry["peak_gib"] > 0.05 for entry in entries)
    # the forward is inside "forward and backward", the whole step is what the parts add up to
    assert [entry["component"] for entry in entries if not entry["in_sum"]] == [
        entries[0]["component"],
        entries[-1]["component"],
    ]


def test_bench_asks_a_text_teacher_in_words_it_knows():
    repository = Path(__file__).parents[3]
    arguments = ("--set", "micro_batch=8", "--repeats", "1", "--json")
    result = call("bench", "--config", "configs/scenes.json", *arguments, cwd=repository)
    assert result.returncode == 0, result.stderr
    entries = json.loads(result.stdout)
    assert len(entries) == 12
    assert [entry["in_sum"] for entry in entries if entry["component"].startswith("captions")] == [True, False]


def test_bench_refuses_what_is_no_distillation(config, tmp_path):
    path = tmp_path / "run.json"
    shards = {"name": "image_shards", "folder": "none", "num_classes": 3, "image_size": 8}
    path.write_text(json.dumps(config | {"method": {"name": "classifier"}, "data": shards}))
    result = call("bench", "--config", str(path))
    assert result.returncode == 2
    assert "the config names 'classifier'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shards", "fashion", "--source", "folder", "--folder", "nowhere"), "nowhere/train-images"),
        (("run", "--config", "absent.json"), "absent.json: No such file"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, arguments, message):
    result = call(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
