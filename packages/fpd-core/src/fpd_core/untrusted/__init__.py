"""The one place where files from outside are opened: regular files, of bounded size and known kind, running nothing.

What others made, or what lay on a disk that may be damaged, is read through here: configs and other JSON, images
(`images.py`), arrays (`arrays.py`), archives (`archives.py`). Weight files are for `containers.py`. Every refusal is
one sentence that names the file and the limit.
"""

from fpd_core.untrusted.files import (
    UntrustedError,
    open_regular,
    printable,
    read_bytes,
    read_text,
    require_files_only,
    shown,
)
from fpd_core.untrusted.json_files import parse_json, parse_object, read_json, read_json_lines

__all__ = [
    "UntrustedError",
    "open_regular",
    "parse_json",
    "parse_object",
    "printable",
    "read_bytes",
    "read_json",
    "read_json_lines",
    "read_text",
    "require_files_only",
    "shown",
]
