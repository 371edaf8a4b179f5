"""The loop of a discrete diffusers pipeline around a student: condition, tokens, pictures."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.generator import Generator
from fpd_core.pipeline import schedulers
from fpd_core.pipeline.discrete import DiscreteScheduler
from fpd_core.pipeline.student_model import StudentModel
from fpd_core.pipeline_files import SCHEDULERS, scheduler_config


class FpdPipeline(DiffusionPipeline):
    """Class labels or prompts -> images, in one step or a few.

    Attributes:
        student: the networks.
        scheduler: any of `fpd_core.pipeline.schedulers`; by default what samples as the student was exported.
    """

    model_cpu_offload_seq = "student"  # type: ignore[assignment]  # None there, for subclasses to set
    student: StudentModel
    scheduler: DiscreteScheduler

    def __init__(self, student: StudentModel, scheduler: DiscreteScheduler) -> None:
        super().__init__()
        self.register_modules(student=student, scheduler=scheduler)  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, generator: Generator) -> "FpdPipeline":
        """The pipeline of an opened student: no code of its folder is read."""
        how = generator.generation
        scheduler = getattr(schedulers, SCHEDULERS[how.sampler])
        return cls(StudentModel(generator), scheduler(**scheduler_config(how, generator.model.mask_id)))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | Tensor | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw images.

        Args:
            prompt, class_labels: what is shown, B of them; exactly one is given, as the student's family understands.
            num_images_per_prompt: M pictures of each, in a row.
            num_inference_steps: None is what the student was exported with.
            guidance_scale: g of u + g (c - u) in every step; None is the student's own, which may move.
            generator: on the pipeline's device; with one seeded as `Generator.generate`'s seed the images are equal.
                B M generators draw the tokens one by one, each as if it were alone.
            output_type: PIL images, an array [B M, H, W, 3], a tensor [B M, 3, H, W], or ("latent") tokens [B M, L].

        Returns:
            `.images`; a tuple of it where not `return_dict`.

        Raises:
            ValueError: both or none of prompt and labels, labels or steps out of range, a generator of another device,
                or a scheduler of another mask token.
        """
        if (prompt is None) == (class_labels is None):
            raise ValueError("give either prompt or class_labels")
        student = self.student.generator
        if self.scheduler.mask_token_id != student.model.mask_id:
            raise ValueError(
                f"the scheduler's mask_token_id {self.scheduler.mask_token_id} is not the student's, "
                f"{student.model.mask_id}"
            )
        condition = student.model.condition(class_labels if prompt is None else prompt)
        condition = condition.repeat_interleave(num_images_per_prompt)
        draw = partial(self._tokens, student, steps=num_inference_steps, guidance_scale=guidance_scale)
        if generator is None or isinstance(generator, torch.Generator):
            tokens = draw(condition, generator)
        elif len(generator) != len(condition):
            raise ValueError(f"{len(generator)} generators were given for {len(condition)} images")
        else:
            tokens = torch.cat([draw(condition[i : i + 1], one) for i, one in enumerate(generator)])
        images: Any = tokens
        if output_type != "latent":
            decoded = student.decode(tokens, condition)
            images = VaeImageProcessor(do_normalize=False).postprocess(decoded, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _tokens(
        self,
        student: Generator,
        condition: Condition,
        generator: torch.Generator | None,
        *,
        steps: int | None,
        guidance_scale: float | None,
    ) -> Tensor:
        model, scheduler = student.model, self.scheduler
        if generator is not None and generator.device.type != model.device.type:
            raise ValueError(f"the generator is on {generator.device}, the pipeline on {model.device}: make one there")
        scheduler.set_timesteps(steps, device=model.device)
        if scheduler.num_inference_steps > model.seq_len:
            raise ValueError(
                f"num_inference_steps must be between 1 and the {model.seq_len} tokens of an image, "
                f"got {scheduler.num_inference_steps}"
            )
        shape = (len(condition), model.seq_len, model.codebook_size)
        sample = scheduler.initial_sample(*shape, generator, model.device)
        with self.progress_bar(total=scheduler.num_inference_steps) as bar:
            for t in scheduler.timesteps:
                own = student.generation.guidance_at(scheduler.progress(t))
                scale = own if guidance_scale is None else guidance_scale
                logits = student.guided_logits(sample, condition, scale, generator)
                sample = scheduler.step(logits, t, sample, generator=generator, return_dict=False)[0]
                bar.update()
        return sample
