"""Kinds of systems that a JSON file can name. A new one is a file here and a line in `SYSTEMS`."""

from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

from fpd_core.config import ConfigError, explain, nearest
from fpd_core.untrusted import read_json
from fpd_eval.systems.kind import SystemKind

SYSTEMS = {
    "teacher": "fpd_eval.systems.teacher:TeacherKind",
    "student": "fpd_eval.systems.student:StudentKind",
    "checkpoint": "fpd_eval.systems.checkpoint:CheckpointKind",
    "folder": "fpd_eval.systems.folder:FolderKind",
    "diffusers": "fpd_eval.systems.diffusion:DiffusersKind",
    "drawn": "fpd_eval.systems.drawn:DrawnKind",
}

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
    if kind_name not in SYSTEMS:
        raise nearest(kind_name, list(SYSTEMS), "kind of system")
    module, name = SYSTEMS[kind_name].split(":")
    kind: type[SystemKind] = getattr(import_module(module), name)
    try:
        return kind.model_validate(section)
    except ValidationError as error:
        raise explain(error, str(path)) from None
