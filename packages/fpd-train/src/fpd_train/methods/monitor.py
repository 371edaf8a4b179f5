"""Progress of a distillation on held-out drafts, with numbers that fall. The mathematics is `fpd_core.progress`."""

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from fpd_core.conditioning import Condition
from fpd_core.config import Config, Seed, Size, Steps, Whole
from fpd_core.lift import Lift, LiftConfig, Space, SpaceConfig
from fpd_core.objective import ObjectiveConfig, draw_draft, draw_target
from fpd_core.progress import energy_between, energy_of_pairs, recall
from fpd_core.teachers import AnyTeacherConfig
from fpd_core.teachers.teacher import Teacher
from fpd_train.methods.interface import Report
from fpd_train.methods.teacher_samples import CHUNK, chunks, kept_samples
from fpd_train.seeds import seeded

CACHE = "teacher_samples.json"
Features = dict[str, list[Tensor]]


class MonitorConfig(Config):
    """Measurements of the averaged student on held-out drafts; training is the same with and without."""

    every: Steps = Field(50, description="Steps between measurements; the first and the last step have one too.")
    samples: Whole = Field(128, ge=4, le=4096, description="Held-out drafts, the same in every measurement.")
    heldout_space: SpaceConfig | None = Field(
        None,
        description="Where the loss never looks; null: pixels, EfficientNet-Lite0 where the loss has pixels, nothing "
        "where it has both.",
    )
    teacher_samples: Whole = Field(
        128, ge=0, le=2048, description="Images of the teacher's sampler, drawn once, for recall; 0 does without."
    )
    teacher_steps: Size = Field(16, description="Steps of that sampler.")
    seed: Seed = Field(0, description="Of the held-out drafts and the teacher's images.")

    def heldout(self, seen: LiftConfig) -> SpaceConfig | None:
        """The space to look in beside those of the loss, if there is one. Raises ValueError: it is the loss's."""
        labels = [space.label for space in seen.spaces]
        if self.heldout_space is not None:
            if self.heldout_space.label in labels:
                raise ValueError(
                    f"monitor.heldout_space is {self.heldout_space.label}, where the loss is; "
                    "give a space that it never sees"
                )
            return self.heldout_space
        others = (SpaceConfig(space=space, grid=seen.grid) for space in ("pixel", "feature"))
        return next((space for space in others if space.label not in labels), None)


class Monitor:
    """Draws the same held-out drafts of a student each time it is asked, and measures them.

    Raises:
        ValueError: the teacher has fewer tokens than `teacher_steps`.
    """

    def __init__(
        self,
        config: MonitorConfig,
        objective: ObjectiveConfig,
        teacher: Teacher,
        teacher_config: AnyTeacherConfig,
        lift: Lift,
        lift_config: LiftConfig,
    ) -> None:
        if config.teacher_steps > teacher.seq_len:
            raise ValueError(f"monitor.teacher_steps {config.teacher_steps} is above the {teacher.seq_len} tokens")
        self._config, self._objective = config, objective
        self._teacher, self._teacher_config = teacher, teacher_config
        self._seen, other = lift_config.spaces, config.heldout(lift_config)
        with torch.random.fork_rng(devices=[]):  # a network takes random numbers before its weights are read
            unseen = {} if other is None else {other.label: Space(other).to(teacher.device)}
        self._spaces: Mapping[str, nn.Module] = {**lift.spaces, **unseen}
        self._reference: Features | None = None

    def is_due(self, step: int, steps: int) -> bool:
        """Whether step `step` of `steps`, counted from 1, has a measurement."""
        return step in (1, steps) or step % self._config.every == 0

    @torch.no_grad()
    def measure(self, student: nn.Module, cache: Path) -> Report:
        """Energy distance between drafts and refinements (π as at the start of the run) and, where there are teacher's
        samples, to them, per space; the share of re-masked tokens that the teacher changed; recall in the loss's space.
        """
        random = seeded("monitor", self._config.seed, device=self._teacher.device)
        condition = self._conditions(self._config.samples, random)
        drafts, refined, changed = [], [], []
        for part in chunks(condition):
            _, draft = draw_draft(student, self._teacher, part, self._objective, random)
            target = draw_target(self._teacher, part, draft, self._objective, generator=random)
            drafts.append(draft)
            refined.append(target.tokens)
            changed.append(target.changed)
        x, y = (self._features(torch.cat(tokens), condition) for tokens in (drafts, refined))
        report = {
            f"progress/{name}": _mean(
                [energy_of_pairs(*pair).coefficient for pair in zip(x[name], y[name], strict=True)]
            )
            for name in self._spaces
        }
        report["heldout/changed"] = float(torch.cat(changed).mean())
        return report | (self._against_teacher(x, cache) if self._config.teacher_samples > 3 else {})

    def _against_teacher(self, x: Features, cache: Path) -> Report:
        if self._reference is None:
            self._reference = self._features(*self._teacher_samples(cache / CACHE))
        pairs = {name: list(zip(self._reference[name], x[name], strict=True)) for name in self._spaces}
        report = {
            f"teacher/{name}": _mean([energy_between(*pair).coefficient for pair in found])
            for name, found in pairs.items()
        }
        return report | {
            "heldout/recall": _mean([recall(*pair) for space in self._seen for pair in pairs[space.label]])
        }

    def _conditions(self, count: int, random: torch.Generator) -> Condition:
        """Independent ones: drafts must be, for the energy distance to be unbiased."""
        classes, prompts = self._teacher.num_classes, self._teacher.example_prompts
        drawn = torch.randint(classes or len(prompts), (count,), generator=random, device=random.device)
        return self._teacher.condition(drawn if classes else [prompts[i] for i in drawn.tolist()])

    def _features(self, tokens: Tensor, condition: Condition) -> Features:
        found: dict[str, list[list[Tensor]]] = {name: [] for name in self._spaces}
        for part, codes in zip(chunks(condition), tokens.split(CHUNK), strict=True):
            images = self._teacher.decode(self._teacher.codebook[codes], part)
            for name, space in self._spaces.items():
                found[name].append(space(images))
        return {name: [torch.cat(block) for block in zip(*parts, strict=True)] for name, parts in found.items()}

    def _teacher_samples(self, path: Path) -> tuple[Tensor, Condition]:
        """Tokens of the teacher's images and their conditions."""
        random = seeded("monitor teacher", self._config.seed, device=self._teacher.device)
        condition = self._conditions(self._config.teacher_samples, random)
        section = self._config.model_dump(mode="json", include={"teacher_samples", "teacher_steps", "seed"})
        steps, asked = self._config.teacher_steps, {"monitor": section}
        return kept_samples(path, self._teacher, self._teacher_config, condition, steps, random, asked), condition


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
