"""Systems: anything that makes images from conditions."""

from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fpd_core import Generator
from fpd_core.conditioning import Condition
from fpd_core.sampling import Sampler, network_evaluations, sample
from fpd_core.teachers import Teacher
from fpd_eval.cache import hash_json, hash_tensors

Role = Literal["teacher", "untrained", "student", "baseline", "external"]
"""`baseline`: another method's generator on a family of fpd; `external`: made by other software."""


class System(Protocol):
    """What the metrics see of a generator.

    `settings` are its sampling options, for the record. `fingerprint` is the hash of everything that decides the
    images for a condition and a seed: weights and settings, not the name. `network_evaluations` counts passes of one
    image through the transformer.
    """

    name: str
    role: Role
    steps: int
    network_evaluations: int
    settings: dict[str, Any]

    @property
    def fingerprint(self) -> str: ...

    def images(self, condition: Condition, *, seed: int) -> Tensor:
        """[B, 3, H, W] in [0, 1], a function of the condition and the seed alone."""
        ...


class TeacherSystem:
    """A teacher decoding in `steps` steps.

    Args:
        guidance_scale: 1 is no guidance.

    Raises:
        ValueError: `steps` is not positive or more than the teacher has tokens.
    """

    role: Role = "teacher"

    def __init__(self, teacher: Teacher, *, steps: int, sampler: Sampler, guidance_scale: float) -> None:
        if not 1 <= steps <= teacher.seq_len:
            raise ValueError(f"steps must be between 1 and {teacher.seq_len}, the teacher's tokens; got {steps}")
        self.name, self.steps, self.num_classes = "teacher", steps, teacher.num_classes
        options = teacher.sampler.model_copy(update={"guidance_scale": guidance_scale})
        self.network_evaluations = network_evaluations(steps, options)
        self._teacher, self._sampler, self._guidance_scale = teacher, sampler, guidance_scale
        self.settings = {"sampler": sampler, **options.model_dump(mode="json", exclude_none=True)}
        self.fingerprint = hash_json(["teacher", hash_tensors(teacher.state_dict()), steps, self.settings])

    @torch.no_grad()
    def images(self, condition: Condition, *, seed: int) -> Tensor:
        device = self._teacher.device
        condition = self._teacher.condition(condition).to(device)
        tokens = sample(
            self._teacher,
            condition,
            self.steps,
            self._sampler,
            guidance_scale=self._guidance_scale,
            generator=torch.Generator(device).manual_seed(seed),
        )
        return self._teacher.decode(self._teacher.codebook[tokens], condition)


class StudentSystem:
    """A one-step generator: a distilled student, or the teacher's own weights used in one step ("untrained")."""

    steps, network_evaluations = 1, 1

    def __init__(self, name: str, generator: Generator, *, role: Role = "student") -> None:
        self.name, self.role, self._generator = name, role, generator
        self.num_classes = generator.model.num_classes
        self.settings = generator.generation.model_dump(mode="json")
        self.fingerprint = hash_json(["one step", hash_tensors(generator.model.state_dict()), self.settings])

    @torch.no_grad()
    def images(self, condition: Condition, *, seed: int) -> Tensor:
        return self._generator.generate(condition, seed=seed)
