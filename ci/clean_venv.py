"""An environment with wheels of ours and nothing else of this repository.

    python ci/clean_venv.py FOLDER WHEEL... [--with NAME]...

The wheels are installed as pip installs them. What they declare, and what that declares in turn, is borrowed: links to
these packages, and to no others, in this interpreter's own site-packages. So an import that no package declares fails,
as it would for a stranger, and torch is not downloaded again.
"""

import argparse
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

OURS = re.compile(r"fpd[-_]|own[-_]teacher|fixed[-_]point")
HOME = Path(sysconfig.get_path("purelib"))


def declared(required: Iterable[str], extras: Iterable[str] = ()) -> list[Requirement]:
    """The requirements that hold here with any of the extras."""
    parsed = map(Requirement, required)
    wanted = ["", *extras]
    return [one for one in parsed if not one.marker or any(one.marker.evaluate({"extra": name}) for name in wanted)]


def closure(waiting: list[Requirement]) -> dict[str, Distribution]:
    """Every installed package that these need, ours left out. Raises SystemExit: one is not installed."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        key = wanted.name.lower(), frozenset(wanted.extras)
        if key in seen or OURS.match(wanted.name):
            continue
        seen.add(key)
        try:
            dist = distribution(wanted.name)
        except PackageNotFoundError:
            sys.exit(f"{wanted.name} is declared and not installed here; run `make setup`")
        found[dist.name.lower()] = dist
        waiting += declared(dist.requires or [], wanted.extras)
    return found


def borrow(packages: Iterable[Distribution], folder: Path) -> None:
    """Links in `folder` to the packages' own files and folders."""
    folder.mkdir()
    for package in packages:
        tops = {file.parts[0] for file in package.files or [] if file.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            if not top.endswith(".pth") and not (folder / top).exists():
                (folder / top).symlink_to(HOME / top)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("wheels", type=Path, nargs="+")
    parser.add_argument("--with", dest="tools", action="append", default=[])
    options = parser.parse_args()

    venv.create(options.folder, symlinks=True)
    python = options.folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", *map(str, options.wheels)], check=True)
    (site,) = options.folder.glob("lib/python*/site-packages")
    installed = list(distributions(path=[str(site)]))
    extras = {name for one in installed for need in map(Requirement, one.requires or []) for name in need.extras}
    needs = [need for one in installed for need in declared(one.requires or [], extras & {"lite"})]
    packages = closure([*needs, *map(Requirement, options.tools)])
    borrow(packages.values(), options.folder / "third-party")
    (site / "third-party.pth").write_text(f"{(options.folder / 'third-party').resolve()}\n")
    subprocess.run([*pip, "check"], check=True)
    print(f"{options.folder.name}: {', '.join(one.name for one in installed)}; borrows {len(packages)} packages")


if __name__ == "__main__":
    main()
