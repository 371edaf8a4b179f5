"""`fpd-eval preference`: learned human preference by PickScore or HPSv3."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fpd_eval.commands import captioned, usage


def preference(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Images called as the captions' image_id or line.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="CSV image_id,text or one caption per line from 0.")],
    model: Annotated[Literal["pickscore", "hpsv3"], typer.Option(help="Two scales; HPSv2 is `fpd-eval hps`.")],
    system: captioned.SystemOption = None,
    weights: Annotated[Path | None, typer.Option(metavar="DIR", help="Of the model, if elsewhere.")] = None,
    num_images: Annotated[int | None, typer.Option(min=1, help="Only the first captions.")] = None,
    seed: captioned.SeedOption = 0,
    generate_batch: captioned.GenerateOption = 16,
    batch_size: captioned.BatchOption = "auto",
    device: usage.DeviceOption = "auto",
    cache_dir: usage.CacheOption = usage.CACHE,
    as_json: usage.JsonOption = False,
) -> None:
    """Score images for their captions by a network that learned what people prefer."""
    with usage.user_errors():
        found = captioned.measure(
            model,
            images,
            prompts,
            system,
            weights,
            num_images=num_images,
            seed=seed,
            generate_batch=generate_batch,
            batch_size=batch_size,
            device=device,
            cache_dir=cache_dir,
        )
        captioned.show(found, as_json)
