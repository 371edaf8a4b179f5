"""The weight files of a suite's judges, found without opening them: before the first image is made."""

from pathlib import Path

from fpd_core.config import CheckpointError
from fpd_eval.extractors.weights import EVAL_WEIGHTS, locate

BUNDLED = "scenes"  # how the suites of the bundled world begin


def detector_file(override: Path | None) -> Path:
    """Mask2Former's file: `override`, or whichever of the two published ones is there."""
    is_second = override is None and EVAL_WEIGHTS["mask2former_mmdet2"].is_present
    return locate("mask2former_mmdet2" if is_second else "mask2former_mmdet", override)


def colors_file(override: Path | None) -> Path:
    """CLIP's file. Raises CheckpointError: nothing is there."""
    return locate("clip_vitl14_openai", override)


def scene_judge(override: Path | None) -> Path:
    """The weight folder of the bundled world's judge. Raises CheckpointError: nothing is there."""
    return locate("scene_judge", override)


def require_judges(suite: str, detector: Path | None, colors: Path | None) -> None:
    """Raises CheckpointError: files of the judges are absent; names all, and where they are published."""
    lacks: list[str] = []
    official = [(detector_file, detector), (colors_file, colors)]
    for find, override in [(scene_judge, detector)] if suite.startswith(BUNDLED) else official:
        try:
            find(override)
        except CheckpointError as error:
            lacks.append(str(error))
    if lacks:
        raise CheckpointError("\n".join(lacks))
