"""Generator families. A new one is one file and one line in `TEACHERS`."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fpd_core.config import explain, nearest
from fpd_core.teachers.fashion import FashionConfig, FashionTeacher
from fpd_core.teachers.teacher import SamplerConfig, Teacher

TEACHERS = {"fashion": (FashionConfig, FashionTeacher)}
TeacherConfig = FashionConfig

__all__ = ["TEACHERS", "SamplerConfig", "Teacher", "TeacherConfig", "load_teacher", "rebuild"]


def load_teacher(config: str | Mapping[str, Any] | TeacherConfig) -> Teacher:
    """A trained, frozen teacher by family name, by config mapping or by config object.

    Raises:
        ConfigError: unknown family or key.
        CheckpointError: its weights are absent, damaged or do not fit.
    """
    if isinstance(config, str):
        config = {"name": config}
    if isinstance(config, Mapping):
        section, _ = _family(str(config.get("name")))
        try:
            config = section.model_validate(dict(config))
        except ValidationError as error:
            raise explain(error, "teacher") from None
    return _family(config.name)[1].load(config)


def rebuild(architecture: Mapping[str, Any]) -> Teacher:
    """Untrained modules of the family that wrote `architecture`. Raises ConfigError: unknown family."""
    return _family(str(architecture.get("name")))[1].from_architecture(architecture)


def _family(name: str) -> tuple[type[FashionConfig], type[FashionTeacher]]:
    if name not in TEACHERS:
        raise nearest(name, list(TEACHERS), "teacher")
    return TEACHERS[name]
