"""`fpd-eval clip-score`: how well images show their captions."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fpd_eval.commands import captioned, usage


def clip_score(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Images called as the captions' image_id or line.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="CSV image_id,text or one caption per line from 0.")],
    model: Annotated[
        Literal["vit-g-14", "vit-l-14"],
        typer.Option(help="vit-g-14: Di[M]O's cosine with a prefix; vit-l-14: torchmetrics' 100 x cosine."),
    ] = "vit-g-14",
    system: captioned.SystemOption = None,
    weights: Annotated[Path | None, typer.Option(metavar="PATH", help="Of the CLIP model, if elsewhere.")] = None,
    num_images: Annotated[int | None, typer.Option(min=1, help="Only the first captions.")] = None,
    seed: captioned.SeedOption = 0,
    generate_batch: captioned.GenerateOption = 16,
    batch_size: captioned.BatchOption = "auto",
    device: usage.DeviceOption = "auto",
    cache_dir: usage.CacheOption = usage.CACHE,
    as_json: usage.JsonOption = False,
) -> None:
    """Score images against their captions. Two definitions go by this name; their numbers cannot be compared."""
    with usage.user_errors():
        from fpd_eval.metrics.clip_score import MAX_PAIRS

        found = captioned.measure(
            f"clip-score-{model}",
            images,
            prompts,
            system,
            weights,
            num_images=num_images,
            max_images=MAX_PAIRS if model == "vit-g-14" else None,
            seed=seed,
            generate_batch=generate_batch,
            batch_size=batch_size,
            device=device,
            cache_dir=cache_dir,
        )
        captioned.show(found, as_json)
