"""Fixed-Point Distillation for masked-diffusion image generators: the algorithms and the networks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fpd_core.generator import Generator, load_generator

__all__ = ["Generator", "load_generator"]


def __getattr__(name: str) -> Any:
    """The public names on first use: importing torch takes seconds, and command-line help needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fpd_core import generator

    return vars(generator)[name]
