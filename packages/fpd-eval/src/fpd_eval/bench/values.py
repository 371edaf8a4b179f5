"""One metric of one pair of sides, kept by content."""

import warnings
from typing import TYPE_CHECKING, Any

from fpd_eval.bench.registry import METRICS, Side, Values
from fpd_eval.protocols import MetricName

if TYPE_CHECKING:
    from fpd_eval.bench.bench import Bench


def measured(
    bench: "Bench", name: MetricName, extractor: str, sides: tuple[Side, Side], identity: Any
) -> tuple[Values, list[str]]:
    """Values of the metric in one extractor's outputs, and what was warned of while they were computed.

    Args:
        sides: real and measured.
        identity: of the measured images.
    """
    reference, cache = bench.reference, bench.place.cache
    key = cache.key(
        "metric",
        metric=name,
        images=identity,
        reference=[reference.identity, reference.images.identity if reference.images else None],
        protocol=bench.protocol.decisive(),
        extractor=bench.extractors[extractor].fingerprint,
    )
    stored = cache.get_json(key)
    if stored is None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values = METRICS[name].compute(*sides, bench.protocol)
        stored = {"values": values, "warnings": [str(one.message) for one in caught]}
        cache.put_json(key, stored)
    return stored["values"], stored["warnings"]
