"""GenEval from prompts to scores, in three passes that leave files: images, detections, verdicts.

Every pass continues where it was interrupted: what lies there complete is not made again.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fpd_eval.geneval.detection_folder import DetectionFolder
from fpd_eval.geneval.detector import ColorClassifier, Detection, Detections, Detector
from fpd_eval.geneval.generation import GENERATION, claim_images
from fpd_eval.geneval.judge import JudgeOptions, judge, keep
from fpd_eval.geneval.layout import (
    SAMPLES,
    Sample,
    read_claim,
    read_layout,
    write_images,
    write_record,
    write_whole,
)
from fpd_eval.geneval.official import GENEVAL
from fpd_eval.geneval.outcome import Outcome
from fpd_eval.geneval.page import write_pages
from fpd_eval.geneval.prompts import Record, make_prompts
from fpd_eval.geneval.results import result, write_results
from fpd_eval.geneval.scores import incomplete_message, missing_images, summarize
from fpd_eval.geneval.suites import Suite
from fpd_eval.images.plan import PromptPlan
from fpd_eval.runtime.batching import in_batches
from fpd_eval.runtime.cache import hash_file
from fpd_eval.runtime.progress import Track, silent
from fpd_eval.runtime.ranks import ALONE, Ranks
from fpd_eval.systems.system import System

# A working detector is sure of something in so many images (djghosh13/geneval, issue 15: some GPUs saw nothing).
CONFIDENT, ENOUGH_IMAGES = 0.9, 32


@dataclass(frozen=True)
class Judges:
    """How images are looked at. The networks are opened only where images wait for them.

    With `detections` the boxes come from that folder and no detector is used.
    """

    detector: Callable[[], Detector]
    colors: Callable[[], ColorClassifier]
    options: JudgeOptions = field(default_factory=JudgeOptions)
    detections: Path | None = None
    batch_size: int = 8
    track: Track = silent
    ranks: Ranks = ALONE


def generate(
    system: System,
    folder: Path,
    *,
    samples: int = 4,
    seed: int = 42,
    records: Sequence[Record] | None = None,
    checkpoints: Sequence[Path] = (),
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> None:
    """All prompts, by default GenEval's, as images in the official layout. Collective: every rank makes its share.

    The n images of a prompt are one batch, and every batch starts from the same seed, as the field does it.

    Args:
        checkpoints: the system's weight files, for the record.

    Raises:
        ValueError: the folder holds images made otherwise (the message names the setting), or images without a record;
            or the system makes NaN.
    """
    prompts = make_prompts() if records is None else records
    claim_images(folder, system, prompts, samples=samples, seed=seed, checkpoints=checkpoints)
    each = tuple(record["prompt"] for record in prompts for _ in range(samples))
    images = system.image_set(PromptPlan(prompts=each, batch_size=samples, seed=seed, reseed=True))
    own = ranks.share(list(enumerate(prompts)))
    with track(f"images of {system.name}", len(own)) as advance:
        for number, record in own:
            place = folder / f"{number:05d}"
            if not all((place / SAMPLES / f"{index:05d}.png").exists() for index in range(samples)):
                made = images.batch(number * samples)
                write_record(place, record)
                write_images(place, list(made.permute(0, 2, 3, 1).numpy()))
            advance(1)
    ranks.barrier()


def evaluate(
    images: Path,
    out: Path,
    judges: Judges,
    *,
    name: str,
    samples: int = 4,
    allow_partial: bool = False,
    suite: Suite = GENEVAL,
    per_task: int | None = None,
) -> Outcome | None:
    """Detect, judge and score a folder of images; write detections, results.jsonl, scores.json and pages to `out`.

    Collective: every rank detects in its share of the images. Only the first judges, the others return None.

    Args:
        per_task: ask only the first prompts of every task, which makes the scores partial ones.

    Raises:
        ValueError: images are missing, damaged, too many or not GenEval's; a network cannot be opened; the folder of
            detections lacks an image or a colour.
    """
    prompts, records = read_layout(images), suite.first(per_task)
    there = [(prompt.record, len(prompt.samples)) for prompt in prompts]
    missing = missing_images(there, samples=samples, records=records)
    if missing and not allow_partial:
        lack = incomplete_message(missing, total=len(records))
        raise ValueError(f"{images}: {lack}; --allow-partial scores what is there")
    found = [sample for prompt in prompts for sample in prompt.samples]
    if not found:
        raise ValueError(f"{images} holds no images")
    store = DetectionFolder(judges.detections or out / "detections")
    if judges.detections is None:
        detect(judges.ranks.share(found), store, judges)
        judges.ranks.barrier()
    if not judges.ranks.is_main:
        return None
    results = judge_all(found, store, judges)
    outcome = Outcome(
        name=name,
        suite=suite.name,
        prompts_sha256=suite.sha256(),
        scores=summarize(results, complete=not missing and records == suite.prompts()),
        samples=samples,
        options=judges.options,
        images=read_claim(images / GENERATION) or {"folder": str(images)},
        detections=store.identity() or {"folder": str(store.root)},
    )
    write_results(out / "results.jsonl", results)
    write_whole(out / "scores.json", (outcome.model_dump_json(indent=2) + "\n").encode())
    write_pages(out, outcome, list(zip(found, results, strict=True)), asked=len(suite.prompts()))
    return outcome


def detect(samples: Sequence[Sample], store: DetectionFolder, judges: Judges) -> None:
    """Boxes, and colours where prompts ask for them, of every image whose file is absent or of another picture."""
    waiting = [sample for sample in samples if store.image_sha256(sample) != hash_file(sample.path)]
    if not waiting:
        return
    detector = judges.detector()
    colors = judges.colors().identity if any(map(_color_classes, waiting)) else {}
    store.claim({**detector.identity, **colors})
    best = 0.0

    def seen(part: slice) -> tuple[Sequence[Sample], Sequence[Detections]]:
        return waiting[part], detector([sample.open() for sample in waiting[part]])

    with judges.track("detections", len(waiting)) as advance:
        for batch, detected in in_batches(seen, len(waiting), judges.batch_size):
            for sample, found in zip(batch, detected, strict=True):
                store.write(sample, colored(sample, found, judges), hash_file(sample.path))
                best = max([best, *(box.score for boxes in found.values() for box in boxes)])
            advance(len(batch))
    if best < CONFIDENT and len(waiting) >= ENOUGH_IMAGES:
        warnings.warn(
            f"no object in {len(waiting)} images scores {CONFIDENT} or more (best {best:.2f}): try the detector on "
            "a few photographs before believing these numbers",
            stacklevel=2,
        )


def judge_all(samples: Sequence[Sample], store: DetectionFolder, judges: Judges) -> list[dict[str, Any]]:
    """One official result per image.

    Raises:
        ValueError: an image has no detections, those of another picture, or a colour is neither stored nor to be found.
    """
    results = []
    with judges.track("verdicts", len(samples)) as advance:
        for sample in samples:
            found = store.read(sample)
            if store.image_sha256(sample) not in (None, hash_file(sample.path)):
                raise ValueError(f"{store.path(sample)} describes another picture than {sample.path}")
            try:
                found = colored(sample, found, judges)
            except ValueError as error:
                raise ValueError(f"{store.path(sample)}: {error}; delete the file to detect again") from None
            verdict = judge(sample.record, found, _noted_colors, judges.options)
            results.append(result(sample, verdict, keep(sample.record, found, judges.options)))
            advance(1)
    return results


def colored(sample: Sample, found: Detections, judges: Judges) -> Detections:
    """The detections, with the colours of all kept objects of classes whose colour the prompt asks for."""
    kept, complete = keep(sample.record, found, judges.options), dict(found)
    for name in _color_classes(sample):
        unknown = [box for box in kept.get(name, ()) if box.color is None]
        if unknown:
            if any(box.mask is None for box in unknown):
                raise ValueError(f"a {name} whose colour is asked for has neither colour nor mask")
            answers = judges.colors()(sample.open(), name, unknown)
            # `keep` returns the very objects it was given; masks make them unfit for comparison by value.
            colors = {id(box): color for box, color in zip(unknown, answers, strict=True)}
            complete[name] = [box._replace(color=colors.get(id(box), box.color)) for box in found[name]]
    return complete


def _color_classes(sample: Sample) -> list[str]:
    return [clause["class"] for clause in sample.record["include"] if "color" in clause]


def _noted_colors(name: str, boxes: Sequence[Detection]) -> list[str]:
    return [box.color or "" for box in boxes]
