"""`fpd-train shards`: data as WebDataset shards. What is heavy is imported inside, so that help is instant."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from fpd_train.pairs_cli import pairs_command

shards_app = typer.Typer(
    help="Write WebDataset shards. Distilling a class-conditional teacher needs none: it draws labels.",
    no_args_is_help=True,
)
shards_app.command("pairs")(pairs_command)


class Part(StrEnum):
    """What a sample may have."""

    CAPTIONS = "captions"
    IMAGES = "images"
    LABELS = "labels"


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
    file: Annotated[Path, typer.Argument(help="UTF-8 text, one caption per line; or .csv, .tsv, .parquet.")],
    out: OutOption = Path("data/captions"),
    per_shard: PerShardOption = 10_000,
    column: Annotated[str, typer.Option(help="Of a table: where the captions stand.")] = "caption",
) -> None:
    """Captions, for distilling a text-conditional teacher (data source `caption_shards`)."""
    from fpd_train.data.caption_tables import table_captions
    from fpd_train.data.write_shards import caption_samples, write_shards

    is_table = file.suffix.lower() in (".csv", ".tsv", ".parquet")
    _wrote(out, write_shards(table_captions(file, column) if is_table else caption_samples(file), out, per_shard))


@shards_app.command("folders")
def shards_folders(
    root: Annotated[Path, typer.Argument(help="A folder of pictures for each class, as ImageNet's train and val.")],
    out: OutOption = Path("data/images"),
    size: Annotated[int, typer.Option(min=1, help="Side in pixels; the middle of a picture is kept.")] = 256,
    kind: Annotated[Literal["jpg", "png"], typer.Option(help="How pictures are stored.")] = "jpg",
    per_shard: PerShardOption = 4000,
) -> None:
    """Pictures with classes, for training a teacher or a discriminator (data source `image_shards`)."""
    from fpd_train.data.image_folders import class_names, folder_samples
    from fpd_train.data.write_shards import write_shards

    _wrote(out, write_shards(folder_samples(root, size, kind), out, per_shard))
    print(f"num_classes {len(class_names(root))}, labels in the order of the folders' names")


@shards_app.command("check")
def shards_check(
    folder: Annotated[str, typer.Argument(help="As `data.folder`: a folder, a pattern, a URL.")],
    part: Annotated[list[Part], typer.Option(help="What every sample must have; repeatable.")] = [Part.CAPTIONS],  # noqa: B006
    allow: Annotated[list[str], typer.Option(help="Schemes of a URL: http, https, s3, gs.")] = [],  # noqa: B006
) -> None:
    """Walk and read every sample: counts, bad ones by kind, uniform white borders. Ends with 2 if any is bad."""
    from rich.console import Console

    from fpd_core.track import bars
    from fpd_train.data.check_shards import Checked, check
    from fpd_train.data.places import check_schemes, find_shards

    check_schemes(folder, allow)
    places, checked = find_shards(folder, allow), Checked()
    with bars(Console(stderr=True))("checking shards", len(places)) as advance:
        for line in check(places, [one.value for one in part], checked):
            if line:
                print(line)
            else:
                advance(1)
    print(f"{folder}: {len(places)} shards")
    for line in checked.report():
        print(line)
    if checked.bad:
        raise typer.Exit(2)


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
