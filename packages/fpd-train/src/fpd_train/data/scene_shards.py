"""Scenes as WebDataset samples: caption (.txt), what is drawn (.json) and picture (.png)."""

import io
import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fpd_core.scenes import Drawing, Scene
from fpd_train.data.scenes import Scenes


def scene_samples(config: Scenes, count: int, seed: int) -> Iterator[dict[str, object]]:
    """The first `count` scenes of a seed, the same that the data source `scenes` draws. Held-out prompts never come.

    Raises:
        CheckpointError: no sprite sheet in `config.sprites`.
    """
    drawing = Drawing(config.sprites)
    for number in range(count):
        scene = config.scene(seed, number)
        yield {
            "__key__": f"{number:08d}",
            "txt": scene.record["prompt"].encode(),
            "json": json.dumps(describe(scene)).encode(),
            "png": _png(drawing(scene)),
        }


def describe(scene: Scene) -> dict[str, object]:
    """GenEval's record with `objects`: class, colour (null: natural) and box in pixels."""
    objects = [{"class": placed.name, "color": placed.color, "box": list(placed.box)} for placed in scene.objects]
    return scene.record | {"objects": objects, "background": scene.background}


def _png(image: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.round(image.transpose(1, 2, 0) * 255).astype(np.uint8)).save(buffer, format="png")
    return buffer.getvalue()
