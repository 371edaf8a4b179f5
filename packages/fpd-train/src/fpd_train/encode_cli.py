"""`fpd-train encode`: the text features of captions, once instead of in every step that meets them."""

from pathlib import Path
from typing import Annotated

import typer


def encode_command(
    config: Annotated[Path, typer.Option("--config", help="A run's: its teacher reads, its data is read.")],
    out: Annotated[Path, typer.Option(help="Folder to create, or to go on with.")] = Path("data/encoded"),
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override one value.")] = [],  # noqa: B006
    synthetic_weights: Annotated[
        bool, typer.Option("--synthetic-weights", help="Fill the full-size public networks by formula.")
    ] = False,
) -> None:
    """Write the text features of a run's captions to shards, for every later run with the same text tower.

    The same command goes on where a killed one stopped. Train on them with
    `--set 'data={"name": "encoded_captions", "folder": "data/encoded"}'`: the results of a run with
    `method.teacher.caption_cache` are reproduced to the bit on the same kind of device.
    """
    import torch
    from rich.console import Console

    from fpd_core.devices import require_device
    from fpd_core.teachers import load_teacher
    from fpd_core.teachers.text_conditional import TextConditionalTeacher, TextTeacherConfig
    from fpd_core.track import bars
    from fpd_core.weights import require
    from fpd_train.config import load_config
    from fpd_train.config_tree import read_tree, synthetic_overrides
    from fpd_train.data.caption_shards import CaptionShards
    from fpd_train.data.image_shards import CaptionedImageShards
    from fpd_train.data.write_encoded import require_positions, write_encoded

    synthetic = synthetic_overrides(read_tree(config, set_)) if synthetic_weights else []
    run = load_config(config, [*set_, *(one for one in synthetic if not one.startswith("data="))])
    if not isinstance(run.data, CaptionShards | CaptionedImageShards):
        raise ValueError(f"encode reads caption_shards or captioned_image_shards, and data.name is {run.data.name!r}")
    section = getattr(run.method, "teacher", None)
    if not isinstance(section, TextTeacherConfig):
        raise ValueError(f"encode needs a teacher that reads captions, and method {run.method.name!r} has none")
    require_positions(run.data)
    require_device(run.device)
    require(section.required_files())
    entries, tally = run.data.indexed()
    teacher = load_teacher(section)
    assert isinstance(teacher, TextConditionalTeacher)
    cuda = run.device == "cuda" or (run.device == "auto" and torch.cuda.is_available())
    teacher.to("cuda" if cuda else "cpu")
    written = 0
    with bars(Console(stderr=True))("encoding captions", sum(entry.count for entry in entries)) as advance:
        for done, is_new in write_encoded(run.data, teacher, out, entries, tally):
            written += done if is_new else 0
            advance(done)
    for line in tally.report():
        print(line)
    size = sum(path.stat().st_size for path in out.glob("*.tar"))
    print(f"{out}: {written} captions encoded, {len(entries)} shards, {size / 1e9:.3g} GB")
