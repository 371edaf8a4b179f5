"""Published values beside measured ones: which belong to a system, and how their protocol differs from ours."""

from collections.abc import Iterable, Mapping
from typing import Any

from fpd_eval.bench.rows import Printed
from fpd_eval.protocols import PROTOCOLS, MetricProtocol
from fpd_eval.report.published import PublishedValue, published

# What decides a number besides the images; the rest of a protocol is names and places.
DECISIVE = ("num_images", "num_reference", "features", "scores", "precision_recall_k", "density_coverage_k", "rounding")
GENEVAL = "geneval"


def printed(
    metrics: Iterable[str],
    system: str | None,
    *,
    steps: int | None,
    protocol: MetricProtocol | None,
    settings: Mapping[str, Any],
) -> dict[str, tuple[Printed, ...]]:
    """What the papers print for `system` at this number of steps, by metric; metrics without any are absent.

    Args:
        system: its name in the published tables; None is in none.
        steps: None takes every row.
        protocol: of the measured numbers; None is GenEval's.
        settings: sampling options of the measured system.
    """
    found = {}
    for metric in metrics if system is not None else ():
        values = tuple(
            Printed(
                value=value.value,
                source=value.source,
                title=value.title,
                protocol=value.protocol,
                difference="; ".join(_differences(value, protocol, settings)),
                note=value.row.note or "",
            )
            for value in published(metric, str(system), steps=steps)
        )
        if values:
            found[metric] = values
    return found


def _differences(value: PublishedValue, protocol: MetricProtocol | None, settings: Mapping[str, Any]) -> list[str]:
    ours = GENEVAL if protocol is None else protocol.name
    said = []
    if value.protocol == "unknown":
        said.append("its source does not state the protocol")
    elif value.protocol != ours:
        said.append(f"measured by protocol “{value.protocol}”, ours by “{ours}”")
    elif protocol is not None:
        preset = PROTOCOLS[ours].model_dump(include=set(DECISIVE))
        changed = protocol.model_dump(include=set(DECISIVE))
        said += [
            f"ours with {name.replace('_', ' ')} {changed[name]} instead of {preset[name]}"
            for name in DECISIVE
            if preset[name] is not None and changed[name] != preset[name]
        ]
    there, here = value.row.guidance_scale, settings.get("guidance_scale")
    if there is not None and here is not None and there != here:
        said.append(f"guidance scale {there:g} there, {here:g} here")
    return said
