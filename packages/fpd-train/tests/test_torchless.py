"""`fpd-train doctor` reads a config without torch, and says what it would say with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fpd_core import devices
from fpd_core.config import ConfigError
from fpd_train.doctor_cli import _examined
from fpd_train.torchless import without_torch

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = [
    path.relative_to(ROOT)
    for path in sorted((ROOT / "configs").rglob("*.json"))
    if {"method", "data"} <= json.loads(path.read_text()).keys()
]


def fresh(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_shipped_config_reads_the_same_without_torch(monkeypatch):
    code = """
import json, sys
from pathlib import Path
from fpd_train.doctor_cli import _examined
from fpd_train.torchless import without_torch
def job():
    return [_examined(Path(one), [], as_json=False) for one in sys.argv[1:]]
found = without_torch(job)
left = [name for name in sys.modules if name.partition(".")[0] in ("torch", "fpd_core") and "teachers" in name]
print(json.dumps([found, "torch" in sys.modules, left]))
"""
    found, has_torch, left = json.loads(fresh(code, *CONFIGS))
    assert (has_torch, left) == (False, [])
    monkeypatch.chdir(ROOT)
    assert len(found) > 35
    assert found == [list(_examined(path, [], as_json=False)) for path in CONFIGS]


def test_the_command_never_imports_torch():
    code = """
import sys
from fpd_train.cli import main
sys.argv = ["fpd-train", "doctor", "--config", "configs/fashion.json", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""
    assert fresh(code).splitlines()[-1] == "0 False"
    assert fresh(code, "--set", "method.name=fdp").splitlines()[-1] == "2 False"


def test_what_needs_torch_gets_it():
    code = """
import sys
from fpd_train.torchless import without_torch
def job():
    from fpd_core import ste
    import torch
    return int(torch.arange(3).sum()), ste.__name__
print(without_torch(job))
"""
    assert fresh(code) == "(3, 'fpd_core.ste')\n"


def test_where_torch_is_there_it_is_used():
    import torch

    assert without_torch(lambda: torch.ones(2).sum().item()) == 2


def test_the_device_is_told_by_the_driver(monkeypatch):
    monkeypatch.setattr(devices, "DRIVER_FILES", ())
    assert [devices.described(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(ConfigError, match="no GPU driver"):
        devices.described("cuda")
    monkeypatch.setattr(devices, "NVIDIA", Path("/dev/null"))
    monkeypatch.setattr(devices, "DRIVER_FILES", (Path("/dev/null"),))
    monkeypatch.setattr(devices, "_first_gpu", lambda cuda: f"a card for CUDA {cuda}")
    monkeypatch.setattr(devices, "_cuda_of_torch", lambda: 13)
    assert devices.described("auto") == "cuda (a card for CUDA 13)"
    monkeypatch.setattr(devices, "_first_gpu", lambda cuda: None)
    assert devices.described("auto") == devices.in_words(devices.device_called("auto"))


def test_the_cuda_of_torch_is_read_from_its_files():
    import torch

    found = torch.version.cuda
    assert devices._cuda_of_torch() == (None if found is None else int(found.partition(".")[0]))


class Driver:
    """NVIDIA's library: calls give 0, what they write goes to the first argument."""

    def __init__(self, version):
        self.version = version

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDriverGetVersion(self, to):  # noqa: N802
        to._obj.value = self.version
        return 0

    def cuDeviceGet(self, to, ordinal):  # noqa: N802
        return 0

    def cuDeviceGetName(self, to, size, device):  # noqa: N802
        to.value = b"NVIDIA H100"
        return 0


@pytest.mark.parametrize(("version", "found"), [(13000, "NVIDIA H100"), (12080, None)])
def test_a_driver_older_than_torch_is_not_taken_for_one(monkeypatch, version, found):
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: Driver(version))
    assert devices._first_gpu(13) == found
