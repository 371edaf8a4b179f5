"""A battery: the same distances in several feature spaces, in units of real images, by judges held out of the loss."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from torch import Tensor

from fpd_eval.bench.registry import METRICS, Side, Values
from fpd_eval.bench.values import measured
from fpd_eval.extractors import family
from fpd_eval.metrics.ratios import in_units, split_in_halves

if TYPE_CHECKING:
    from fpd_eval.bench.bench import Bench

Seen = Sequence[str] | None
"""Names of the networks that a training's loss compared images with; None where nobody knows."""

OWN_JUDGE = "every network that judges these images was part of the training's loss: judged by its own loss"


def halves(bench: "Bench", outputs: Mapping[str, Tensor], split: int) -> tuple[Side, Side]:
    """Two disjoint halves of the real images, as one extractor saw them."""
    assert bench.reference.images is not None, "a battery is opened with real images"
    chosen = split_in_halves(bench.reference.images.count, bench.protocol.num_images, split)
    first, second = (Side({name: values[rows] for name, values in outputs.items()}) for rows in chosen)
    return first, second


def between_halves(bench: "Bench", splits: Iterable[int]) -> list[Values]:
    """What the two halves are apart, by `metric/encoder`: one record per split. Only on the main rank."""
    assert bench.reference.images is not None
    found = []
    for split in splits:
        values: Values = {}
        for encoder in bench.protocol.battery:
            sides = halves(bench, bench.seen[encoder], split)
            for name in bench.metrics:
                identity = {"real": bench.reference.images.identity, "split": split}
                values |= by_encoder(measured(bench, name, encoder, sides, identity)[0], encoder)
        found.append(values)
    return found


def by_encoder(values: Values, encoder: str) -> Values:
    return {f"{name}/{encoder}": value for name, value in values.items()}


def with_ratios(values: Values, bench: "Bench") -> Values:
    """Beside `fd/ENCODER` also `fdr/ENCODER`, in units of the splits, and the mean `fdr` over the battery."""
    units = between_halves(bench, range(bench.protocol.real_splits))
    found = dict(values)
    for name in bench.metrics:
        if (ratio := METRICS[name].ratio) is not None:
            for encoder in bench.protocol.battery:
                place = f"{name}/{encoder}"
                found[f"{ratio}/{encoder}"] = in_units(values[place], [unit[place] for unit in units])
            found[ratio] = over_encoders(found, ratio, bench.protocol.battery)
    return found


def over_encoders(values: Mapping[str, float], ratio: str, encoders: Sequence[str]) -> float:
    """The plain mean of a ratio over encoders: FDr of Fréchet distances."""
    return fmean(values[f"{ratio}/{encoder}"] for encoder in encoders)


def real_against_real(bench: "Bench") -> list[Values]:
    """What a second half of the real images scores, once per split that had no part in the unit."""
    splits = bench.protocol.real_splits
    return [with_ratios(values, bench) for values in between_halves(bench, range(splits, 2 * splits))]


def held_out(encoders: Iterable[str], trainings: Iterable[Seen]) -> tuple[str, ...]:
    """The encoders that none of these trainings is known to have seen."""
    known = {network for seen in trainings for network in seen or ()}
    return tuple(encoder for encoder in encoders if family(encoder) not in known)


def is_judged_by_its_loss(seen: Seen, bench: "Bench") -> bool:
    """Whether every network behind a distance to the real images was part of the training's loss.

    Raises:
        ValueError: the same of a battery, whose purpose is another judge.
    """
    protocol = bench.protocol
    distances = [METRICS[name] for name in bench.metrics if METRICS[name].reference != "nothing"]
    used = dict.fromkeys(encoder for metric in distances for encoder in metric.extractors_of(protocol))
    if not used or held_out(used, [seen]):
        return False
    if protocol.battery:
        raise ValueError(
            f"the training of this system saw every encoder of the battery ({', '.join(used)}), and none is held out; "
            "add one that it did not see with --encoder"
        )
    return True
