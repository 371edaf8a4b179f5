"""Which machine and software measured a time."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from fpd_core.config import Config


class Machine(Config):
    """Recorded with every result; part of the cache key of times."""

    processor: str
    device: str
    threads: int
    python: str
    torch: str
    fpd_eval: str

    def sentence(self) -> str:
        return (
            f"Measured on {self.processor} ({self.threads} thread{'s' if self.threads > 1 else ''}), device "
            f"{self.device}, Python {self.python}, torch {self.torch}, fpd-eval {self.fpd_eval}."
        )


def this_machine(device: torch.device) -> Machine:
    """The machine this process runs on, computing on `device`."""
    return Machine(
        processor=_processor(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        fpd_eval=version("fpd-eval"),
    )


def _processor() -> str:
    """The model name; `platform.processor()` is empty on most Linux systems."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
