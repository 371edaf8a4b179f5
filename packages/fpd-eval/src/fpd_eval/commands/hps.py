"""`fpd-eval hps`: human preference score v2."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fpd_eval.commands import captioned, usage


def hps(
    images: Annotated[Path, typer.Option(metavar="DIR", help="STYLE/00000.jpg and so on, one image per prompt.")],
    prompts: Annotated[
        Path, typer.Option(metavar="DIR", help="anime.json, concept-art.json, paintings.json and photo.json.")
    ],
    version: Annotated[
        Literal["v2.0", "v2.1"], typer.Option(help="Of the weights. Two scales: Di[M]O's table 7 is v2.0.")
    ],
    system: captioned.SystemOption = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="HPS_v2*_compressed.pt, if elsewhere.")] = None,
    seed: captioned.SeedOption = 0,
    generate_batch: captioned.GenerateOption = 16,
    batch_size: captioned.BatchOption = "auto",
    device: usage.DeviceOption = "auto",
    cache_dir: usage.CacheOption = usage.CACHE,
    as_json: usage.JsonOption = False,
) -> None:
    """Score images by learned human preference, per style and on average. Versions of the weights are never mixed."""
    with usage.user_errors():
        from rich.console import Console

        usage.look_first(device)
        usage.require_images(images, made_here=system is not None)

        from fpd_eval.extractors.weights import locate
        from fpd_eval.images.paired_files import find_paired
        from fpd_eval.images.prompts import read_hps_prompts
        from fpd_eval.runtime.progress import bars

        path = locate(f"hps_{version}", weights)
        styles = read_hps_prompts(prompts)
        protocol = f"hps-{version}"
        where, track = usage.opened_device(device), bars(Console(stderr=True))
        if system:
            texts = tuple(text for wanted in styles.values() for text in wanted.texts)
            files = [images / style / f"{key}.jpg" for style, wanted in styles.items() for key in wanted.keys]
            captioned.generate(system, texts, files, images, where, seed=seed, batch_size=generate_batch, track=track)
        pairs = {style: (find_paired(images / style, wanted.keys), wanted.texts) for style, wanted in styles.items()}
        found = captioned.score(
            protocol, pairs, path, batch_size=batch_size, device=where, track=track, cache_dir=cache_dir
        )
        captioned.show(found, as_json, groups={style: len(files) for style, (files, _) in pairs.items()})
