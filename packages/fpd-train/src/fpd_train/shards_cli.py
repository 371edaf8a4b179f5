"""`fpd-train shards`: data as WebDataset shards. What is heavy is imported inside, so that help is instant."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fpd_train.pairs_cli import pairs_command

shards_app = typer.Typer(
    help="Write WebDataset shards. Distilling a class-conditional teacher needs none: it draws labels.",
    no_args_is_help=True,
)
shards_app.command("pairs")(pairs_command)

OutOption = Annotated[Path, typer.Option(help="Folder to create.")]
PerShardOption = Annotated[int, typer.Option(min=1, help="Samples per tar.")]


@shards_app.command("fashion")
def shards_fashion(
    out: OutOption = Path("data/fashion"),
    source: Annotated[
        Literal["folder", "debian", "torchvision"], typer.Option(help="Where the IDX files come from.")
    ] = "debian",
    folder: Annotated[Path | None, typer.Option(help="Folder with the gzipped IDX files (--source folder).")] = None,
    per_shard: PerShardOption = 1000,
) -> None:
    """Fashion-MNIST, for training the bundled tokenizer, teacher and classifier; one subfolder per split."""
    from fpd_train.data.write_shards import FILES, fashion_samples, locate_fashion, write_shards

    for split in FILES:
        _wrote(
            out / split,
            write_shards(fashion_samples(locate_fashion(source, folder, split), split), out / split, per_shard),
        )


@shards_app.command("captions")
def shards_captions(
    file: Annotated[Path, typer.Argument(help="UTF-8 text, one caption per line.")],
    out: OutOption = Path("data/captions"),
    per_shard: PerShardOption = 10_000,
) -> None:
    """Captions, for distilling a text-conditional teacher (data source `caption_shards`)."""
    from fpd_train.data.write_shards import caption_samples, write_shards

    _wrote(out, write_shards(caption_samples(file), out, per_shard))


@shards_app.command("scenes")
def shards_scenes(
    out: OutOption = Path("data/scenes"),
    count: Annotated[int, typer.Option(min=1, help="Scenes to draw.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    per_shard: PerShardOption = 1000,
) -> None:
    """Emoji scenes with captions and boxes; the data source `scenes` draws the same ones without files."""
    from fpd_train.data.scene_shards import scene_samples
    from fpd_train.data.scenes import Scenes
    from fpd_train.data.write_shards import write_shards

    _wrote(out, write_shards(scene_samples(Scenes(), count, seed), out, per_shard))


def _wrote(folder: Path, sizes: dict[str, int]) -> None:
    print(f"{folder}: {sum(sizes.values())} samples in {len(sizes)} shards")
