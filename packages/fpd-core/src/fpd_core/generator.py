"""One-step and few-step generators: what distillation exports and users load."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from fpd_core.checkpoints import CONFIG, CheckpointError, cast, load_network, read_config, save_folder
from fpd_core.conditioning import Condition
from fpd_core.config import Config, Guidance, MaskShare, Name, Number, Share, Size, Temperature, explain
from fpd_core.few_steps import ancestral, by_confidence, progress, refill
from fpd_core.masking import initial_tokens
from fpd_core.rivals.redi import source_tokens
from fpd_core.schedules import RevealRule
from fpd_core.teachers import Teacher, rebuild

TRAINING = "training"


class GenerationConfig(Config):
    """How a student is sampled: where it starts must be what it was trained with, and one of more steps, too."""

    init_mask_ratio: MaskShare = Field(0.9, description="r_init, share of [MASK] in z_init.")
    embedding_noise: Share = 0.0
    temperature: Temperature = Field(1.0, description="Divides the logits.")
    steps: Size = Field(1, description="Forward passes of the network, two each where there is guidance.")
    sampler: Literal["refill", "ancestral", "confidence"] = Field(
        "refill",
        description="Of several steps: `refill` hides and redraws ever less of a draft, `ancestral` reveals at random, "
        "`confidence` what the network is surest of.",
    )
    guidance_scale: Guidance = Field(
        1.0, description="g of u + g (c - u) in the last step, rising linearly from 1 in the first; 1 is no guidance."
    )
    top_p: Number = Field(1.0, gt=0, le=1, description="Of `ancestral`: probability of the codes that may be drawn.")
    ranking_noise: Number = Field(
        4.5, ge=0, le=1e3, description="Of `confidence`: Gumbel noise on the ranking; falls linearly to 0."
    )
    rule: RevealRule = Field("corrected", description="Of `confidence`: how many tokens each step fixes.")

    def guidance_at(self, progress: float) -> float:
        """g at `progress` in [0, 1] of the steps."""
        return 1 + (self.guidance_scale - 1) * progress


@runtime_checkable
class DrawsInputs(Protocol):
    """A network that reads random numbers beside its tokens."""

    def __call__(self, *inputs: Any, **drawn: Tensor) -> Tensor: ...

    def draw_inputs(self, batch: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Arguments of one forward pass by name; both guidance branches get the same."""
        ...


class TrainingConfig(Config):
    """What whoever judges a student must know of its training."""

    encoders: tuple[Name, ...] = Field(
        description="Networks that the loss compared images with, `pixels` where it compared pixels."
    )


