"""Students as diffusers know them: `FpdPipeline`, its network and its schedulers. Needs `fpd-core[diffusers]`."""

from fpd_core.pipeline.discrete import DiscreteSchedulerOutput
from fpd_core.pipeline.pipeline import FpdPipeline
from fpd_core.pipeline.schedulers import (
    AncestralScheduler,
    ConfidenceScheduler,
    HaltonScheduler,
    OneStepScheduler,
    SourceScheduler,
)
from fpd_core.pipeline.student_model import StudentModel

__all__ = [
    "AncestralScheduler",
    "ConfidenceScheduler",
    "DiscreteSchedulerOutput",
    "FpdPipeline",
    "HaltonScheduler",
    "OneStepScheduler",
    "SourceScheduler",
    "StudentModel",
]
