"""Packages that add to fpd: made here as an installer leaves them, metadata and a module on the path."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from fpd_core import plugins
from fpd_core.backbones import BACKBONES, load_backbone
from fpd_core.config import Config, ConfigError, explain
from fpd_core.discriminator.features import BRANCHES
from fpd_core.distances import DISTANCES
from fpd_core.lift import LiftConfig
from fpd_core.objective_config import ObjectiveConfig
from fpd_core.plugins import REGISTRIES, PluginError, Registry, records, summary
from fpd_core.teachers import TEACHERS, AnyTeacherConfig, load_teacher, rebuild, teacher_config
from fpd_core.weights import WEIGHT_FILES, weight_file

TEACHER = """
from typing import Literal
from fpd_core.teachers.teacher import TeacherConfig
from fpd_core.teachers.fashion import FashionTeacher

class MineConfig(TeacherConfig):
    name: Literal["mine"] = "mine"
    size: int = 3

class Mine(FashionTeacher):
    @classmethod
    def load(cls, config):
        return "loaded with size %d" % config.size
    @classmethod
    def from_architecture(cls, architecture):
        return "rebuilt"

MINE = (MineConfig, Mine)
"""


class Run(Config):
    """A config with a teacher in it."""

    teacher: AnyTeacherConfig


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install("mine", {"fpd.teachers": {"mine": "mine:MINE"}}, source)` puts a package and its module on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def put(name: str, points: dict[str, dict[str, str]], source: str = "", version: str = "1.2") -> None:
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in own.items()) for group, own in points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (tmp_path / f"{name}.py").write_text(source)
        modules.append(name)
        importlib.invalidate_caches()
        plugins._found.cache_clear()

    yield put
    for name in modules:
        sys.modules.pop(name, None)
    plugins._found.cache_clear()


def refused(name: str) -> str:
    with pytest.raises(ValidationError) as error:
        Run.model_validate({"teacher": {"name": name}})
    return str(explain(error.value, "run.json"))


def test_a_package_adds_a_teacher_to_configs_schema_loading_and_rebuilding(install):
    install("mine", {"fpd.teachers": {"mine": "mine:MINE"}}, TEACHER)
    assert Run.model_validate({"teacher": {"name": "mine", "size": 5}}).teacher.size == 5
    assert load_teacher({"name": "mine", "size": 4}) == "loaded with size 4"
    assert rebuild({"name": "mine"}) == "rebuilt"
    assert "MineConfig" in Run.model_json_schema()["$defs"]
    assert "FashionConfig" in Run.model_json_schema()["$defs"]
    assert Run.model_validate({"teacher": {}}).teacher.name == "fashion"


def test_its_keys_and_its_name_are_part_of_the_answers(install):
    install("mine", {"fpd.teachers": {"mine": "mine:MINE"}}, TEACHER)
    assert "did you mean 'mine'? known: fashion, halton, maskgen, maskgit, meissonic, mine, scenes" in refused("mime")
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        teacher_config("mime")
    with pytest.raises(ValidationError, match="unknown key 'siez'; did you mean 'size'"):
        Run.model_validate({"teacher": {"name": "mine", "siez": 5}})


def test_a_name_is_known_without_importing_what_is_behind_it(install):
    install("mine", {"fpd.teachers": {"mine": "mine:MINE"}}, TEACHER)
    assert "mine" in TEACHERS
    Run.model_validate({"teacher": {"name": "fashion"}})
    assert "mine" not in sys.modules
    teacher_config("mine")
    assert "mine" in sys.modules


def test_without_the_package_the_name_is_unknown(install):
    assert "mine" not in TEACHERS
    assert "unknown name 'mine'" in refused("mine")


@pytest.mark.parametrize(
    ("source", "place", "reason"),
    [
        ("import nothing_of_that_name\n", "mine:MINE", "No module named 'nothing_of_that_name'"),
        ("raise SystemExit(3)\n", "mine:MINE", "SystemExit: 3"),
        ("raise RuntimeError('one\\ntwo')\n", "mine:MINE", "RuntimeError: one"),
        (TEACHER, "mine:THEIRS", "no attribute 'THEIRS'"),
        (TEACHER, "mine:Mine", "Input should be a pair of a subclass of TeacherConfig and what it configures"),
        (TEACHER.replace("(MineConfig, Mine)", "(MineConfig, dict)"), "mine:MINE", "a subclass of Teacher"),
        (TEACHER.replace('"mine"', '"yours"'), "mine:MINE", "its section should have name: 'mine'"),
    ],
)
def test_a_broken_package_is_named_in_one_sentence_and_breaks_nothing_else(install, source, place, reason):
    install("mine", {"fpd.teachers": {"mine": place}}, source)
    message = refused("mine")
    assert message.startswith("run.json: teacher: the teacher 'mine' of the package mine 1.2 cannot be used: ")
    assert reason in message
    assert "\n" not in message
    with pytest.raises(PluginError, match="the package mine 1\\.2"):
        load_teacher("mine")
    assert Run.model_validate({"teacher": {"name": "scenes"}}).teacher.name == "scenes"
    assert "FashionConfig" in json.dumps(Run.model_json_schema())
    assert summary().startswith("fpd.teachers: 'mine' of mine 1.2 is broken: the teacher 'mine'")


def test_a_name_taken_twice_is_refused_and_others_are_not(install):
    install("mine", {"fpd.teachers": {"mine": "mine:MINE", "fashion": "mine:MINE"}}, TEACHER)
    assert "the teacher 'fashion' comes from fpd itself and from mine 1.2: uninstall all but one" in refused("fashion")
    assert Run.model_validate({"teacher": {"name": "mine"}}).teacher.name == "mine"
    assert Run.model_validate({"teacher": {"name": "scenes"}}).teacher.name == "scenes"
    install("other", {"fpd.teachers": {"mine": "other:MINE"}}, TEACHER, version="7")
    message = refused("mine")
    assert "mine 1.2" in message
    assert "other 7" in message
    assert "MineConfig" not in json.dumps(Run.model_json_schema())


def test_a_misspelt_group_is_told(install):
    install("mine", {"fpd.teacher": {"mine": "mine:MINE"}}, TEACHER)
    assert summary() == (
        "fpd.teacher: 'mine' of mine 1.2 is broken: unknown group of entry points 'fpd.teacher'; did you mean "
        f"'fpd.teachers'? known: {', '.join(sorted(REGISTRIES))}\n"
    )


def test_a_working_package_is_told(install):
    install("mine", {"fpd.teachers": {"mine": "mine:MINE"}, "console_scripts": {"x": "y:z"}}, TEACHER)
    assert summary() == "fpd.teachers: 'mine' of mine 1.2 is ready\n"
    assert records() == [
        {
            "family": "plug-in",
            "group": "fpd.teachers",
            "name": "mine",
            "package": "mine 1.2",
            "present": True,
            "note": "",
        }
    ]


PARTS = """
from typing import ClassVar, Literal
from pathlib import Path
import torch
from torch import nn
from fpd_core.config import Config
from fpd_core.distances import Distance
from fpd_core.distances.interface import DistanceConfig
from fpd_core.weights import WeightFile

