"""onnxruntime-web, fetched by npm once, checked, and reduced to the six files that the page needs."""

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from fpd_core.atomic import write_bytes, write_text
from fpd_core.config import ConfigError
from fpd_core.untrusted import open_regular, shown
from fpd_core.untrusted.archives import tar_members

VERSION = "1.30.0"
_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
_ARCHIVE_BYTES = 512 * 2**20
# Modules get the ending .js, which every server sends with the type that browsers ask for.
FILES = {
    "ort.webgpu.min.mjs": "webgpu.js",
    "ort-wasm-simd-threaded.asyncify.mjs": "webgpu-wasm.js",
    "ort-wasm-simd-threaded.asyncify.wasm": "webgpu.wasm",
    "ort.wasm.min.mjs": "wasm.js",
    "ort-wasm-simd-threaded.mjs": "wasm-wasm.js",
    "ort-wasm-simd-threaded.wasm": "wasm.wasm",
}
_NOTICE = (
    f"onnxruntime-web {VERSION}, Copyright (c) Microsoft Corporation, MIT License: https://opensource.org/license/mit\n"
)


def place(folder: Path) -> None:
    """Write the runtime's files and their notice into `folder`.

    Raises:
        ConfigError: npm is absent or fails and no earlier copy is kept, or the package is not the known one.
    """
    package = _package()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"package/dist/{source}": target for source, target in FILES.items()}
    with open_regular(package, error=ConfigError) as file:
        for name, content in tar_members(file, source=shown(package), limit=_ARCHIVE_BYTES, error=ConfigError):
            if name in wanted:
                write_bytes(folder / wanted.pop(name), content)
    if wanted:
        raise ConfigError(f"{shown(package)} lacks {', '.join(wanted)}")
    write_text(folder / "NOTICE", _NOTICE)


def _package() -> Path:
    """The package's archive, from npm or kept from an earlier build."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fpd"
    kept = cache / f"onnxruntime-web-{VERSION}.tgz"
    if not kept.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise ConfigError("the page needs onnxruntime-web, which npm fetches once; install npm (Debian: npm)")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", folder, "--silent"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ConfigError(f"npm could not fetch onnxruntime-web {VERSION}: {shown(done.stderr.strip())}")
            (Path(folder) / kept.name).replace(kept)
    if base64.b64encode(hashlib.sha512(kept.read_bytes()).digest()).decode() != _SHA512:
        raise ConfigError(f"{shown(kept)} is not the published onnxruntime-web {VERSION}; remove it and build again")
    return kept
