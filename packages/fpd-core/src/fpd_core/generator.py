"""One-step generators: what distillation exports and users load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from fpd_core.checkpoints import CONFIG, CheckpointError, cast, load_network, read_config, save_folder
from fpd_core.conditioning import Condition
from fpd_core.config import Config, MaskShare, Share, Temperature, explain
from fpd_core.masking import initial_tokens
from fpd_core.ste import sample_tokens
from fpd_core.teachers import Teacher, rebuild


class GenerationConfig(Config):
    """How the one forward pass starts; must be what the student was trained with, except the temperature."""

    init_mask_ratio: MaskShare = Field(0.9, description="r_init, share of [MASK] in z_init.")
    embedding_noise: Share = 0.0
    temperature: Temperature = Field(1.0, description="Divides the logits.")


class Generator:
    """Conditions -> images in one forward pass of the network.

    Attributes:
        model: the family's modules, with the student's weights in `model.network`.
        generation: how sampling starts.
        teacher_config: the config of the teacher it was distilled from.
    """

    def __init__(self, model: Teacher, generation: GenerationConfig, teacher_config: Mapping[str, Any]) -> None:
        self.model, self.generation, self.teacher_config = model, generation, dict(teacher_config)

    @classmethod
    def untrained(cls, teacher: Teacher, generation: GenerationConfig) -> "Generator":
        """The student at initialisation: the teacher's own weights asked to do it in one step, without guidance."""
        return cls(teacher, generation, {})

    @property
    def init_mask_ratio(self) -> float:
        return self.generation.init_mask_ratio

    def at_temperature(self, temperature: float) -> "Generator":
        """The same networks, sampled at another temperature. Raises ConfigError: it is not a sensible one."""
        try:
            generation = GenerationConfig.model_validate(self.generation.model_dump() | {"temperature": temperature})
        except ValidationError as error:
            raise explain(error, "generation") from None
        return Generator(self.model, generation, self.teacher_config)

    def to(self, device: torch.device | str) -> "Generator":
        """Moves the weights; returns self."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def generate(self, wanted: Any, seed: int = 0) -> Tensor:
        """Images of what is wanted.

        Args:
            wanted: one class label or a sequence of them (a prompt or several for a text-conditional family).
            seed: equal seeds and conditions give equal images.

        Returns:
            [B, 3, H, W] float32 in [0, 1].

        Raises:
            ValueError: a label out of range.
        """
        model = self.model
        condition = model.condition(wanted)
        tokens = self.tokens(condition, torch.Generator(model.device).manual_seed(seed))
        return model.decode(model.codebook[tokens], condition).clamp(0, 1)

    @torch.no_grad()
    def tokens(self, condition: Condition, random: torch.Generator) -> Tensor:
        """What is decoded: [B, L] codes of B conditions on the model's device."""
        model, how = self.model, self.generation
        z_init = initial_tokens(
            len(condition),
            model.seq_len,
            model.codebook_size,
            model.mask_id,
            how.init_mask_ratio,
            random,
            model.device,
        )
        logits = model.logits(z_init, condition, embedding_noise=how.embedding_noise, generator=random)
        return sample_tokens(logits, how.temperature, random)


def save_generator(
    folder: Path,
    teacher: Teacher,
    network: nn.Module,
    generation: GenerationConfig,
    teacher_config: Mapping[str, Any],
    card: str,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a student as a folder that opens anywhere: its own network plus the family's frozen parts."""
    frozen = {name: value for name, value in teacher.state_dict().items() if not name.startswith("network.")}
    student = {f"network.{name}": value for name, value in network.state_dict().items()}
    config = {
        "architecture": teacher.architecture(),
        "generation": generation.model_dump(),
        "teacher": dict(teacher_config),
    }
    save_folder(folder, config, cast(student | frozen, dtype), card)


def load_generator(path: str | Path) -> Generator:
    """Open an exported student.

    Raises:
        CheckpointError: the folder is absent, damaged, or its weights do not fit its config.
        ConfigError: written by an unknown family, or with settings that make no sense.
    """
    folder = Path(path)
    config = read_config(folder)
    missing = [key for key in ("architecture", "generation", "teacher") if key not in config]
    if missing:
        raise CheckpointError(f"{folder} is not a one-step generator: {CONFIG} lacks {', '.join(missing)}")
    if not isinstance(config["teacher"], dict):
        raise CheckpointError(f"{folder / CONFIG}: teacher must be a section, a config of the teacher")
    try:
        generation = GenerationConfig.model_validate(config["generation"])
    except ValidationError as error:
        raise explain(error, f"{folder / CONFIG}: generation") from None
    return Generator(load_network(folder, "architecture", rebuild), generation, config["teacher"])
