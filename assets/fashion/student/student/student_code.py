"""The network of an fpd student for diffusers; `pip install "fpd-core[diffusers]"` holds the rest."""

from fpd_core.pipeline import (
    StudentModel,
)

__all__ = ["StudentModel"]
