"""The record of a folder of images: everything that decides them, one file per folder, checked before any is made."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from fpd_eval.geneval.layout import claim, read_claim
from fpd_eval.geneval.prompts import Record
from fpd_eval.runtime.cache import hash_file, hash_json
from fpd_eval.systems.system import System

GENERATION = "generation.json"


def claim_images(
    folder: Path,
    system: System,
    prompts: Sequence[Record],
    *,
    samples: int,
    seed: int,
    checkpoints: Sequence[Path],
) -> None:
    """Note in `folder` who fills it and how, or find that noted already.

    `negative_prompt` is what the unguided half of every step sees, None where no guidance is used. Versions and weight
    files are part of the record: images of two of them never share a folder.

    Raises:
        ValueError: the folder's record differs, or it holds images without one.
    """
    # Looked at before the record is read: another rank may write both, the record first.
    is_filled = folder.is_dir() and any(path.is_dir() for path in folder.iterdir())
    if read_claim(folder / GENERATION) is None and is_filled:
        raise ValueError(f"{folder} holds images but no {GENERATION} of how they were made; choose another --out")
    is_guided = system.network_evaluations > system.steps
    record = {
        "system": system.name,
        "steps": system.steps,
        "negative_prompt": "" if is_guided else None,
        **system.settings,
        "seed": seed,
        "samples": samples,
        "prompts": len(prompts),
        "prompts_sha256": hash_json(list(prompts)),
        "checkpoint_sha256": {path.name: hash_file(path) for path in checkpoints},
        "fpd_eval": version("fpd-eval"),
        "torch": torch.__version__,
        # Last, because it differs with every other setting: messages name the first that differs.
        "fingerprint": system.fingerprint,
    }
    claim(folder / GENERATION, record)
