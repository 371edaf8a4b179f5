"""Kinds of systems that a JSON file can name. A new one is a file here and a line in `SYSTEMS`, or a package with an
entry point."""

from pathlib import Path

from pydantic import ValidationError

from fpd_core.config import ConfigError, explain
from fpd_core.plugins import Registry
from fpd_core.sections import one_of
from fpd_core.untrusted import read_json
from fpd_eval.systems.kind import SystemKind

_OWN: dict[str, type[SystemKind] | str] = {
    "teacher": "fpd_eval.systems.teacher:TeacherKind",
    "student": "fpd_eval.systems.student:StudentKind",
    "checkpoint": "fpd_eval.systems.checkpoint:CheckpointKind",
    "folder": "fpd_eval.systems.folder:FolderKind",
    "diffusers": "fpd_eval.systems.diffusion:DiffusersKind",
    "drawn": "fpd_eval.systems.drawn:DrawnKind",
    "fixed_point": "fpd_eval.systems.fixed_point:FixedPointKind",
}
SYSTEMS = Registry("fpd.systems", "kind of system", _OWN, one_of(SystemKind, subclass=True, key="kind"))

__all__ = ["SYSTEMS", "SystemKind", "read_system"]


def read_system(path: Path) -> SystemKind:
    """The system that a JSON file describes; its `load` opens it.

    Raises:
        ConfigError: absent, not JSON, or an unknown kind or key.
    """
    section = read_json(path, error=ConfigError)
    kind_name = section.get("kind")
    if not isinstance(kind_name, str):
        raise ConfigError(f"{path} must be a JSON object with a `kind`: {', '.join(SYSTEMS)}")
    try:
        return SYSTEMS.find(kind_name).model_validate(section)
    except ValidationError as error:
        raise explain(error, str(path)) from None
