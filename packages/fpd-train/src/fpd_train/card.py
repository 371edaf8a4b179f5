"""The README.md that travels with every exported network."""

import json
import platform
from importlib.metadata import version

import torch

from fpd_train.config import TrainConfig
from fpd_train.methods.interface import Report


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def model_card(config: TrainConfig, command: str, world: int, quality: Report) -> str:
    """Markdown: how the network was made, on what, and what was measured right after training."""
    measured = "\n".join(f"| {name} | {value:.4f} |" for name, value in quality.items())
    table = (
        f"| measured | value |\n| --- | --- |\n{measured}\n"
        if quality
        else "Not measured at export; see `fpd-eval compare`.\n"
    )
    settings = json.dumps(config.model_dump(mode="json", exclude_defaults=True), indent=2)
    return f"""---
license: apache-2.0
library_name: fpd
tags: [masked-diffusion, {config.method.name}]
---

# {config.output.name}: {config.method.name}

Made by `{command}` with {world} rank(s) on {_machine()}, seed {config.seed}, {config.steps} steps of
{config.micro_batch * config.engine.accumulation * world} images, torch {torch.__version__},
deepspeed {version("deepspeed")}. Weights are the exponential moving average.

{table}
## Configuration

```json
{settings}
```
"""
