"""Whether an image shows what its prompt asked for, from detected boxes: GenEval's rules, traps included.

Follows `evaluation/evaluate_images.py` of djghosh13/geneval. Scores, thresholds and geometry are float32, there and
here: a score equal to float32(0.3) is not above 0.3.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from fpd_core.config import Config, explain
from fpd_eval.geneval.classes import COLORS, RELATIONS

BoxLike = TypeVar("BoxLike", bound=Sequence[Any] | np.ndarray)
ClassifyColors = Callable[[str, list[BoxLike]], Sequence[str]]


class JudgeOptions(Config):
    """Which detections count; the names of the official `--options`."""

    threshold: float = Field(
        0.3, allow_inf_nan=False, description="Scores must be above it, in every task but counting."
    )
    counting_threshold: float = Field(0.9, allow_inf_nan=False, description="The same for counting.")
    max_objects: int = Field(16, ge=0, description="Best detections kept per class, after the threshold, before NMS.")
    max_overlap: float = Field(
        1.0, allow_inf_nan=False, description="Greedy NMS within a class drops boxes of at least this IoU; 1 is off."
    )
    position_threshold: float = Field(
        0.1, allow_inf_nan=False, description="Share of both box sizes that offsets must exceed."
    )


class Verdict(NamedTuple):
    """`reason` says why an image is wrong, one line per failed clause; empty for a correct one."""

    correct: bool
    reason: str


def judge(
    record: Mapping[str, Any],
    detections: Mapping[str, Sequence[BoxLike]],
    classify_colors: ClassifyColors[BoxLike],
    options: JudgeOptions | Mapping[str, Any] | None = None,
) -> Verdict:
    """The official verdict on one image.

    Clauses do not compete: two of them may be satisfied by the same box.

    Args:
        record: of `make_prompts`.
        detections: boxes (x0, y0, x1, y1, score) by class name, in pixels, in the detector's order; anything indexable.
        classify_colors: (class name, boxes) -> one of the ten colours per box. Gets the caller's own box objects, best
            first; asked only for clauses with a colour.
        options: or a mapping of them.

    Raises:
        ConfigError: unknown option or wrong value.
    """
    options = judge_options(options)
    kept = keep(record, detections, options)
    reasons: list[str] = []
    matched: list[list[BoxLike] | None] = []
    for clause in record.get("include", ()):
        reason = _missing(clause, kept)
        found = kept.get(clause["class"], [])[: clause["count"]]
        if reason is None and "color" in clause:
            reason = _wrong_color(clause, classify_colors(clause["class"], found))
        if reason is None and "position" in clause:
            reason = _misplaced(clause, found, matched, options.position_threshold)
        matched.append(found if reason is None else None)
        reasons += [reason] if reason is not None else []
    for clause in record.get("exclude", ()):
        number = len(kept.get(clause["class"], ()))
        if number >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {number}")
    return Verdict(not reasons, "\n".join(reasons))


def judge_options(options: JudgeOptions | Mapping[str, Any] | None) -> JudgeOptions:
    """Typed options. Raises ConfigError: unknown name or wrong value."""
    if isinstance(options, JudgeOptions):
        return options
    try:
        return JudgeOptions.model_validate(dict(options or {}))
    except ValidationError as error:
        raise explain(error, "GenEval options") from None


def keep(
    record: Mapping[str, Any], detections: Mapping[str, Sequence[BoxLike]], options: JudgeOptions
) -> dict[str, list[BoxLike]]:
    """Detections that count for this record, best first; a class without any is absent."""
    threshold = options.counting_threshold if record.get("tag") == "counting" else options.threshold
    kept = {name: _best(boxes, threshold, options) for name, boxes in detections.items()}
    return {name: boxes for name, boxes in kept.items() if boxes}


def _best(boxes: Sequence[BoxLike], threshold: float, options: JudgeOptions) -> list[BoxLike]:
    scores = np.array([box[4] for box in boxes], dtype=np.float32)
    # Ascending and reversed: of equal scores the later one comes first.
    order = np.argsort(scores, kind="stable")[::-1]
    order = order[scores[order] > np.float32(threshold)][: options.max_objects]
    best: list[BoxLike] = []
    for index in order:
        if options.max_overlap == 1 or all(iou(boxes[index], box) < options.max_overlap for box in best):
            best.append(boxes[index])
    return best


def _missing(clause: Mapping[str, Any], kept: Mapping[str, Sequence[Any]]) -> str | None:
    number = len(kept.get(clause["class"], ()))
    return f"expected {clause['class']}>={clause['count']}, found {number}" if number < clause["count"] else None


def _wrong_color(clause: Mapping[str, Any], predicted: Sequence[str]) -> str | None:
    counts, wanted = Counter(predicted), clause["color"]
    number = counts[wanted]
    if number >= clause["count"]:
        return None
    seen = ", ".join(f"{counts[color]} {color}" for color in COLORS if color in counts)
    return f"expected {wanted} {clause['class']}>={clause['count']}, found {number} {wanted}; and {seen}"


def _misplaced(
    clause: Mapping[str, Any], found: Sequence[Any], matched: Sequence[Sequence[Any] | None], threshold: float
) -> str | None:
    """Every found box must stand in the relation to every box of the target clause; the first that does not decides."""
    relation, target = clause["position"]
    targets = matched[target]
    if targets is None:
        return f"no target for {clause['class']} to be {relation}"
    for box in found:
        for other in targets:
            seen = relations(box, other, threshold)
            if relation not in seen:
                return f"expected {clause['class']} {relation} target, found {' and '.join(seen)} target"
    return None


def relations(subject: Any, target: Any, threshold: float = 0.1) -> list[str]:
    """Where the subject's box lies, seen from the target's; none, one or (diagonally) two relations.

    Offsets of the centres shrink by `threshold` times both box sizes; what is left must exceed half the distance of the
    centres along an axis.
    """
    (a_low, a_high), (b_low, b_high) = (np.array(box[:4], dtype=np.float32).reshape(2, 2) for box in (subject, target))
    offset = (a_low + a_high) / 2 - (b_low + b_high) / 2
    sizes = np.abs(a_high - a_low) + np.abs(b_high - b_low)
    revised = np.sign(offset) * np.maximum(np.abs(offset) - np.float32(threshold) * sizes, 0)
    if np.all(np.abs(revised) < 1e-3):
        return []
    dx, dy = revised / np.linalg.norm(offset)
    holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)
    return [relation for relation, true in zip(RELATIONS, holds, strict=True) if true]


def iou(a: Any, b: Any) -> float:
    """Intersection over union with pixels counted inclusively."""
    a, b = np.array(a[:4], dtype=np.float32), np.array(b[:4], dtype=np.float32)
    common = _area(np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]))
    union = _area(a) + _area(b) - common
    return common / union if union else 0.0


def _area(box: np.ndarray) -> float:
    width, height = np.maximum(box[2:] - box[:2] + 1, 0)
    return float(width) * float(height)
