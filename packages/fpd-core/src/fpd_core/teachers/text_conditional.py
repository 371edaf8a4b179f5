"""What the text-conditional families share: prompts become features once, the empty prompt is the null condition."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpd_core.conditioning import Condition, PromptCondition, TextCondition
from fpd_core.networks.clip_text import ClipText
from fpd_core.networks.scene_text import SceneText
from fpd_core.teachers.teacher import Teacher

NULL_PROMPT = ""


class TextConditionalTeacher(Teacher):
    """A teacher whose conditions are captions read by a frozen text tower."""

    text: ClipText | SceneText
    num_classes = None

    def __init__(self) -> None:
        super().__init__()
        self._null: TextCondition | None = None

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> TextCondition:
        """Features of B captions, on the teacher's device."""

    def condition(self, wanted: Any) -> Condition:
        if isinstance(wanted, TextCondition):
            return wanted.to(self.device)
        prompts = [wanted] if isinstance(wanted, str) else wanted
        prompts = prompts.prompts if isinstance(prompts, PromptCondition) else prompts
        if isinstance(prompts, Tensor) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("this model draws what a text describes; give a prompt or a list of prompts")
        return self.encode(list(prompts))

    def null_condition(self, condition: Condition) -> Condition:
        if self._null is None or self._null.tokens.device != self.device:
            self._null = self.encode([NULL_PROMPT])
        return self._null.repeat_interleave(len(condition))

    @torch.no_grad()
    def _features(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """What the tower returns: CLIP's penultimate, pooled and final states, or words, their mean and a plan."""
        return self.text(self.text.tokenize(prompts).to(self.device))  # type: ignore[no-any-return]
