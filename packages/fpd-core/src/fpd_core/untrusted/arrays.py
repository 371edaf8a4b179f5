"""NumPy archives from outside: headers are read before anything is allocated, and nothing is unpickled."""

import math
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fpd_core.untrusted.files import Failure, UntrustedError, open_regular, shown
from fpd_core.untrusted.limits import ARRAY_BYTES, ARRAYS_PER_FILE

_SUFFIX = ".npy"
# What damaged zip files raise, encrypted and exotically compressed members among them.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, KeyError)
# What NumPy and the parser of Python literals that it uses raise for damaged headers.
_BAD_HEADER = (ValueError, TypeError, SyntaxError, KeyError, RecursionError, MemoryError, tokenize.TokenError)


@dataclass(frozen=True)
class ArrayHeader:
    """What an .npy file says of its array."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayArchive:
    """An open .npz file; close it, or use it in a `with` block.

    Raises:
        error: no regular file, not a zip file, or of more than ARRAYS_PER_FILE members.
    """

    def __init__(self, path: Path, *, error: Failure = UntrustedError) -> None:
        self._path, self._error = shown(path), error
        self._file = open_regular(path, error=error)
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _DAMAGE as cause:
            self._file.close()
            raise error(f"{self._path} is damaged or not an .npz file: {shown(cause)}") from None
        found = self._zip.namelist()
        if len(found) > ARRAYS_PER_FILE:
            self.close()
            raise error(f"{self._path} holds {len(found)} arrays, more than {ARRAYS_PER_FILE} (ARRAYS_PER_FILE)")
        self.names = tuple(name.removesuffix(_SUFFIX) for name in found)

    def __enter__(self) -> "ArrayArchive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
        self._file.close()

    def stream(self, name: str) -> tuple[ArrayHeader, IO[bytes]]:
        """An array's header and the stream of its bytes, for arrays that are read in parts.

        Raises:
            error: absent, damaged, of Python objects, or of another size than its header says.
        """
        try:
            entry = self._zip.getinfo(name + _SUFFIX)
            file = self._zip.open(entry)
            header = self._header(file)
        except _BAD_HEADER + _DAMAGE as cause:
            known = cause if isinstance(cause, KeyError) else shown(cause)
            raise self._error(f"{self._path}: array {shown(name)} cannot be read: {known}") from None
        if header.dtype.hasobject:
            raise self._error(f"{self._path}: array {shown(name)} holds Python objects, which are not unpickled")
        stored = entry.file_size - file.tell()
        if header.num_bytes != stored:
            raise self._error(
                f"{self._path}: array {shown(name)} has {stored} bytes, its shape {list(header.shape)} needs "
                f"{header.num_bytes}: damaged or truncated"
            )
        return header, file

    def read(self, name: str) -> NDArray[Any]:
        """A whole array. Raises `error` as `stream` does, or for one of more than ARRAY_BYTES."""
        header, file = self.stream(name)
        if header.num_bytes > ARRAY_BYTES:
            raise self._error(
                f"{self._path}: array {shown(name)} has {header.num_bytes} bytes, more than {ARRAY_BYTES} (ARRAY_BYTES)"
            )
        try:
            content = file.read()
        except _DAMAGE as cause:
            raise self._error(f"{self._path}: array {shown(name)} is damaged: {shown(cause)}") from None
        if len(content) != header.num_bytes:
            raise self._error(f"{self._path}: array {shown(name)} is truncated")
        flat = np.frombuffer(bytearray(content), header.dtype)
        return flat.reshape(header.shape, order="F" if header.is_fortran else "C")

    @staticmethod
    def _header(file: IO[bytes]) -> ArrayHeader:
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(file)]
        shape, is_fortran, dtype = read(file)
        if any(side < 0 for side in shape) or not dtype.itemsize:
            raise ValueError(f"no array has shape {shape} and type {dtype}")
        return ArrayHeader(shape, is_fortran, dtype)
