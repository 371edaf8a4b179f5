"""Generator families. A new one is one file and one line in `TEACHERS`, or a package with an entry point."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ValidationError

from fpd_core.config import explain
from fpd_core.plugins import Registry
from fpd_core.sections import Sections, section_pair
from fpd_core.teachers.fashion import FashionConfig, FashionTeacher
from fpd_core.teachers.halton import HaltonTeacher, HaltonTeacherConfig
from fpd_core.teachers.maskgen import MaskGenTeacher, MaskGenTeacherConfig
from fpd_core.teachers.maskgit import MaskGitTeacher, MaskGitTeacherConfig
from fpd_core.teachers.meissonic import MeissonicTeacher, MeissonicTeacherConfig
from fpd_core.teachers.scenes import ScenesConfig, ScenesTeacher
from fpd_core.teachers.teacher import SamplerConfig, Teacher, TeacherConfig

_OWN: dict[str, tuple[type[TeacherConfig], type[Teacher]] | str] = {
    "fashion": (FashionConfig, FashionTeacher),
    "scenes": (ScenesConfig, ScenesTeacher),
    "maskgit": (MaskGitTeacherConfig, MaskGitTeacher),
    "maskgen": (MaskGenTeacherConfig, MaskGenTeacher),
    "meissonic": (MeissonicTeacherConfig, MeissonicTeacher),
    "halton": (HaltonTeacherConfig, HaltonTeacher),
}
TEACHERS = Registry("fpd.teachers", "teacher", _OWN, section_pair(TeacherConfig, Teacher))

if TYPE_CHECKING:
    AnyTeacherConfig = TeacherConfig
else:
    # A section that only changes `path` keeps the bundled family.
    AnyTeacherConfig = Annotated[TeacherConfig, Sections(TEACHERS, default="fashion")]

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
    return TEACHERS.find(config.name)[1].load(config)


def teacher_config(config: str | Mapping[str, Any] | TeacherConfig) -> TeacherConfig:
    """The section of a family name or mapping. Raises ConfigError: unknown family or key."""
    if isinstance(config, str):
        config = {"name": config}
    if not isinstance(config, Mapping):
        return config
    section, _ = TEACHERS.find(str(config.get("name")))
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
    return TEACHERS.find(str(architecture.get("name")))[1].from_architecture(architecture)
