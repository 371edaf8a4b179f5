"""Whether the device that a config asks for is there, asked before anything slow begins."""

import os
import sys
from pathlib import Path

from fpd_core.config import ConfigError

# What the drivers put there: NVIDIA's, the same on Windows' Linux and on Jetson boards, AMD's.
DRIVER_FILES = tuple(map(Path, ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap", "/dev/kfd")))


def require_driver(device: object) -> None:
    """A first look that does not import torch. Raises ConfigError: `cuda` is asked for and there is no driver."""
    if device == "cuda" and sys.platform == "linux" and not any(path.exists() for path in DRIVER_FILES):
        raise ConfigError("device is cuda, and this machine has no GPU driver; set device to cpu or auto")


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
