"""From verdicts to the numbers papers print: one score per task, and their mean."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fpd_core.config import Config
from fpd_eval.geneval.classes import TASKS
from fpd_eval.geneval.prompts import Record, make_prompts


class TaskScore(Config):
    """`score` is the share of correct images; there is no standard error below two prompts."""

    score: float
    standard_error: float | None
    correct: int
    images: int
    prompts: int


class Scores(Config):
    """`overall` is the number papers call GenEval: the unweighted mean of the task scores.

    `correct_images` and `correct_prompts` are shares over everything; a prompt is correct if one of its images is.
    `complete` is False where images of the 553 prompts are missing: such numbers are no GenEval scores.
    """

    tasks: dict[str, TaskScore]
    overall: float
    overall_standard_error: float | None
    correct_images: float
    correct_prompts: float
    images: int
    prompts: int
    complete: bool = True


def summarize(results: Iterable[Mapping[str, Any]], *, complete: bool = True) -> Scores:
    """Scores of judged images.

    Standard errors take prompts as the independent units, because images of one prompt succeed and fail together:
    with c_i of n_i images of prompt i correct, task score p, P prompts and N images, the error is
    sqrt(P / (P - 1) sum (c_i - p n_i)^2) / N. Counting images as independent would understate it.

    Args:
        results: `tag`, `correct` and `metadata` (JSON text of the record) of every image, as in results.jsonl.

    Raises:
        ValueError: no results.
    """
    tasks: dict[str, dict[str, list[bool]]] = {}
    for result in results:
        tasks.setdefault(result["tag"], {}).setdefault(_prompt_key(result), []).append(bool(result["correct"]))
    if not tasks:
        raise ValueError("no judged images to score")
    order = sorted(tasks, key=lambda tag: TASKS.index(tag) if tag in TASKS else len(TASKS))
    scores = {tag: _task_score(list(tasks[tag].values())) for tag in order}
    prompts = [images for task in tasks.values() for images in task.values()]
    errors = [score.standard_error for score in scores.values() if score.standard_error is not None]
    return Scores(
        tasks=scores,
        overall=sum(score.score for score in scores.values()) / len(scores),
        overall_standard_error=math.hypot(*errors) / len(scores) if len(errors) == len(scores) else None,
        correct_images=sum(map(sum, prompts)) / sum(map(len, prompts)),
        correct_prompts=sum(map(any, prompts)) / len(prompts),
        images=sum(map(len, prompts)),
        prompts=len(prompts),
        complete=complete,
    )


def missing_images(
    images: Iterable[tuple[Mapping[str, Any], int]], *, samples: int, records: Sequence[Record] | None = None
) -> list[str]:
    """What lacks for a score over all prompts, one phrase per prompt; empty when complete.

    Args:
        images: (record, number of its images) per prompt folder.
        samples: images every prompt must have.
        records: of the suite; by default GenEval's 553.

    Raises:
        ValueError: a record is not an official one, or appears twice, or has more images than `samples`.
    """
    official = [json.dumps(record, sort_keys=True) for record in (make_prompts() if records is None else records)]
    index = {text: number for number, text in enumerate(official)}
    counts: dict[str, int] = {}
    for record, count in images:
        text = json.dumps(record, sort_keys=True)
        if text not in index:
            raise ValueError(f"{record.get('prompt')!r} is not one of the {len(official)} GenEval records")
        if text in counts:
            raise ValueError(f"{record['prompt']!r} has two folders")
        if count > samples:
            raise ValueError(f"{record['prompt']!r} has {count} images, expected {samples}; say --samples {count}?")
        counts[text] = count
    return [
        f"{index[text]:05d} ({counts.get(text, 0)} of {samples})" for text in official if counts.get(text, 0) < samples
    ]


def incomplete_message(missing: Sequence[str], shown: int = 10, *, total: int = 553) -> str:
    """One sentence naming the first missing prompts."""
    more = f" and {len(missing) - shown} more" if len(missing) > shown else ""
    return f"images are missing for {len(missing)} of {total} prompts: {', '.join(missing[:shown])}{more}"


def _task_score(prompts: Sequence[Sequence[bool]]) -> TaskScore:
    correct, images, count = sum(map(sum, prompts)), sum(map(len, prompts)), len(prompts)
    score = correct / images
    squares = sum((sum(prompt) - score * len(prompt)) ** 2 for prompt in prompts)
    error = math.sqrt(count / (count - 1) * squares) / images if count > 1 else None
    return TaskScore(score=score, standard_error=error, correct=correct, images=images, prompts=count)


def _prompt_key(result: Mapping[str, Any]) -> str:
    """Prompts are told apart by their record, not by their folder."""
    metadata = result["metadata"]
    return metadata if isinstance(metadata, str) else json.dumps(metadata)
