"""`fpd-train shards pairs`: what a stage of ReDi learns from."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def pairs_command(
    student: Annotated[Path, typer.Option(metavar="DIR", help="Exported student of the stage before.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="Of a student that reads text: a run's, whose captions are drawn.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to create, or to go on with.")] = Path("data/pairs"),
    count: Annotated[int, typer.Option(min=1, help="Pairs to draw, the classes in turn.")] = 10_000,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 16,
    guidance_scale: Annotated[float, typer.Option(help="g in the last step; the paper's w is g - 1.")] = 2.0,
    mask_share: Annotated[float, typer.Option(help="Of [MASK] in a source.")] = 0.3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    per_shard: Annotated[int, typer.Option(min=1, help="Pairs per tar, drawn in one batch.")] = 500,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the network runs.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but pairs and seconds of this call.")] = False,
) -> None:
    """Pairs for the next stage of ReDi. The same command goes on where a killed one stopped."""
    import json
    import time

    import torch
    from pydantic import ValidationError

    from fpd_core.checkpoints import WEIGHTS
    from fpd_core.config import explain
    from fpd_core.generator import load_generator
    from fpd_train import manifest
    from fpd_train.config import load_config
    from fpd_train.data.write_pairs import PairsConfig, write_pairs

    captions = None if config is None else load_config(config).data
    generator = load_generator(student)
    generator.to(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    try:
        settings = PairsConfig(
            model=manifest.record(student, student / WEIGHTS).sha256,
            captions=None if captions is None else captions.model_dump(mode="json"),
            count=count,
            per_shard=per_shard,
            steps=steps,
            guidance_scale=guidance_scale,
            mask_share=mask_share,
            ranking_noise=4.5,
            rule="v1",
            seed=seed,
        )
    except ValidationError as error:
        raise explain(error, "pairs") from None
    began, done = time.monotonic(), 0
    for done, total in write_pairs(generator, settings, out, captions):
        if not as_json:
            print(f"{out}: {done} of {total} pairs")
    if as_json:
        print(json.dumps({"pairs": done, "seconds": time.monotonic() - began}))
