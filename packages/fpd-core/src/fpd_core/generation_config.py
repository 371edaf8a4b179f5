"""What an exported student says of itself besides its sizes: how it is sampled, what its training saw."""

from typing import Literal

from pydantic import Field

from fpd_core.config import Config, Guidance, MaskShare, Name, Number, Share, Size, Temperature
from fpd_core.schedules import RevealRule


class GenerationConfig(Config):
    """How a student is sampled: where it starts must be what it was trained with, and one of more steps, too."""

    init_mask_ratio: MaskShare = Field(0.9, description="r_init, share of [MASK] in z_init.")
    embedding_noise: Share = Field(0.0, description="σ of the noise on the token embeddings.")
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


class TrainingConfig(Config):
    """What whoever judges a student must know of its training."""

    encoders: tuple[Name, ...] = Field(
        description="Networks that the loss compared images with, `pixels` where it compared pixels."
    )
