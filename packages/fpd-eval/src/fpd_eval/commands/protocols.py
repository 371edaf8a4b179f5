"""Protocols as commands take them: a preset with what the options change."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpd_eval.commands.usage import given

if TYPE_CHECKING:
    from fpd_eval.protocols import MetricProtocol

EncoderOption = Annotated[
    list[str] | None, typer.Option("--encoder", metavar="NAME...", help="Of a battery, instead of the protocol's.")
]


def compared(name: str, references: Sequence[Path], encoders: Sequence[str], **options: int | None) -> "MetricProtocol":
    """The protocol called `name` as a comparison measures it.

    Raises:
        ValueError: unknown names, options that make no sense, or a reference for a protocol that has its own.
    """
    from fpd_eval.protocols import MetricProtocol, protocol_called

    preset = protocol_called(name)
    if preset.reference_labels and references:
        raise ValueError(f"protocol {name!r} has its own reference; name another --protocol for --reference")
    changed = {key: value for key, value in options.items() if value is not None} | battery_of(preset, encoders)
    return given(MetricProtocol, **preset.model_dump() | {"metrics": preset.compared or preset.metrics} | changed)


def battery_of(preset: "MetricProtocol", encoders: Sequence[str]) -> dict[str, Any]:
    """What `--encoder` changes. Raises ValueError: an unknown encoder, or a protocol without a battery."""
    from fpd_core.config import nearest
    from fpd_eval.extractors import ENCODERS

    if not encoders:
        return {}
    if not preset.battery:
        raise ValueError(f"--encoder belongs to a protocol with a battery, as `battery`; {preset.name!r} has none")
    for encoder in encoders:
        if encoder not in ENCODERS:
            raise nearest(encoder, list(ENCODERS), "encoder")
    return {"battery": tuple(encoders), "features": encoders[0]}
