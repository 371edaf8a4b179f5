"""What the text-conditional families share: prompts become features once, the empty prompt is the null condition."""

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import Condition, EncodedCaptions, PromptCondition, TextCondition
from fpd_core.config import Whole
from fpd_core.hashing import hash_tensors
from fpd_core.networks.clip_text import ClipText
from fpd_core.networks.scene_text import SceneText
from fpd_core.teachers.teacher import Teacher, TeacherConfig

NULL_PROMPT = ""


class TextTeacherConfig(TeacherConfig):
    """Base of a text-conditional family's section."""

    caption_cache: Whole = Field(
        0,
        ge=0,
        le=10**7,
        description="Captions whose text features stay in the device's memory, the longest unused leaving first; 0 "
        "reads every caption of every batch.",
    )


class CaptionCache:
    """Features of the captions used last. The text tower is frozen, so a caption determines them.

    Captions are read one by one: kernels may round a caption differently in a batch of another size, and what is kept
    must not depend on the company in which it was first read.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: dict[tuple[str, torch.device], TextCondition] = {}

    def __call__(
        self, prompts: Sequence[str], device: torch.device, encode: Callable[[Sequence[str]], TextCondition]
    ) -> TextCondition:
        """Features of B captions, by `encode` where none are kept. Raises ValueError: `encode` refuses one."""
        found = {}
        for prompt in dict.fromkeys(prompts):
            kept = self._kept.pop((prompt, device), None)
            found[prompt] = self._kept[prompt, device] = encode([prompt]) if kept is None else kept
        for oldest in list(self._kept)[: max(0, len(self._kept) - self.size)]:
            del self._kept[oldest]
        return TextCondition.cat([found[prompt] for prompt in prompts])


class TextConditionalTeacher(Teacher):
    """A teacher whose conditions are captions read by a frozen text tower.

    Attributes:
        captions: keeps text features; of size 0 every batch is read as a whole.
    """

    text: ClipText | SceneText
    num_classes = None

    def __init__(self) -> None:
        super().__init__()
        self.captions = CaptionCache(0)
        self._null: TextCondition | None = None
        self._tower: str | None = None

    @property
    def tower(self) -> str:
        """SHA-256 of what decides a caption's features: the family, the tower's settings and weights."""
        if self._tower is None:
            settings = [type(self).__name__, self.architecture()["text"]]
            self._tower = hash_tensors(self.text.state_dict(), json.dumps(settings, sort_keys=True))
        return self._tower

    @abstractmethod
    def read(self, ids: Tensor) -> TextCondition:
        """Features of B captions given as the tower's token ids [B, T] int64."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextCondition:
        """Features of B captions, on the teacher's device."""
        return self.read(self.text.tokenize(prompts).to(self.device))

    def condition(self, wanted: Any) -> Condition:
        if isinstance(wanted, EncodedCaptions):
            if wanted.tower != self.tower:
                raise ValueError(
                    f"these text features are of the tower {wanted.tower[:12]}, this teacher's is {self.tower[:12]}; "
                    "write them anew with `fpd-train encode` and this config"
                )
            return wanted.features.to(self.device)
        if isinstance(wanted, TextCondition):
            return wanted.to(self.device)
        prompts = [wanted] if isinstance(wanted, str) else wanted
        prompts = prompts.prompts if isinstance(prompts, PromptCondition) else prompts
        if isinstance(prompts, Tensor) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("this model draws what a text describes; give a prompt or a list of prompts")
        return self.captions(prompts, self.device, self.encode) if self.captions.size else self.encode(list(prompts))

    def null_condition(self, condition: Condition) -> Condition:
        if self._null is None or self._null.tokens.device != self.device:
            self._null = self.encode([NULL_PROMPT])
        return self._null.repeat_interleave(len(condition))
