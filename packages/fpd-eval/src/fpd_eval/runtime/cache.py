"""Results by the hash of what produced them. Files appear whole or not at all and carry a checksum."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fpd_core.atomic import write_bytes
from fpd_core.hashing import hash_tensors
from fpd_core.untrusted import UntrustedError, open_regular, read_json

# Raise when the same inputs lead to other features or numbers than before.
CODE_VERSION = 1
ENTRY_BYTES = 2**28


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises ValueError: no such file, or a FIFO or device."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Cache:
    """A folder of tensor files and JSON files named by their key.

    A damaged file is answered as absent, with a warning that names it; it is overwritten by the next `put`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, kind: str, **parts: Any) -> str:
        """File stem for what `parts` (JSON values) produce with this version of the code."""
        return f"{kind}-{hash_json({'code': CODE_VERSION, **parts})}"

    def get_tensors(self, key: str) -> dict[str, Tensor] | None:
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                if (file.metadata() or {}).get("sha256") == hash_tensors(tensors):
                    return tensors
        except (SafetensorError, OSError):
            pass
        _warn_of_damage(path)
        return None

    def has_tensors(self, key: str) -> bool:
        """Whether a file is there; `get_tensors` tells whether it is whole."""
        return (self.folder / f"{key}.safetensors").is_file()

    def drop_tensors(self, key: str) -> None:
        (self.folder / f"{key}.safetensors").unlink(missing_ok=True)

    def put_tensors(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        self._put(f"{key}.safetensors", save(contiguous, metadata={"sha256": hash_tensors(contiguous)}))

    def get_json(self, key: str) -> Any:
        path = self.folder / f"{key}.json"
        if not path.is_file():
            return None
        try:
            stored = read_json(path, max_bytes=ENTRY_BYTES)
            if stored.get("sha256") == hash_json(stored.get("value")):
                return stored["value"]
        except UntrustedError:
            pass
        _warn_of_damage(path)
        return None

    def put_json(self, key: str, value: Any) -> None:
        self._put(f"{key}.json", json.dumps({"sha256": hash_json(value), "value": value}).encode())

    def _put(self, name: str, content: bytes) -> None:
        """Two runs may fill one cache."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self.folder / name, content)


def _warn_of_damage(path: Path) -> None:
    warnings.warn(f"cache file {path} is damaged and is computed again", stacklevel=3)
