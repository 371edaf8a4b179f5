"""Images of prompts as files, made by a system; an interrupted run goes on where it stopped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fpd_core.atomic import replacing, write_text
from fpd_core.untrusted import read_json
from fpd_eval.images.plan import PromptPlan
from fpd_eval.runtime.progress import Track
from fpd_eval.systems.system import System

RECORD = "generation.json"
JPEG_QUALITY = 75  # Pillow's default, with which Di[M]O saved the images it scored


def write_images(
    system: System,
    prompts: Sequence[str],
    files: Sequence[Path],
    *,
    record: Path,
    seed: int,
    batch_size: int,
    track: Track,
) -> None:
    """Write the image of `prompts[i]` to `files[i]`; batches whose files are all there are left alone.

    Args:
        files: `.png`, or `.jpg` at quality 75. Each appears whole or not at all.
        record: folder that gets `generation.json`: who made the images, how, of which prompts.

    Raises:
        ValueError: the folder holds images of another system, of other prompts or settings.
    """
    _keep_record(record, system, {"seed": seed, "batch_size": batch_size, "prompts": list(prompts)})
    images = system.image_set(PromptPlan(prompts=tuple(prompts), batch_size=batch_size, seed=seed))
    with track(system.name, len(files)) as advance:
        for start in images.starts:
            part = slice(start, start + batch_size)
            if not all(file.exists() for file in files[part]):
                for file, image in zip(files[part], images.batch(start), strict=True):
                    _save(Image.fromarray(image.permute(1, 2, 0).numpy()), file)
            advance(len(files[part]))


def _keep_record(folder: Path, system: System, plan: dict[str, Any]) -> None:
    found = folder / RECORD
    made: dict[str, Any] = {"system": system.name, "fingerprint": system.fingerprint, "steps": system.steps}
    made |= {"settings": system.settings, **plan}
    if not found.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds files already but no {RECORD}; generate into an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(found, json.dumps(made, indent=1) + "\n")
        return
    stored = read_json(found)
    changed = [key for key in made if key != "system" and stored.get(key) != json.loads(json.dumps(made[key]))]
    if changed:
        raise ValueError(f"{folder} holds images made with another {changed[0]} ({found}); choose another folder")


def _save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        image.save(partial, "jpeg" if file.suffix == ".jpg" else "png", quality=JPEG_QUALITY)
