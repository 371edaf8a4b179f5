"""The pipeline of an fpd student for diffusers; `pip install "fpd-core[diffusers]"` holds the rest."""

from fpd_core.pipeline import (
    FpdPipeline,
)

__all__ = ["FpdPipeline"]
