"""fpd-core: Fixed-Point Distillation of masked-diffusion image generators into one-step generators."""

from fpd_core.generator import Generator, load_generator

__all__ = ["Generator", "load_generator"]
