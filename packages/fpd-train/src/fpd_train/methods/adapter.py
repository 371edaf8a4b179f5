"""Low-rank adapters (LoRA, arXiv 2106.09685): W + (alpha / rank) B A at every adapted layer, W the teacher's own.

Only A and B are trained, averaged and saved; B starts at zero, so the student starts as its teacher. The layers are
`peft`'s. An exported student has the product added to W and is a network like any other.
"""

import re
from copy import deepcopy

import torch
from pydantic import Field
from torch import Tensor, nn

from fpd_core.config import Config, ConfigError, Name, Number, Size, nearest
from fpd_core.networks.split_attention import PROJECTIONS, split_attentions

ADAPTER = "default"  # peft's name for the only one


class AdapterConfig(Config):
    """What is trained instead of the student's own weights."""

    rank: Size = Field(16, description="Columns of B and rows of A; at most the width of every adapted layer.")
    alpha: Number = Field(16.0, gt=0, le=1e4, description="The product B A is scaled by alpha / rank.")
    targets: tuple[Name, ...] | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Layers to adapt, or the parts that hold them, by a piece of their dotted name (`to_q`, `attn`, "
        "`blocks.0`); null: every linear layer that is not frozen.",
    )


def adapted(student: nn.Module, config: AdapterConfig) -> nn.Module:
    """Freeze a student and give it adapters, in place.

    Args:
        student: layers whose weights require a gradient may be adapted; the others are `frozen` parts.

    Raises:
        ConfigError: no layer bears a target's name, the rank is above a layer's width, or an attention has no layers.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import

    split_attentions(student)
    layers = {name: part for name, part in student.named_modules() if isinstance(part, nn.Linear)}
    names = _chosen([name for name, layer in layers.items() if layer.weight.requires_grad], config.targets)
    for name in names:
        width = min(layers[name].in_features, layers[name].out_features)
        if config.rank > width:
            raise ConfigError(
                f"adapter.rank {config.rank} is above the width {width} of {name}: choose {width} or less, or targets "
                "without it"
            )
    student.requires_grad_(False)
    # A pattern, because peft takes a plain name for the end of one.
    pattern = "|".join(map(re.escape, names))
    section = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=pattern)  # type: ignore[arg-type]
    return inject_adapter_in_model(section, student, ADAPTER)


def _chosen(names: list[str], targets: tuple[str, ...] | None) -> list[str]:
    """The layers that a target names. Raises ConfigError: a target names none."""
    if targets is None:
        return names
    for target in targets:
        if not any(_bears(name, target) for name in names):
            pieces = {piece for name in names for piece in name.split(".") if not piece.isdigit()}
            raise nearest(target, sorted(pieces), "adapter target")
    return [name for name in names if any(_bears(name, target) for target in targets)]


def _bears(name: str, target: str) -> bool:
    return f".{target}." in f".{name}."


@torch.no_grad()
def merged(student: nn.Module, network: nn.Module) -> nn.Module:
    """A copy of `network`, whose weights the student reads, with the student's products added: no adapter is left."""
    from peft.tuners.lora import Linear

    result = deepcopy(network)
    for name, layer in student.named_modules():
        if isinstance(layer, Linear):
            _weight(result, name).add_(layer.get_delta_weight(ADAPTER))
    return result


def _weight(network: nn.Module, name: str) -> Tensor:
    """The weight that a student's layer reads: a layer's own, or its share of an attention's joint matrix."""
    holder, _, last = name.rpartition(".")
    attention = network.get_submodule(holder)
    if isinstance(attention, nn.MultiheadAttention) and last in PROJECTIONS:
        return attention.in_proj_weight.chunk(len(PROJECTIONS))[PROJECTIONS.index(last)]
    weight = network.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight
