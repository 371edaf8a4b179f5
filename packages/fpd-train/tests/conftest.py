"""A tiny, untrained teacher on disk and the commands that train from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from warm_python import free_port, outcome

from fpd_core.checkpoints import save_folder
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.vq_tokenizer import VqTokenizer, VqTokenizerConfig
from fpd_core.teachers.fashion import FashionTeacher

RUN = Path(__file__).resolve().parents[1] / "run.py"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Indexes of shards stay out of the user's cache."""
    monkeypatch.setenv("FPD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory):
    torch.manual_seed(0)
    network = MaskGitConfig(
        codebook_size=12, num_classes=3, seq_len=64, width=24, depth=1, num_heads=2, mlp_width=32, dropout=0.1
    )
    tokenizer = VqTokenizerConfig(codebook_size=12, code_dim=5, widths=(8, 8, 8))
    teacher = FashionTeacher(MaskGit(network), VqTokenizer(tokenizer))
    folder = tmp_path_factory.mktemp("teacher")
    save_folder(folder, {"architecture": teacher.architecture()}, teacher.state_dict(), "# tiny")
    return folder


@pytest.fixture
def config(teacher_folder, tmp_path):
    """A run of six tiny steps that logs and saves every step."""
    return {
        "output": str(tmp_path / "run"),
        "steps": 6,
        "micro_batch": 8,
        "device": "cpu",
        "method": {
            "name": "fpd",
            "teacher": {"name": "fashion", "path": str(teacher_folder)},
            "lift": {"space": "pixel"},
            "drafts_per_condition": 2,
        },
        "data": {"name": "uniform_labels", "num_classes": 3},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2},
        "log_every": 1,
        "save_every": 1,
        "sample_every": 3,
    }


@pytest.fixture
def launch(config, tmp_path, warm_python):
    """Start a run: `launch(ranks=1, how="warm", wait=True, **changes of top-level keys)`.

    How: "warm" finds its imports done, "fresh" is an interpreter of its own, "deepspeed" the launcher with fresh ranks.
    `environment` adds variables, `file_limit` is the size that the files of a warm run may have.
    """

    def start(ranks=1, how="warm", wait=True, arguments=(), environment=None, file_limit=None, **changes):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config | changes))
        command = [str(RUN), "--config", str(path), *arguments]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **(environment or {})}
        if how == "warm":
            processes = warm_python.start(command, ranks=ranks, cwd=tmp_path, env=variables, file_limit=file_limit)
        else:
            launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(ranks)]
            port = ["--master_port", str(free_port())]
            processes = [
                subprocess.Popen(
                    [*([*launcher, *port] if how == "deepspeed" else [sys.executable]), *command],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=variables,
                    cwd=tmp_path,
                    start_new_session=True,
                )
            ]
        if not wait:
            (process,) = processes
            return process
        return outcome(processes)

    return start
