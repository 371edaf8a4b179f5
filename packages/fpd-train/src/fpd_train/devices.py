"""Whether the device that a config asks for is there, asked before anything slow begins."""

import os

import torch

from fpd_core.config import ConfigError


def require_device(device: str) -> None:
    """Raises ConfigError: `cuda` is asked for and this rank has no GPU."""
    if device != "cuda":
        return
    if not torch.cuda.is_available():
        raise ConfigError("device is cuda, and torch finds no GPU here; set device to cpu or auto, or mend the driver")
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise ConfigError(f"rank {local} of this machine has no GPU: there are {count}; start fewer ranks (--num_gpus)")
