"""Whether the weight files of extractors are there, before one is opened."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from fpd_core.config import CheckpointError
from fpd_eval.extractors.weights import EVAL_WEIGHTS, locate

# Extractor -> its entry in `EVAL_WEIGHTS` where called differently; None is a network that comes with a package.
WEIGHTS_OF = {
    "classifier": "fashion_classifier",
    "inception_tensorflow": "inception_torchscript",
    "inception_clean": "inception_torchscript",
    "inception_coco": "inception_fidelity",
    "pixels": None,
    "pixels_8x8": None,
    "efficientnet_lite0": None,
}


def require_weights(extractors: Iterable[str], overrides: Mapping[str, Path]) -> None:
    """Check that the files of all extractors are there before one is opened; `overrides` by extractor.

    Raises:
        CheckpointError: one or more are not; the message says where each is published.
    """
    lacks = []
    for extractor in extractors:
        name = WEIGHTS_OF.get(extractor, extractor)
        if name is not None and name in EVAL_WEIGHTS:
            try:
                locate(name, overrides.get(extractor))
            except CheckpointError as error:
                lacks.append(str(error))
    if lacks:
        raise CheckpointError("\n".join(dict.fromkeys(lacks)))
