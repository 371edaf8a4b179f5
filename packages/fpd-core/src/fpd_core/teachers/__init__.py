"""Generator families. A new one is one file and one line in `TEACHERS`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag, ValidationError

from fpd_core.config import explain, nearest
from fpd_core.teachers.fashion import FashionConfig, FashionTeacher
from fpd_core.teachers.halton import HaltonTeacher, HaltonTeacherConfig
from fpd_core.teachers.maskgen import MaskGenTeacher, MaskGenTeacherConfig
from fpd_core.teachers.maskgit import MaskGitTeacher, MaskGitTeacherConfig
from fpd_core.teachers.meissonic import MeissonicTeacher, MeissonicTeacherConfig
from fpd_core.teachers.scenes import ScenesConfig, ScenesTeacher
from fpd_core.teachers.teacher import SamplerConfig, Teacher, TeacherConfig

TEACHERS: dict[str, tuple[type[TeacherConfig], type[Teacher]]] = {
    "fashion": (FashionConfig, FashionTeacher),
    "scenes": (ScenesConfig, ScenesTeacher),
    "maskgit": (MaskGitTeacherConfig, MaskGitTeacher),
    "maskgen": (MaskGenTeacherConfig, MaskGenTeacher),
    "meissonic": (MeissonicTeacherConfig, MeissonicTeacher),
    "halton": (HaltonTeacherConfig, HaltonTeacher),
}

DEFAULT = "fashion"


def _family_of(value: Any) -> str | None:
    """A section that only changes `path` keeps the bundled family."""
    if isinstance(value, Mapping):
        return str(value.get("name", DEFAULT))
    return value.name if isinstance(value, TeacherConfig) else None


if TYPE_CHECKING:
    AnyTeacherConfig = TeacherConfig
else:
    # The union of all sections, so that configs and the JSON schema know every family and its keys.
    _SECTIONS = tuple(Annotated[section, Tag(name)] for name, (section, _) in TEACHERS.items())
    AnyTeacherConfig = Annotated[Union[_SECTIONS], Discriminator(_family_of)]  # noqa: UP007

__all__ = [
    "TEACHERS",
    "AnyTeacherConfig",
    "SamplerConfig",
    "Teacher",
    "TeacherConfig",
    "load_teacher",
    "rebuild",
    "teacher_config",
]


def load_teacher(config: str | Mapping[str, Any] | TeacherConfig) -> Teacher:
    """A trained, frozen teacher by family name, by config mapping or by config object.

    Raises:
        ConfigError: unknown family or key.
        CheckpointError: its weights are absent, damaged or do not fit.
    """
    config = teacher_config(config)
    return _family(config.name)[1].load(config)


def teacher_config(config: str | Mapping[str, Any] | TeacherConfig) -> TeacherConfig:
    """The section of a family name or mapping. Raises ConfigError: unknown family or key."""
    if isinstance(config, str):
        config = {"name": config}
    if not isinstance(config, Mapping):
        return config
    section, _ = _family(str(config.get("name")))
    try:
        return section.model_validate(dict(config))
    except ValidationError as error:
        raise explain(error, "teacher") from None


def rebuild(architecture: Mapping[str, Any]) -> Teacher:
    """Untrained modules of the family that wrote `architecture`.

    Raises:
        ConfigError: unknown family.
        ValidationError: sizes that make no sense.
    """
    return _family(str(architecture.get("name")))[1].from_architecture(architecture)


def _family(name: str) -> tuple[type[TeacherConfig], type[Teacher]]:
    if name not in TEACHERS:
        raise nearest(name, list(TEACHERS), "teacher")
    return TEACHERS[name]
