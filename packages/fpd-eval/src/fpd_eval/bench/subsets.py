"""Whether there are images enough for KID, which is a mean over random subsets."""

from collections.abc import Sequence

from fpd_eval.bench.references import Reference
from fpd_eval.protocols import MetricName, MetricProtocol


def require_subsets(protocol: MetricProtocol, names: Sequence[MetricName], against: Reference) -> None:
    """Raises ValueError: fewer images than KID takes the mean over."""
    real = against.images.count if against.images else protocol.num_images
    if "kid" in names and (least := min(protocol.num_images, real)) < protocol.kid_subset_size:
        others = " ".join(f"--only {name}" for name in names if name != "kid")
        raise ValueError(
            f"KID is a mean over subsets of {protocol.kid_subset_size} images, and here are {least}; measure at least "
            f"{protocol.kid_subset_size} with --num-images, or leave KID out: {others}"
        )
