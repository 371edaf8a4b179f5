"""Devices by the names that commands and configs take, asked for before anything slow begins.

Torch is imported inside, so that a command may refuse a device within its first second.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fpd_core.config import ConfigError

if TYPE_CHECKING:
    import torch

# What the drivers put there: NVIDIA's, the same on Windows' Linux and on Jetson boards, AMD's.
DRIVER_FILES = tuple(map(Path, ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap", "/dev/kfd")))


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
