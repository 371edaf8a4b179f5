"""`fpd-eval hps`: human preference score v2."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fpd_eval.commands.clip_score import generate, show
from fpd_eval.usage import AUTO_BATCH, batch_size_of, user_errors


def hps(
    images: Annotated[Path, typer.Option(metavar="DIR", help="STYLE/00000.jpg and so on, one image per prompt.")],
    prompts: Annotated[
        Path, typer.Option(metavar="DIR", help="anime.json, concept-art.json, paintings.json and photo.json.")
    ],
    version: Annotated[
        Literal["v2.0", "v2.1"], typer.Option(help="Of the weights. Two scales: Di[M]O's table 7 is v2.0.")
    ],
    system: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Makes the images that DIR still lacks, as JPEG.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="HPS_v2*_compressed.pt, if elsewhere.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of generated images.")] = 0,
    generate_batch: Annotated[int, typer.Option(min=1, help="Images per call of the system; changes them.")] = 16,
    batch_size: Annotated[str, typer.Option(metavar="auto|N", help="Images per call of the scoring model.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> None:
    """Score images by learned human preference, per style and on average. Versions of the weights are never mixed."""
    with user_errors():
        from rich.console import Console

        from fpd_eval.extractors.open_clip_towers import hps_model
        from fpd_eval.machine import usable_device
        from fpd_eval.paired_files import find_paired
        from fpd_eval.progress import bars
        from fpd_eval.prompts import read_hps_prompts
        from fpd_eval.text_scores import HPS_WEIGHTS, measure_hps
        from fpd_eval.weights import locate

        where, track = usable_device(device), bars(Console(stderr=True))
        styles = read_hps_prompts(prompts)
        path = locate(HPS_WEIGHTS[version], weights)
        if system:
            texts = tuple(text for wanted in styles.values() for text in wanted.texts)
            files = [images / style / f"{key}.jpg" for style, wanted in styles.items() for key in wanted.keys]
            generate(system, texts, files, images, where, seed=seed, batch_size=generate_batch, track=track)
        pairs = {style: (find_paired(images / style, wanted.keys), wanted.texts) for style, wanted in styles.items()}
        network = hps_model(version, path, where)
        show(
            measure_hps(network, version, pairs, batch_size=batch_size_of(batch_size) or AUTO_BATCH, track=track),
            as_json,
        )
