"""Wheels and source archives hold what they promise: metadata, licence, types, data, one version, pins of it."""

import email
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = (ROOT / "VERSION").read_text().strip()
OURS = ("fpd-core", "fpd-train", "fpd-eval")


def check(folder: Path, name: str) -> None:
    """Raises AssertionError: what is missing."""
    stem = name.replace("-", "_")
    wheel, archive = folder / f"{stem}-{VERSION}-py3-none-any.whl", folder / f"{stem}-{VERSION}.tar.gz"
    with zipfile.ZipFile(wheel) as opened:
        held = set(opened.namelist())
        metadata = email.message_from_bytes(opened.read(f"{stem}-{VERSION}.dist-info/METADATA"))
        licence = opened.read(f"{stem}-{VERSION}.dist-info/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes(), f"{wheel.name}: another licence"
    assert metadata["Author"] == "The fpd authors"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"Programming Language :: Python :: 3.13", "Typing :: Typed"} <= set(metadata.get_all("Classifier"))
    assert metadata.get_all("Project-URL")
    assert len(metadata.get_payload()) > 200, f"{wheel.name}: no readme"
    pins = [one for one in metadata.get_all("Requires-Dist") if one.startswith(OURS) and "extra" not in one]
    assert all(one.endswith(f"=={VERSION}") for one in pins), pins
    assert bool(pins) == (name != "fpd-core")
    if name in OURS:
        source = ROOT / "packages" / name / "src"
        wanted = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
        wanted = {path for path in wanted if "__pycache__" not in path}
        assert f"{stem}/py.typed" in wanted
        assert wanted <= held, f"{wheel.name} lacks {sorted(wanted - held)[:5]}"
        with tarfile.open(archive) as opened_archive:
            kept = {one.removeprefix(f"{stem}-{VERSION}/src/") for one in opened_archive.getnames()}
        assert wanted <= kept, f"{archive.name} lacks {sorted(wanted - kept)[:5]}"
    print(f"{wheel.name}: {wheel.stat().st_size / 1000:.0f} kB, {archive.name}: {archive.stat().st_size / 1000:.0f} kB")


for package in (*OURS, "fixed-point-distillation"):
    check(Path(sys.argv[1]), package)
