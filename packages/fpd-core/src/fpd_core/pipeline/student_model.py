"""A student's networks as a component of a diffusers pipeline."""

from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin

from fpd_core.checkpoints import CONFIG
from fpd_core.generator import Generator, load_generator


class StudentModel(ModelMixin, ConfigMixin):
    """Transformer, decoder and what reads the conditions, as `load_generator` opens them.

    Attributes:
        model: the family's modules.
    """

    config_name = CONFIG  # type: ignore[assignment]  # None there, for subclasses to set

    def __init__(self, generator: Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self._generator = generator.model, generator

    @property
    def generator(self) -> Generator:
        """The student itself, on whatever device the modules are now."""
        return self._generator

    @classmethod
    def from_pretrained(  # type: ignore[override]  # of diffusers' many options, those that mean something here
        cls, folder: str | Path, *, torch_dtype: torch.dtype | None = None, revision: str | None = None, **_: Any
    ) -> "StudentModel":
        """A folder or `owner/name` as `load_generator` takes it. Raises as it does.

        Args:
            torch_dtype: None keeps float32.
        """
        path = Path(folder)
        if path.is_dir() and not (path / CONFIG).exists():
            # Diffusers names the component's folder, which holds code alone: the weights lie one above, where
            # `load_generator` finds them too.
            folder = path.parent
        return cls(load_generator(folder, revision=revision, dtype=torch_dtype))

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:  # type: ignore[override]
        """Write it as the folder that `load_generator` opens."""
        self._generator.save(save_directory)
