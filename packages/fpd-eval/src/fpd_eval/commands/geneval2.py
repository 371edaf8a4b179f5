"""`fpd-eval geneval2`: Soft-TIFA over the user's own file of GenEval 2's prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpd_eval.commands import captioned, usage

if TYPE_CHECKING:
    from fpd_eval.geneval.second import SecondScores


def geneval2(
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="geneval2_data.jsonl of facebookresearch/GenEval2.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images called as the lines of the file, from 0.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Probabilities found elsewhere, instead of --images.")
    ] = None,
    system: captioned.SystemOption = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Network that answers about pictures, if elsewhere.")
    ] = None,
    seed: captioned.SeedOption = 0,
    generate_batch: captioned.GenerateOption = 16,
    device: usage.DeviceOption = "auto",
    as_json: usage.JsonOption = False,
) -> None:
    """Score images of GenEval 2's prompts. They are not part of fpd: their licence forbids commercial use."""
    with usage.user_errors():
        from rich.console import Console

        usage.look_first(device)

        from fpd_eval.extractors.weights import locate
        from fpd_eval.geneval.second import read_answers, read_second_prompts, summarize_second
        from fpd_eval.geneval.vqa import VqaJudge
        from fpd_eval.images.paired_files import find_paired, open_rgb
        from fpd_eval.runtime.progress import bars

        if (images is None) == (answers is None):
            raise ValueError("give either --images, which a network looks at, or --answers")
        asked = read_second_prompts(prompts)
        if answers is not None:
            _show(summarize_second(asked, read_answers(answers, asked)), {"judge": str(answers)}, as_json=as_json)
            return
        assert images is not None
        usage.require_images(images, made_here=system is not None)
        weights = locate("vqa", weights)
        where, track = usage.opened_device(device), bars(Console(stderr=True))
        keys = [str(number) for number in range(len(asked))]
        if system:
            texts, files = [one.prompt for one in asked], [images / f"{key}.png" for key in keys]
            captioned.generate(system, texts, files, images, where, seed=seed, batch_size=generate_batch, track=track)
        files = find_paired(images, keys)
        judge = VqaJudge(weights, where)
        found = []
        with track("answers", len(asked)) as advance:
            for file, prompt in zip(files, asked, strict=True):
                found.append(judge(open_rgb(file), prompt.questions))
                advance(1)
        _show(summarize_second(asked, found), judge.identity, as_json=as_json)


def _show(scores: "SecondScores", judge: dict[str, str], *, as_json: bool) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    if as_json:
        print(json.dumps({**scores.model_dump(), **judge}, indent=2))
        return
    table = Table("GenEval 2", "%", title=f"{scores.prompts} prompts", title_justify="left")
    table.add_row("Soft-TIFA AM", f"{scores.am:.2f}")
    table.add_row("Soft-TIFA GM", f"{scores.gm:.2f}")
    for skill, score in scores.skills.items():
        table.add_row(skill, f"{score:.2f}")
    console = Console()
    console.print(table)
    console.print(f"judged by {judge['judge']}", markup=False, highlight=False)
