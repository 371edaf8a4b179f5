"""The runs' randomness is `fpd_core.seeds`, so that other loops can draw what a run draws."""

from fpd_core.seeds import seeded

__all__ = ["seeded"]
