"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed.

A kill or a crash of the machine at any moment leaves the old file or the new one. An error, a full disk above all,
leaves the old one and no partial file; only a kill leaves a partial file, hidden and ending in `.partial`.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path in the folder of `path` to write a file to; it takes the place of `path` when the block ends well.

    For libraries that write files themselves. The name is hidden, unique to this call and does not end as `path` does,
    so a library that goes by the ending must be told the format.

    Raises:
        OSError: the folder is absent, read-only or full; see `is_disk_full`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    partial.touch()
    mode = partial.stat().st_mode  # what the user's umask allows; some libraries create files for the owner alone
    try:
        yield partial
        if partial.stat().st_mode != mode:
            partial.chmod(mode)
        sync(partial)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk is met while writing, where no name is known
        raise
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by a file that holds `content`. Raises OSError as `replacing` does."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a file that holds `text` in UTF-8. Raises OSError as `replacing` does."""
    write_bytes(path, text.encode())


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot; they decide alone
            raise
    finally:
        os.close(descriptor)


def remove_partials(folder: Path) -> None:
    """Remove the files and folders that killed writers left in `folder`. Call it only where nobody else is writing."""
    for partial in folder.glob(f".*{PARTIAL}"):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk, a quota or a file-size limit is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
