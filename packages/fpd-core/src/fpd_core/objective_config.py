"""The settings of the loss: which of its parts there are, and what each has a use for."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fpd_core.config import Config, MaskShare, Number, Share, Size, Temperature
from fpd_core.distances import AnyDistanceConfig
from fpd_core.distances.drift import DriftConfig
from fpd_core.drift import Normalisation, OwnTarget, Weighting, check_normalisation
from fpd_core.guidance import RefinementGuidance
from fpd_core.reference import SamplesConfig
from fpd_core.refine import RemaskConfig

OF_THE_DISTANCE = ("bandwidths", "weighting", "own_target", "normalisation")
OF_THE_REFINEMENT = ("remask", "refinements", "guidance_scale", "temperature", "draft_source")


class ObjectiveConfig(Config):
    """The loss. Defaults are the paper's where it speaks; `docs/method.md` lists what was chosen where it does not."""

    init_mask_ratio: MaskShare = Field(0.9, description="r_init, share of [MASK] in z_init; the rest is random.")
    embedding_noise: Share = Field(0.0, description="σ of the noise on the student's token embeddings.")
    remask: RemaskConfig = Field(RemaskConfig(), description="π: which share the teacher refills, in how many passes.")
    refinements: Size = Field(
        1,
        description="Refinements in a row, each at an r of its own, before drafts are compared with the last one. The "
        "fixed point stays; 1 as in the paper.",
    )
    guidance_scale: RefinementGuidance | None = Field(
        None,
        description="g of the refining teacher, u + g (c - u): a number (1 is no guidance), `sampler` (what the "
        "teacher samples with), numbers at both ends of r, or null (the family's rule).",
    )
    temperature: Temperature | None = Field(
        None, description="Divides the refining teacher's logits; null is the family's rule."
    )
    estimator: Literal["straight_through", "soft"] = Field(
        "straight_through", description="`soft` decodes the expected embedding and never sees a real token."
    )
    draft_source: Literal["student", "random"] = Field(
        "student", description="What the teacher refines; `random` are uniform codes."
    )
    reference: Literal["refinement", "samples"] = Field(
        "refinement",
        description="What drafts are compared with: their refinement, or samples of the teacher, drawn once; then "
        "it is not asked again.",
    )
    samples: SamplesConfig = Field(SamplesConfig(), description="Those samples; `nystrom` has its landmarks from them.")
    distance: AnyDistanceConfig = Field(DriftConfig(), description="Between the two; `name` says which.")
    bandwidths: tuple[Annotated[Number, Field(ge=1e-4, le=1e4)], ...] = Field(
        (0.02, 0.05, 0.2), min_length=1, max_length=32, description="h, in mean pairwise distances."
    )
    weighting: Weighting = Field(
        "plain", description="Of the drift: `cross` also weighs attraction by the sum of repulsion and back."
    )
    own_target: OwnTarget = Field(
        "keep", description="`mask` hides each sample's own refinement from it: unbiased at the fixed point."
    )
    normalisation: Normalisation = Field(
        "joint",
        description="`corrected` takes the O(1/n) bias out of the drift's weighted means; `sharp` makes each "
        "bandwidth's drift the gradient of a potential, with weighting `plain`.",
    )

    code_chunk: Size | None = Field(
        None,
        description="Codes at a time in sampling, entropy and eq. 8, to save memory; null: all, or 8192 of more.",
    )

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        check_normalisation(self.normalisation, self.weighting)
        return self

    @model_validator(mode="after")
    def _has_a_use_for_all(self) -> Self:
        unused = dict.fromkeys(set(OF_THE_DISTANCE) - set(self.distance.uses), f"distance {self.distance.name!r}")
        if self.reference == "samples":
            unused |= dict.fromkeys((*OF_THE_REFINEMENT, "own_target"), "reference 'samples'")
        if not self.needs_samples:
            unused["samples"] = "reference 'refinement'"
        for name, what in sorted(unused.items()):
            if getattr(self, name) != (default := type(self).model_fields[name].default):
                raise ValueError(f"{name} is set, and {what} has no use for it; leave it at {default!r}")
        return self

    @property
    def needs_samples(self) -> bool:
        """Whether the teacher draws samples before the first step."""
        return self.reference == "samples" or self.distance.needs_samples
