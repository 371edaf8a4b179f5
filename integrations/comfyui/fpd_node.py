"""A ComfyUI node that draws with an fpd student: copy it into `ComfyUI/custom_nodes` and `pip install fpd-core`.

Nothing but the student's settings and numbers is read from its folder or repository; no code in it is run.
"""

from functools import lru_cache
from typing import Any

import torch

from fpd_core import Generator, load_generator


@lru_cache(maxsize=2)
def _opened(checkpoint: str, revision: str, device: str) -> Generator:
    """Kept between runs of a graph: only the seed changes, most of the time."""
    return load_generator(checkpoint, revision=revision or None, device=device)


class FpdGenerate:
    """Checkpoint, class or prompt, seed -> images."""

    CATEGORY = "fpd"
    FUNCTION = "generate"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    DESCRIPTION = "Images of a Fixed-Point Distillation student in one step, or in a few."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802  # ComfyUI's name
        """The inputs, as ComfyUI shows them."""
        return {
            "required": {
                "checkpoint": ("STRING", {"default": "", "tooltip": "Folder of a student, or owner/name of the hub."}),
                "prompt": ("STRING", {"default": "", "multiline": True, "tooltip": "Of a student that reads text."}),
                "class_label": ("INT", {"default": 0, "min": 0, "max": 2**20 - 1, "tooltip": "Of any other."}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True}),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 256}),
            },
            "optional": {
                "steps": ("INT", {"default": 0, "min": 0, "max": 1024, "tooltip": "0: as it was exported."}),
                "revision": ("STRING", {"default": "", "tooltip": "Branch, tag or commit of a repository."}),
                "device": (["auto", "cpu", "cuda"], {"default": "auto"}),
            },
        }

    def generate(
        self,
        checkpoint: str,
        prompt: str,
        class_label: int,
        seed: int,
        batch_size: int,
        steps: int = 0,
        revision: str = "",
        device: str = "auto",
    ) -> tuple[torch.Tensor]:
        """Images [B, H, W, 3] float32 in [0, 1] on the CPU, as ComfyUI's IMAGE is.

        Raises:
            ValueError: no such student, label or number of steps; the message says what would be right.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        student = _opened(checkpoint.strip(), revision.strip(), device)
        student = student.sampled(steps=steps) if steps else student
        wanted = prompt if student.model.num_classes is None else class_label
        images = student.generate([wanted] * batch_size, seed=seed)
        return (images.permute(0, 2, 3, 1).contiguous().cpu(),)


NODE_CLASS_MAPPINGS = {"FpdGenerate": FpdGenerate}
NODE_DISPLAY_NAME_MAPPINGS = {"FpdGenerate": "FPD one-step generator"}
