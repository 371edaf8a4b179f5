"""One-step and few-step generators: what distillation exports and users load."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import ValidationError
from torch import Tensor

from fpd_core.card import plain_card, read_card
from fpd_core.checkpoints import load_network
from fpd_core.conditioning import Condition
from fpd_core.config import explain
from fpd_core.exported import read_sections, save_generator
from fpd_core.few_steps import ancestral, by_confidence, progress, refill
from fpd_core.generation_config import GenerationConfig, TrainingConfig
from fpd_core.hub import local_folder, push_folder
from fpd_core.masking import initial_tokens
from fpd_core.rivals.redi import source_tokens
from fpd_core.teachers import Teacher, rebuild

__all__ = ["DrawsInputs", "GenerationConfig", "Generator", "TrainingConfig", "load_generator", "save_generator"]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@runtime_checkable
class DrawsInputs(Protocol):
    """A network that reads random numbers beside its tokens."""

    def __call__(self, *inputs: Any, **drawn: Tensor) -> Tensor: ...

    def draw_inputs(self, batch: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Arguments of one forward pass by name; both guidance branches get the same."""
        ...


class Generator:
    """Conditions -> images in one forward pass of the network.

    Attributes:
        model: the family's modules, with the student's weights in `model.network`.
        generation: how sampling starts.
        teacher_config: the config of the teacher it was distilled from.
        encoders: see `TrainingConfig`; None where nobody noted them.
        folder: where it was opened, for its model card; None where it was made in memory.
    """

    def __init__(
        self,
        model: Teacher,
        generation: GenerationConfig,
        teacher_config: Mapping[str, Any],
        encoders: Sequence[str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.model, self.generation, self.teacher_config = model, generation, dict(teacher_config)
        self.encoders, self.folder = None if encoders is None else tuple(encoders), folder

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
        return Generator(self.model, generation, self.teacher_config, self.encoders, self.folder)

    @property
    def network_evaluations(self) -> int:
        """Forward passes per image."""
        scales = [self.generation.guidance_at(progress(k, self.generation.steps)) for k in range(self.generation.steps)]
        return sum(1 if scale == 1 else 2 for scale in scales)

    def to(self, device: torch.device | str) -> "Generator":
        """Moves the weights; returns self."""
        self.model.to(device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write it as the folder that `load_generator` opens, in float16 where that loses nothing."""
        numbers = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        exact = all(torch.equal(value.half().to(value.dtype), value) for value in numbers)
        dtype = torch.float16 if exact else numbers[0].dtype
        card = (read_card(self.folder) if self.folder else "") or plain_card(self.teacher_config)
        how = (self.generation, self.teacher_config, card, dtype, self.encoders)
        save_generator(Path(folder), self.model, self.model.network, *how)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        commit_message: str = "Upload a one-step generator",
    ) -> str:
        """Upload it as the repository `owner/name`, which is made where it does not exist. Returns its address.

        Args:
            revision: branch, made where it does not exist; None is the main one.
            private: of a new repository; None is what the owner has set.

        Raises:
            CheckpointError: not logged in (`hf auth login`), not allowed, or no network.
        """
        with TemporaryDirectory() as folder:
            self.save(folder)
            return push_folder(Path(folder), repo_id, revision=revision, private=private, message=commit_message)

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
        return self.decode(tokens, condition)

    def decode(self, tokens: Tensor, condition: Condition) -> Tensor:
        """Images [B, 3, H, W] float32 in [0, 1] of codes [B, L]."""
        return self.model.decode(self.model.codebook[tokens], condition).float().clamp(0, 1)

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
        scale = self.generation.guidance_at(progress)
        return self.guided_logits(tokens, condition, scale, random) / self.generation.temperature

    def guided_logits(
        self, tokens: Tensor, condition: Condition, guidance_scale: float, random: torch.Generator | None = None
    ) -> Tensor:
        """The network's logits [B, L, K] at `tokens`, guided; `random` draws what it reads beside them."""
        model, how = self.model, self.generation
        network: Any = model.network
        if isinstance(network, DrawsInputs):
            network = partial(network, **network.draw_inputs(len(tokens), random))
        return model.guided_logits(
            tokens,
            condition,
            guidance_scale,
            network=network,
            embedding_noise=how.embedding_noise,
            generator=random,
        )


def load_generator(
    path: str | Path,
    *,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Generator:
    """Open an exported student. Nothing in the folder or repository is run: settings, numbers and text are read.

    Args:
        path: a folder, or (as text, where no folder is called `owner`) a repository `owner/name` of the hub.
        revision: branch, tag or commit of the repository.
        device: None is the CPU.
        dtype: of the weights: float32 (None), float16 or bfloat16. Images are float32 always.

    Raises:
        CheckpointError: the folder is absent, damaged, or its weights do not fit its config; or the hub did not give
            the repository.
        ConfigError: written by an unknown family, or with settings that make no sense.
        ValueError: another dtype, or a revision of a folder.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    folder = local_folder(path, revision)
    generation, teacher, encoders = read_sections(folder)
    model = load_network(folder, "architecture", rebuild).to(device=device, dtype=dtype)
    return Generator(model, generation, teacher, encoders, folder)
