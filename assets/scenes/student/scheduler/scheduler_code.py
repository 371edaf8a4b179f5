"""The schedulers of an fpd student for diffusers; `pip install "fpd-core[diffusers]"` holds the rest."""

from fpd_core.pipeline import (
    AncestralScheduler,
    ConfidenceScheduler,
    HaltonScheduler,
    OneStepScheduler,
    SourceScheduler,
)

__all__ = ["AncestralScheduler", "ConfidenceScheduler", "HaltonScheduler", "OneStepScheduler", "SourceScheduler"]
