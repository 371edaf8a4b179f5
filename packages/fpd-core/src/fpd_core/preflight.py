"""What every command looks at first, before anything is imported, loaded or drawn."""

import tempfile
from pathlib import Path


def require_writable(folder: Path) -> None:
    """Raises ValueError: `folder` cannot be written, or made. Nothing is left behind."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"cannot write to {folder}: {place} is a file")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from None
