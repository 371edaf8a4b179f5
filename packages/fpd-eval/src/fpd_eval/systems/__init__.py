"""Kinds of systems that a JSON file can name. A new one is a file here and a line in `SYSTEMS`."""

import json
from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

from fpd_core.config import ConfigError, explain, nearest
from fpd_eval.systems.kind import SystemKind

SYSTEMS = {
    "teacher": "fpd_eval.systems.teacher:TeacherKind",
    "student": "fpd_eval.systems.student:StudentKind",
    "checkpoint": "fpd_eval.systems.checkpoint:CheckpointKind",
    "folder": "fpd_eval.systems.folder:FolderKind",
    "diffusers": "fpd_eval.systems.diffusion:DiffusersKind",
}

__all__ = ["SYSTEMS", "SystemKind", "read_system"]


def read_system(path: Path) -> SystemKind:
    """The system that a JSON file describes; its `load` opens it.

    Raises:
        ConfigError: absent, not JSON, or an unknown kind or key.
    """
    try:
        section = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(section, dict) or "kind" not in section:
        raise ConfigError(f"{path} must be a JSON object with a `kind`: {', '.join(SYSTEMS)}")
    if section["kind"] not in SYSTEMS:
        raise nearest(str(section["kind"]), list(SYSTEMS), "kind of system")
    module, name = SYSTEMS[section["kind"]].split(":")
    kind: type[SystemKind] = getattr(import_module(module), name)
    try:
        return kind.model_validate(section)
    except ValidationError as error:
        raise explain(error, str(path)) from None