class Generator:
    """Conditions -> images in one forward pass of the network.

    Attributes:
        model: the family's modules, with the student's weights in `model.network`.
        generation: how sampling starts.
        teacher_config: the config of the teacher it was distilled from.
        encoders: see `TrainingConfig`; None where nobody noted them.
    """

    def __init__(
        self,
        model: Teacher,
        generation: GenerationConfig,
        teacher_config: Mapping[str, Any],
        encoders: Sequence[str] | None = None,
    ) -> None:
        self.model, self.generation, self.teacher_config = model, generation, dict(teacher_config)
        self.encoders = None if encoders is None else tuple(encoders)

    @classmethod
    def untrained(cls, teacher: Teacher, generation: GenerationConfig) -> "Generator":
        """The student at initialisation: the teacher's own weights asked to do it in one step, without guidance."""
        return cls(teacher, generation, {})

    @property
    def init_mask_ratio(self) -> float:
        return self.generation.init_mask_ratio

    def at_temperature(self, temperature: float) -> "Generator":
        """The same networks, sampled at another temperature. Raises ConfigError: it is not a sensible one."""
        return self.sampled(temperature=temperature)

    def sampled(self, **changes: Any) -> "Generator":
        """The same networks, with other fields of `GenerationConfig`. Raises ConfigError: unknown, or not sensible."""
        try:
            generation = GenerationConfig.model_validate(self.generation.model_dump() | changes)
        except ValidationError as error:
            raise explain(error, "generation") from None
        return Generator(self.model, generation, self.teacher_config, self.encoders)

    @property
    def network_evaluations(self) -> int:
        """Forward passes per image."""
        scales = [self.generation.guidance_at(progress(k, self.generation.steps)) for k in range(self.generation.steps)]
        return sum(1 if scale == 1 else 2 for scale in scales)

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
            ValueError: a label out of range, or more steps than tokens.
        """
        condition = self.model.condition(wanted)
        tokens = self.tokens(condition, torch.Generator(self.model.device).manual_seed(seed))
        return self.model.decode(self.model.codebook[tokens], condition).clamp(0, 1)

    @torch.no_grad()
    def tokens(self, condition: Condition, random: torch.Generator) -> Tensor:
        """What is decoded: [B, L] codes of B conditions on the model's device. Raises ValueError: too many steps."""
        model, how = self.model, self.generation
        if how.steps > model.seq_len:
            raise ValueError(f"steps must be between 1 and the {model.seq_len} tokens of an image, got {how.steps}")
        scores, shape = partial(self._scores, condition, random), (len(condition), model.seq_len)
        if how.sampler == "ancestral":
            start = torch.full(shape, model.mask_id, device=model.device)
            return ancestral(scores, start, how.steps, mask_id=model.mask_id, top_p=how.top_p, generator=random)
        if how.sampler == "confidence":
            codes = torch.randint(model.codebook_size, shape, generator=random, device=model.device)
            uniform = torch.rand(shape, generator=random, device=model.device)
            start = source_tokens(codes, uniform, model.mask_id, how.init_mask_ratio)
            return by_confidence(
                scores,
                start,
                how.steps,
                mask_id=model.mask_id,
                ranking_noise=how.ranking_noise,
                rule=how.rule,
                generator=random,
            )
        start = initial_tokens(*shape, model.codebook_size, model.mask_id, how.init_mask_ratio, random, model.device)
        return refill(scores, start, how.steps, mask_id=model.mask_id, mask_share=how.init_mask_ratio, generator=random)

    def _scores(self, condition: Condition, random: torch.Generator, tokens: Tensor, progress: float) -> Tensor:
        """Logits [B, L, K] at `tokens`, guided and divided by the temperature."""
        model, how = self.model, self.generation
        network: Any = model.network
        if isinstance(network, DrawsInputs):
            network = partial(network, **network.draw_inputs(len(tokens), random))
        logits = model.guided_logits(
            tokens,
            condition,
            how.guidance_at(progress),
            network=network,
            embedding_noise=how.embedding_noise,
            generator=random,
        )
        return logits / how.temperature


def save_generator(
    folder: Path,
    teacher: Teacher,
    network: nn.Module,
    generation: GenerationConfig,
    teacher_config: Mapping[str, Any],
    card: str,
    dtype: torch.dtype = torch.float16,
    encoders: Sequence[str] | None = None,
) -> None:
    """Write a student as a folder that opens anywhere: its own network plus the family's frozen parts.

    Args:
        encoders: see `TrainingConfig`; None notes nothing.
    """
    frozen = {name: value for name, value in teacher.state_dict().items() if not name.startswith("network.")}
    student = {f"network.{name}": value for name, value in network.state_dict().items()}
    config = {
        "architecture": teacher.with_network(network).architecture(),
        "generation": generation.model_dump(),
        "teacher": dict(teacher_config),
    } | ({} if encoders is None else {TRAINING: {"encoders": sorted(set(encoders))}})
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
    training = None
    if TRAINING in config:  # folders older than the note lack it
        try:
            training = TrainingConfig.model_validate(config[TRAINING]).encoders
        except ValidationError as error:
            raise explain(error, f"{folder / CONFIG}: {TRAINING}") from None
    return Generator(load_network(folder, "architecture", rebuild), generation, config["teacher"], training)
