"""`fpd-eval geneval`: prompts to scores, for a student, its teacher, or images made elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpd_eval.commands import usage
from fpd_eval.commands.usage import CardOption, DeviceOption, JsonOption, batch_size_of, given, user_errors

if TYPE_CHECKING:
    from rich.table import Table

    from fpd_eval.geneval.outcome import Outcome


def geneval(
    ckpt: Annotated[
        str | None,
        typer.Option(metavar="DIR|OWNER/NAME", help="Text-conditional student, folder or hub; it makes the images."),
    ] = None,
    system: Annotated[
        list[Path] | None, typer.Option(metavar="JSON", help="System file that makes images; may be repeated.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images made elsewhere, as 00000/samples/00000.png.")
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="geneval: the official prompts and judges; scenes: the bundled text-to-image world; scenes-choose and "
            "scenes-report: the halves of its prompts."
        ),
    ] = "geneval",
    per_task: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N prompts of every task; the scores are partial.")
    ] = None,
    steps: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="Also the student's teacher, as in: --steps 8 16.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="How the teacher decodes: confidence or halton.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Of the teacher; 1 turns guidance off.")] = None,
    sampling: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Other setting of the teacher, as confidence_temperature=1, guidance_start=1, schedule=cosine; may be "
            "repeated.",
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Images per prompt; 4 by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Set anew before every prompt, as the field does; 42.")] = None,
    detections: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --images: boxes found elsewhere, instead of the detector.")
    ] = None,
    detector_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="mmdetection's .pth file (3.x or 2.x), or, another detector, the folder of "
            "facebook/mask2former-swin-small-coco-instance.",
        ),
    ] = None,
    preprocessing: Annotated[
        str | None, typer.Option(help="How images reach the detector: mmdet-3.3 (default), mmdet-2.28, transformers.")
    ] = None,
    clip_weights: Annotated[Path | None, typer.Option(metavar="FILE", help="OpenAI's CLIP ViT-L/14.")] = None,
    accept_detector: Annotated[
        bool, typer.Option("--accept-detector", help="Judge even if the detector fails its self-check; put on record.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the judge, as threshold=0.3; may be repeated.")
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score incomplete images, marked as partial.")
    ] = False,
    batch_size: Annotated[str, typer.Option(metavar="auto|N", help="Images per pass of the detector.")] = "auto",
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option(help="Result folder; by default beside student or images.")] = None,
    write_card: CardOption = False,
    as_json: JsonOption = False,
) -> None:
    """GenEval: six tasks and overall from 553 prompts, and pages that show every image, its boxes and its failure.

    Interrupted runs continue: finished images and detections are not made again.
    """
    with user_errors():
        from rich.console import Console

        from fpd_eval.geneval.request import Request, fulfil
        from fpd_eval.runtime.progress import bars

        if write_card and (ckpt is None or per_task or allow_partial):
            raise ValueError("--write-card belongs to --ckpt and to all of its prompts: partial scores are none")
        student = None if ckpt is None else usage.student_folder(ckpt, write_card=write_card)
        if ckpt is not None and student != Path(ckpt):
            out = out or Path("geneval")  # not among the fetched files
        beside = student or images
        usage.look_first(device, out or (beside.resolve().parent / "geneval" if beside else Path("geneval")))
        request = given(
            Request,
            suite=suite,
            ckpt=student,
            systems=system,
            images=images,
            steps=steps,
            sampler=sampler,
            guidance_scale=guidance_scale,
            sampling=_sampling(sampling or ()),
            per_task=per_task,
            samples=samples,
            seed=seed,
            detections=detections,
            detector_weights=detector_weights,
            clip_weights=clip_weights,
            preprocessing=preprocessing,
            accept_detector=accept_detector,
            options=_options(option or ()),
            allow_partial=allow_partial,
            batch_size=batch_size_of(batch_size),
            device=device,
            out=out,
        )
        where = usage.opened_device(device)
        outcomes = fulfil(request, track=bars(Console(stderr=True)))
        if write_card and student is not None and outcomes:
            from fpd_eval.report.card import write_judged

            write_judged([outcome for _, outcome in outcomes], student)
        _show(outcomes, as_json=as_json)
        if not as_json:
            print(f"device: {where}")


def _options(assignments: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` texts by name. Raises ValueError: no `=`, unknown name or wrong value."""
    from fpd_eval.geneval.judge import judge_options

    named = _named(assignments, "--option", "threshold=0.3")
    judge_options(named)
    return named


def _sampling(assignments: Sequence[str]) -> dict[str, Any]:
    """As `_options`, values as in JSON or plain words. Raises ValueError: no `=`."""
    named = _named(assignments, "--sampling", "schedule=cosine")
    return {name: _value(text) for name, text in named.items()}


def _named(assignments: Sequence[str], option: str, example: str) -> dict[str, str]:
    wrong = [text for text in assignments if "=" not in text]
    if wrong:
        raise ValueError(f"{option} {wrong[0]} must be NAME=VALUE, as in: {option} {example}")
    return dict(text.split("=", 1) for text in assignments)


def _value(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text


def _show(outcomes: "list[tuple[Path, Outcome]]", *, as_json: bool) -> None:
    """One line per system and the places of the pages, or only JSON."""
    import json

    from rich.console import Console

    if not outcomes:
        return
    if as_json:
        print(json.dumps([outcome.model_dump(mode="json") for _, outcome in outcomes], indent=2))
        return
    console = Console()
    console.print(_table([outcome for _, outcome in outcomes]))
    for folder, outcome in outcomes:
        if not outcome.scores.complete:
            console.print(f"{outcome.name}: partial, no GenEval score", markup=False, style="yellow")
        console.print(f"report: {folder / 'index.html'}", markup=False, highlight=False, soft_wrap=True)


def _table(outcomes: "Sequence[Outcome]") -> "Table":
    """Scores with standard errors, a row per task and a column per system."""
    from rich.markup import escape
    from rich.table import Table

    from fpd_core.untrusted import printable
    from fpd_eval.geneval.classes import TASKS

    table = Table("GenEval", *(escape(printable(outcome.name)) for outcome in outcomes))
    table.add_row(
        "detector", *(escape(printable(_judge(outcome, "detector", "preprocessing"))) for outcome in outcomes)
    )
    table.add_row("colours", *(escape(printable(_judge(outcome, "colors"))) for outcome in outcomes))
    for tag in TASKS:
        scores = [outcome.scores.tasks.get(tag) for outcome in outcomes]
        table.add_row(tag, *(_number(score.score, score.standard_error) if score else "–" for score in scores))
    overall = [_number(outcome.scores.overall, outcome.scores.overall_standard_error) for outcome in outcomes]
    table.add_row("overall", *overall, style="bold")
    return table


def _judge(outcome: "Outcome", *names: str) -> str:
    """Who judged, from the record beside the detections."""
    return ", ".join(str(outcome.detections[name]) for name in names if name in outcome.detections) or "unknown"


def _number(score: float, error: float | None) -> str:
    return f"{score:.3f}" + (f" ± {error:.3f}" if error is not None else "")
