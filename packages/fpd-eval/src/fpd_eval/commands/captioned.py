"""What `clip-score` and `hps` share: images of captions made, scored by a protocol, and shown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpd_eval.commands.usage import AUTO_BATCH, batch_size_of, look_first, opened_device, require_images

if TYPE_CHECKING:
    import torch

    from fpd_eval.bench.bench import MetricResult
    from fpd_eval.runtime.progress import Track

SystemOption = Annotated[
    Path | None, typer.Option("--system", metavar="JSON", help="Makes the images that DIR still lacks.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of generated images.")]
GenerateOption = Annotated[
    int, typer.Option("--generate-batch", min=1, max=2**16, help="Images per call of the system; changes them.")
]
BatchOption = Annotated[
    str, typer.Option("--batch-size", metavar="auto|N", help="Images per call of the scoring model.")
]
Groups = Mapping[str, tuple[Sequence[Path], Sequence[str]]]


def generate(
    system: Path,
    texts: Sequence[str],
    files: list[Path],
    record: Path,
    device: "torch.device",
    *,
    seed: int,
    batch_size: int,
    track: "Track",
) -> None:
    """Make the missing files with the system of a JSON file."""
    from fpd_eval.systems import read_system
    from fpd_eval.systems.write_images import write_images

    loaded = read_system(system).load(device)
    write_images(loaded, texts, files, record=record, seed=seed, batch_size=batch_size, track=track)


def score(
    protocol: str,
    groups: Groups,
    weights: Path,
    *,
    batch_size: str,
    device: "torch.device",
    track: "Track",
    cache_dir: Path,
) -> "MetricResult":
    """The numbers of files and their captions, group by group."""
    from fpd_eval.bench.bench import Place, measure_images, open_bench
    from fpd_eval.images.pairs import captioned_files
    from fpd_eval.protocols import protocol_called
    from fpd_eval.runtime.cache import Cache

    images = captioned_files(groups, title=protocol, batch_size=batch_size_of(batch_size) or AUTO_BATCH, track=track)
    chosen = protocol_called(protocol).model_copy(update={"num_images": images.count})
    place = Place(Cache(cache_dir), device, track, weights={chosen.features: weights})
    found = measure_images(images, open_bench(chosen, place))
    assert found is not None  # one process
    return found


def measure(
    protocol: str,
    images: Path,
    prompts: Path,
    system: Path | None,
    weights: Path | None,
    *,
    num_images: int | None,
    max_images: int | None = None,
    seed: int,
    generate_batch: int,
    batch_size: str,
    device: str,
    cache_dir: Path,
) -> "MetricResult":
    """The numbers of images called as the captions of a file, of `max_images` at most; a system makes what lacks."""
    from rich.console import Console

    look_first(device)
    require_images(images, made_here=system is not None)

    from fpd_eval.extractors.weights import locate
    from fpd_eval.images.paired_files import find_paired
    from fpd_eval.images.prompts import read_prompts
    from fpd_eval.protocols import protocol_called
    from fpd_eval.runtime.progress import bars

    captions = read_prompts(prompts)
    wanted = captions.first(num_images)
    path = locate(protocol_called(protocol).features, weights)
    where, track = opened_device(device), bars(Console(stderr=True))
    if system:
        files = [images / f"{key}.png" for key in wanted.keys]
        generate(system, wanted.texts, files, images, where, seed=seed, batch_size=generate_batch, track=track)
    used = slice(max_images)
    pairs = {"": (find_paired(images, wanted.keys, spare=captions.keys)[used], wanted.texts[used])}
    return score(protocol, pairs, path, batch_size=batch_size, device=where, track=track, cache_dir=cache_dir)


def show(found: "MetricResult", as_json: bool, *, groups: Mapping[str, int] = {}) -> None:
    """Print the result for people or as JSON; `groups` are the sizes of those that have scores of their own."""
    import json

    from rich.console import Console
    from rich.table import Table

    values = {name: value for name, value in found.values.items() if not name.endswith("_std")}
    spread = {name: found.values[f"{name}_std"] for name in values if f"{name}_std" in found.values}
    [model] = found.extractors.values()
    if as_json:
        styles = {
            group: {"mean": values[name], "std": spread[name], "num_images": count}
            for group, count in groups.items()
            for name in spread
            if name.endswith(f"_{group}")
        }
        record = {"values": values, "num_images": found.num_images, "follows": found.protocol.source}
        print(json.dumps({**record, "model": model, "styles": styles}, indent=2))
        return
    console = Console()
    table = Table("metric", "value", "± of groups", title=f"{found.num_images} images", title_justify="left")
    for name, value in values.items():
        table.add_row(name, f"{value:.4f}", f"{spread[name]:.4f}" if name in spread else "")
    console.print(table)
    console.print(f"comparable with {found.protocol.source}", markup=False, highlight=False)
    console.print(found.machine.sentence(), markup=False, highlight=False, style="dim")