class Eye(Config):
    name: Literal["eye"] = "eye"
    blocks: tuple[int, ...] = (0,)
    def required_files(self):
        return []

class Far(DistanceConfig):
    name: Literal["far"] = "far"

class FarDistance(Distance):
    def forward(self, *arguments, **options):
        return []

class Look(Config):
    name: Literal["look"] = "look"

EYE, FAR, LOOK = (Eye, lambda config: nn.Identity()), (Far, FarDistance), (Look, lambda config, side: nn.Identity())
FILES = (WeightFile(family="mine", role="all", repo_id="a/b", filename="c", local=Path("c"), licence="MIT", note=""),)
"""


def test_packages_add_backbones_distances_branches_and_weight_files(install):
    groups = {
        "fpd.backbones": {"eye": "parts:EYE"},
        "fpd.distances": {"far": "parts:FAR"},
        "fpd.discriminator_branches": {"look": "parts:LOOK"},
        "fpd.weights": {"mine": "parts:FILES"},
    }
    install("parts", groups, PARTS)
    space = LiftConfig.model_validate({"backbone": {"name": "eye"}})
    assert space.maps == ["block0"]
    assert type(load_backbone(space.backbone)).__name__ == "Identity"
    assert ObjectiveConfig.model_validate({"distance": {"name": "far"}}).distance.name == "far"
    assert DISTANCES["far"][1].__name__ == "FarDistance"
    assert type(BRANCHES["look"][1](None, 32)).__name__ == "Identity"
    assert weight_file("mine", "all").repo_id == "a/b"
    assert "mine" in WEIGHT_FILES
    schemas = json.dumps([ObjectiveConfig.model_json_schema(), LiftConfig.model_json_schema()])
    assert "Eye" in schemas
    assert "Far" in schemas
    assert summary().count("is ready") == 4


def test_what_this_process_adds_needs_no_package(monkeypatch):
    monkeypatch.setitem(BACKBONES, "mine", BACKBONES["dinov3"])
    assert "mine" in BACKBONES
    assert BACKBONES["mine"] == BACKBONES["dinov3"]
    monkeypatch.undo()
    assert "mine" not in BACKBONES


@pytest.mark.parametrize("group", REGISTRIES)
def test_every_group_has_its_registry(group):
    registry = plugins._imported(REGISTRIES[group])
    assert isinstance(registry, Registry)
    assert registry.group == group
    assert registry.own


def test_no_registry_is_left_out():
    sources = Path(__file__).resolve().parents[2].glob("*/src/**/*.py")
    made = sum(path.read_text().count('Registry("fpd.') for path in sources)
    assert made == len(REGISTRIES)
