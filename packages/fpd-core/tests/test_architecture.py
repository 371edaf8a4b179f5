"""The direction of dependence: fpd-core stands alone, train and eval never meet, one file knows DeepSpeed."""

import ast
from pathlib import Path

import pytest

PACKAGES = Path(__file__).resolve().parents[2]
SOURCES = {
    path: path.relative_to(PACKAGES).parts[2]
    for folder in ("fpd-core/src", "fpd-train/src", "fpd-eval/src")
    for path in sorted((PACKAGES / folder).rglob("*.py"))
}
# Within fpd-core a lower layer never imports a higher one.
LAYERS = [
    {
        "atomic",
        "config",
        "plugins",
        "sections",
        "schedules",
        "masking",
        "codes",
        "draws",
        "frechet",
        "seeds",
        "ste",
        "drift",
        "progress",
        "rivals",
        "guidance",
        "hashing",
        "conditioning",
        "checkpoints",
        "idx",
        "untrusted",
        "weight_files",
        "weights",
        "mismatch",
        "containers",
        "hub",
        "generation_config",
        "pipeline_files",
        "devices",
        "places",
        "preflight",
        "track",
    },
    {"scenes", "distances", "reference"},
    {"networks", "backbones", "discriminator", "teachers", "refine", "lift", "sampling", "few_steps"},
    {"objective_config", "card", "exported", "generator"},
    {"objective"},
    {"kernel_batch"},
    {"picture_folder"},
    {"generate_cli", "pipeline", "export"},
    {"demo"},
]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


def test_there_is_something_to_check():
    assert set(SOURCES.values()) == {"fpd_core", "fpd_train", "fpd_eval"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGES)))
def test_no_forbidden_edge(path):
    package = SOURCES[path]
    tops = {name.split(".")[0] for name in imported(path)}
    allowed = {"fpd_core"} | {package}
    assert tops & {"fpd_core", "fpd_train", "fpd_eval"} <= allowed
    if path.name != "engine.py":
        assert "deepspeed" not in tops


def layer(module):
    return next((i for i, names in enumerate(LAYERS) if module in names), None)


@pytest.mark.parametrize("path", [p for p, package in SOURCES.items() if package == "fpd_core"], ids=lambda p: p.name)
def test_layers_of_the_core(path):
    parts = path.relative_to(PACKAGES / "fpd-core/src/fpd_core").with_suffix("").parts
    if parts[0] == "__init__":
        return
    own = layer(parts[0])
    assert own is not None, f"give {parts[0]} a layer"
    for name in imported(path):
        words = name.split(".")
        if words[0] == "fpd_core" and len(words) > 1:
            assert layer(words[1]) <= own, f"{path.name} imports {name}"


@pytest.mark.parametrize("name", ["codes", "draws", "frechet", "ste", "masking", "schedules", "drift", "progress"])
def test_equation_files_are_tensors_in_tensors_out(name):
    tree = ast.parse((PACKAGES / f"fpd-core/src/fpd_core/{name}.py").read_text())
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert "nn" not in imports
    own = {module for module in imported(PACKAGES / f"fpd-core/src/fpd_core/{name}.py") if "fpd_core" in module}
    assert own <= {"ste": {"fpd_core.codes", "fpd_core.draws"}}.get(name, {"fpd_core.draws"})


# What opens a file from outside, and the only modules of fpd-core and fpd-train that may call it.
OPENERS = {
    *("json.load", "json.loads", "pickle.load", "pickle.loads", "torch.load", "np.load", "numpy.load", "Image.open"),
    *("gzip.open", "gzip.GzipFile", "tarfile.open", "zipfile.ZipFile", "load_file", "safe_open", "wds.WebDataset"),
    *("safetensors.torch.load_file", "wds.tarfile_to_samples", "wds.ShardWriter"),
}
BOUNDARY = {
    *("untrusted", "containers.py", "checkpoints.py"),  # of fpd-core
    *("checkpointing.py", "engine.py"),  # checkpoints, behind their manifest
    *(
        "run_folder.py",
        "runlog.py",
        "watchdog.py",
        "reproduce",
    ),  # what the run itself or its children wrote, and messages between its ranks
}


def called(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def outside(path):
    return sorted(OPENERS & set(called(ast.parse(path.read_text()))))


@pytest.mark.parametrize(
    "path", [p for p, package in SOURCES.items() if package != "fpd_eval"], ids=lambda p: str(p.relative_to(PACKAGES))
)
def test_files_from_outside_are_opened_at_the_boundary(path):
    if not BOUNDARY & set(path.parts):
        assert outside(path) == []


def test_the_boundary_is_where_they_are_opened():
    assert {"tarfile.open", "Image.open", "json.loads"} <= {
        name for path in SOURCES if "untrusted" in path.parts for name in outside(path)
    }
