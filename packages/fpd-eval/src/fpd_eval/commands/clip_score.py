"""`fpd-eval clip-score`: how well images show their captions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fpd_eval.usage import AUTO_BATCH, batch_size_of, user_errors

if TYPE_CHECKING:
    import torch

    from fpd_eval.progress import Track
    from fpd_eval.text_scores import TextScores


def clip_score(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Images called as the captions' image_id or line.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="CSV image_id,text or one caption per line from 0.")],
    model: Annotated[
        Literal["vit-g-14", "vit-l-14"],
        typer.Option(help="vit-g-14: Di[M]O's cosine with a prefix; vit-l-14: torchmetrics' 100 x cosine."),
    ] = "vit-g-14",
    system: Annotated[Path | None, typer.Option(metavar="JSON", help="Makes the images that DIR still lacks.")] = None,
    weights: Annotated[Path | None, typer.Option(metavar="PATH", help="Of the CLIP model, if elsewhere.")] = None,
    num_images: Annotated[int | None, typer.Option(min=1, help="Only the first captions.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of generated images.")] = 0,
    generate_batch: Annotated[int, typer.Option(min=1, help="Images per call of the system; changes them.")] = 16,
    batch_size: Annotated[str, typer.Option(metavar="auto|N", help="Images per call of the CLIP model.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> None:
    """Score images against their captions. Two definitions go by this name; their numbers cannot be compared."""
    with user_errors():
        from rich.console import Console

        from fpd_eval.machine import usable_device
        from fpd_eval.paired_files import find_paired
        from fpd_eval.progress import bars
        from fpd_eval.prompts import read_prompts
        from fpd_eval.text_scores import CLIP_WEIGHTS, load_clip, measure_clip_score
        from fpd_eval.weights import locate

        where, track = usable_device(device), bars(Console(stderr=True))
        captions = read_prompts(prompts)
        wanted = captions.first(num_images)
        path = locate(CLIP_WEIGHTS[model], weights)
        if system:
            files = [images / f"{key}.png" for key in wanted.keys]
            generate(system, wanted.texts, files, images, where, seed=seed, batch_size=generate_batch, track=track)
        found = find_paired(images, wanted.keys, spare=captions.keys)
        network = load_clip(model, path, where)
        show(
            measure_clip_score(
                network, model, found, wanted.texts, batch_size=batch_size_of(batch_size) or AUTO_BATCH, track=track
            ),
            as_json,
        )


def generate(
    system: Path,
    texts: "tuple[str, ...]",
    files: list[Path],
    record: Path,
    device: "torch.device",
    *,
    seed: int,
    batch_size: int,
    track: "Track",
) -> None:
    """Make the missing files with the system of a JSON file."""
    from fpd_eval.generate import write_images
    from fpd_eval.system_kinds import read_system

    loaded = read_system(system).load(device)
    write_images(loaded, texts, files, record=record, seed=seed, batch_size=batch_size, track=track)


def show(scores: "TextScores", as_json: bool) -> None:
    """Print the result for people or as JSON."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        print(scores.model_dump_json(indent=2))
        return
    console = Console()
    table = Table("metric", "value", "± of groups", title=f"{scores.num_images} images", title_justify="left")
    spread = {f"_{style}": score.std for style, score in scores.styles.items()}
    for name, value in scores.values.items():
        found = next((std for style, std in spread.items() if name.endswith(style)), None)
        table.add_row(name, f"{value:.4f}", "" if found is None else f"{found:.4f}")
    console.print(table)
    console.print(f"comparable with {scores.follows}", markup=False, highlight=False)
