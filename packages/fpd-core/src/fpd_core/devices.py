"""Devices by the names that commands and configs take, asked for before anything slow begins.

Torch is imported inside, so that a command may refuse a device within its first second.
"""

import ctypes
import os
import re
import sys
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING

from fpd_core.config import ConfigError

if TYPE_CHECKING:
    import torch

# What the drivers put there: NVIDIA's, the same on Windows' Linux and on Jetson boards, AMD's.
NVIDIA = Path("/dev/nvidiactl")
DRIVER_FILES = (NVIDIA, *map(Path, ("/dev/dxg", "/dev/nvmap", "/dev/kfd")))


def require_driver(device: object) -> None:
    """A first look that does not import torch.

    Raises:
        ConfigError: `cuda` or `cuda:N` is asked for and there is no driver.
    """
    wants = isinstance(device, str) and device.partition(":")[0] == "cuda"
    if wants and sys.platform == "linux" and not any(path.exists() for path in DRIVER_FILES):
        raise ConfigError(f"device is {device}, and this machine has no GPU driver; set device to cpu or auto")


def require_device(device: str) -> None:
    """Raises ConfigError: `cuda` is asked for and torch has no GPU for this rank."""
    import torch

    if device != "cuda":
        return
    if not torch.cuda.is_available():
        raise ConfigError("device is cuda, and torch finds no GPU; set device to cpu or auto, or mend driver or torch")
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise ConfigError(f"rank {local} of this machine has no GPU: there are {count}; start fewer ranks (--num_gpus)")


def device_called(name: str) -> "torch.device":
    """`cpu`, `cuda` or `cuda:N`; `auto` is a GPU where torch finds one.

    Raises:
        ConfigError: no such device on this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    require_driver(name)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name!r} does not exist: this machine has {count} usable GPUs")
    return device


def in_words(device: "torch.device") -> str:
    """For people: `cpu`, or `cuda:0 (NVIDIA H100 80GB HBM3)`."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def described(name: str) -> str:
    """`in_words` of `device_called`, without importing torch where the driver says enough.

    Raises:
        ConfigError: no such device on this machine.
    """
    if sys.platform == "linux" and name in ("auto", "cpu", "cuda"):
        require_driver(name)
        present = [path for path in DRIVER_FILES if path.exists()]
        if name == "cpu" or not present:
            return "cpu"
        first = _first_gpu(_cuda_of_torch()) if present == [NVIDIA] else None
        if first is not None:
            return f"cuda ({first})"
    return in_words(device_called(name))


def _cuda_of_torch() -> int | None:
    """Major version of CUDA that the installed torch was built for, by the file that says so; None: for another."""
    file = next((one for one in files("torch") or () if one.as_posix() == "torch/version.py"), None)
    text = file.read_text() if file else ""
    found = re.search(r"^cuda\b.*'(\d+)\.", text, re.MULTILINE)
    return int(found[1]) if found else None


def _first_gpu(cuda: int | None) -> str | None:
    """Name of the first GPU of this process, from NVIDIA's driver; None where it is too old or does not answer."""
    device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        failed = driver.cuInit(0) or driver.cuDriverGetVersion(ctypes.byref(version))
        failed = failed or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, 256, device)
    except (OSError, AttributeError):
        return None
    if failed or cuda is None or version.value // 1000 < cuda:
        return None
    return name.value.decode(errors="replace")
