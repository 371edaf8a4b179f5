"""GenEval's six tasks on held-out prompts of the scenes: real pictures (the ceiling), then a teacher by steps.

    python ci/scenes_scores.py assets/scenes/teacher --steps 1 --steps 16

The verdicts are those of fpd_eval.geneval.judge with the official thresholds; boxes and colours come from the scenes'
own judge. Prompts are split in two: `--half choose` is for choosing sampler settings, `--half report` for the numbers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from torch import Tensor

from fpd_core.networks.scene_judge import SceneJudge, load_scene_judge
from fpd_core.sampling import Sampler, sample
from fpd_core.scenes import Drawing, held_out
from fpd_core.scenes.captions import Record, all_records
from fpd_core.scenes.layouts import place
from fpd_core.scenes.vocabulary import TASKS
from fpd_core.schedules import Schedule
from fpd_core.teachers.scenes import ScenesConfig, ScenesTeacher
from fpd_eval.geneval.judge import judge as verdict

BATCH = 50
Half = Literal["choose", "report"]
Draw = Callable[[list[Record], int], Tensor]


def prompts(task: str, half: Half, count: int) -> list[Record]:
    """`count` records of one half of the held-out prompts, repeated where there are fewer; single objects have no
    held-out half, all of them serve both."""
    records = [record for record in all_records(task) if held_out(record) or task == "single_object"]
    order = np.random.default_rng(0).permutation(len(records))
    if task != "single_object":
        order = order[half == "report" :: 2]
    return [records[i] for i in np.resize(order, count)]


def score(finder: SceneJudge, draw: Draw, task: str, half: Half, count: int) -> float:
    """Share of pictures that show what their prompt asks for."""
    records, right = prompts(task, half, count), 0
    for first in range(0, count, BATCH):
        some = records[first : first + BATCH]
        for record, found in zip(some, finder.detect(draw(some, first)), strict=True):
            right += verdict(record, found.boxes, found.classify_colors).correct
    return right / count


def main(
    folder: Annotated[Path, typer.Argument(help="Weight folder of a teacher.")],
    steps: Annotated[list[int], typer.Option(help="Sampling steps; repeat for several.")],
    guidance: Annotated[list[float], typer.Option(help="Guidance scales; the teacher's own by default.")] = [],  # noqa: B006
    sampler: Annotated[Sampler, typer.Option(help="Order of the tokens.")] = "confidence",
    schedule: Annotated[
        Schedule | None, typer.Option(help="Of the revealed share; the teacher's own by default.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Noise on the confidence; the teacher's own if negative.")] = -1,
    half: Annotated[Half, typer.Option(help="Which prompts.")] = "report",
    count: Annotated[int, typer.Option(min=1, help="Pictures per task.")] = 100,
    finder: Annotated[Path, typer.Option("--judge", help="Weight folder of the judge.")] = Path("assets/scenes/judge"),
    ceiling: Annotated[bool, typer.Option(help="Score drawn and reconstructed scenes first.")] = True,
) -> None:
    """Print one row per setting."""
    torch.set_grad_enabled(False)
    teacher, eye = ScenesTeacher.load(ScenesConfig(path=folder)), load_scene_judge(finder)
    print("setting".ljust(28), *TASKS, "overall", sep="  ")
    if ceiling:
        drawing = Drawing()
        _row("drawn", eye, lambda records, seed: _drawn(drawing, records, seed), half, count)
        rebuilt = lambda records, seed: _rebuilt(teacher, _drawn(drawing, records, seed))  # noqa: E731
        _row("reconstructed", eye, rebuilt, half, count)
    for scale in guidance or [teacher.sampler.guidance_scale]:
        for number in steps:
            options = {"guidance_scale": scale} | ({"confidence_temperature": temperature} if temperature >= 0 else {})
            options |= {"schedule": schedule} if schedule else {}

            def draw(records: list[Record], seed: int, number: int = number, options: dict = options) -> Tensor:
                condition = teacher.condition([record["prompt"] for record in records])
                random = torch.Generator().manual_seed(seed)
                tokens = sample(teacher, condition, number, sampler, generator=random, **options)
                return teacher.decode(teacher.codebook[tokens], condition).clamp(0, 1)

            _row(f"{number} steps, g {scale:g}, {sampler}", eye, draw, half, count)


def _row(name: str, eye: SceneJudge, draw: Draw, half: Half, count: int) -> None:
    scores = [score(eye, draw, task, half, count) for task in TASKS]
    cells = [f"{value:.2f}".rjust(len(task)) for value, task in zip(scores, TASKS, strict=True)]
    print(name.ljust(28), *cells, f"{np.mean(scores):.3f}", sep="  ", flush=True)


def _drawn(drawing: Drawing, records: list[Record], seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([drawing(place(random, record)) for record in records]))


def _rebuilt(teacher: ScenesTeacher, images: Tensor) -> Tensor:
    tokenizer = teacher.tokenizer
    return tokenizer.decode(tokenizer.codebook[tokenizer.encode(images)]).clamp(0, 1)


if __name__ == "__main__":
    typer.run(main)
