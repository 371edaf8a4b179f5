"""Where relative paths lead: to the working folder first, then to where those who wrote them stood.

A config names `assets/fashion/teacher` because it was written in the repository; whoever opens it may stand elsewhere.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ASSETS = "assets"


def bundled(path: Path) -> Path:
    """`path`; where it is `assets/...` and not in the working folder, that of the repository this package lies in."""
    if path.is_absolute() or path.parts[:1] != (ASSETS,) or path.exists():
        return path
    return _below_ancestor(path, Path(__file__)) or path


def beside(section: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A section of the config in `folder` whose relative paths lead somewhere: those that exist from a folder above
    `folder`, and not in the working folder, are made absolute. Other values stay as they are."""
    return {key: _found(value, folder) for key, value in section.items()}


def _found(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or "/" not in value or "\0" in value or len(value) > 4096:
        return value
    path = Path(value)
    if path.is_absolute() or path.exists():
        return value
    found = _below_ancestor(path, folder.resolve())
    return value if found is None else str(found)


def _below_ancestor(path: Path, start: Path) -> Path | None:
    return next((parent / path for parent in start.parents if (parent / path).exists()), None)
