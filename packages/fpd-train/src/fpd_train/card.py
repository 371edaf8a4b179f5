"""The README.md that travels with every exported network."""

import json
import platform
from importlib.metadata import version

import torch
from huggingface_hub import ModelCardData

from fpd_core.card import front_matter, weights_table
from fpd_core.checkpoints import read_section
from fpd_core.teachers import TeacherConfig, teacher_config
from fpd_train.config import TrainConfig
from fpd_train.methods.aligned_decoder import AlignedDecoderConfig
from fpd_train.methods.interface import Report


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def _teacher(config: TrainConfig) -> TeacherConfig | None:
    """Whose weights an exported student holds; None of networks that were trained from nothing."""
    if isinstance(config.method, AlignedDecoderConfig):
        return teacher_config(read_section(config.method.generator, "teacher"))
    found = getattr(config.method, "teacher", None)
    return found if isinstance(found, TeacherConfig) else None


def model_card(config: TrainConfig, command: str, world: int, quality: Report) -> str:
    """Markdown: how the network was made, on what, and what was measured right after training."""
    measured = "\n".join(f"| {name} | {value:.4f} |" for name, value in quality.items())
    table = (
        f"| measured | value |\n| --- | --- |\n{measured}\n"
        if quality
        else "Not measured at export; see `fpd-eval compare`.\n"
    )
    settings = json.dumps(config.model_dump(mode="json", exclude_defaults=True), indent=2)
    teacher, tags = _teacher(config), [config.method.name]
    front = (
        front_matter(teacher, tags=tags)
        if teacher
        # Trained here from nothing, on data that the configuration below names.
        else ModelCardData(license="apache-2.0", library_name="fpd", tags=["masked-diffusion", *tags])
    )
    inside = f"## Whose weights are inside\n\n{weights_table(teacher)}\n" if teacher else ""
    return f"""---
{front.to_yaml()}
---

# {config.output.name}: {config.method.name}

Made by `{command}` with {world} rank(s) on {_machine()}, seed {config.seed}, {config.steps} steps of
{config.micro_batch * config.engine.accumulation * world} images, torch {torch.__version__},
deepspeed {version("deepspeed")}. Weights are the exponential moving average.

{table}
{inside}## Configuration

```json
{settings}
```
"""
