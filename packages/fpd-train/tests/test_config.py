"""Run configs: strict, with an answer for every slip, and every shipped file valid."""

import json
from pathlib import Path
from typing import get_args

import pytest

from fpd_core.backbones import BACKBONES
from fpd_core.config import ConfigError
from fpd_core.discriminator.features import BRANCHES
from fpd_core.distances import DISTANCES
from fpd_core.teachers import TEACHERS
from fpd_train.config import TrainConfig, load_config
from fpd_train.data import SOURCES
from fpd_train.methods import METHODS

REPO = Path(__file__).resolve().parents[3]


def write(tmp_path, tree):
    path = tmp_path / "run.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


SHIPPED = sorted(path for folder in (".", "paper", "rivals") for path in REPO.glob(f"configs/{folder}/*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.relative_to(REPO / "configs").as_posix())
def test_every_shipped_config_is_valid(path):
    assert load_config(path).steps > 0


@pytest.mark.parametrize("name", ["maskgit", "maskgen", "fashion"])
def test_the_papers_configs_say_themselves_what_the_paper_says(name):
    """Written out, so that a later default does not change them."""
    path = REPO / f"configs/paper/{name}.json"
    written, method = json.loads(path.read_text())["method"], load_config(path).method
    assert written["drafts_per_condition"] == 1
    assert written["objective"] == {
        "init_mask_ratio": 0.9,
        "remask": {"schedule": "arccos", "clamp": [0.05, 0.95], "passes": 1},
        "estimator": "straight_through",
        "draft_source": "student",
        "bandwidths": [0.02, 0.05, 0.2],
        "weighting": "plain",
        "own_target": "keep",
    }
    assert method.objective.remask.end is None
    assert method.gan is None
    assert method.lift.space == "feature"
    assert method.lift.grid == "4x4"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", r"unknown key 'stepz'; did you mean 'steps'\?"),
        (
            "method.objective.weigthing=cross",
            r"method\.fpd\.objective: unknown key 'weigthing'; did you mean 'weighting'",
        ),
        ("method.objective.weighting=crosss", r"objective\.weighting: .*'plain' or 'cross'.*found 'crosss'"),
        ("optimizer.lr=-1", r"optimizer\.lr: .*greater than 0.*-1"),
        ("method.name=fdp", r"method: .*'fpd'"),
        ("micro_batch=7", "micro_batch 7 is not a multiple of drafts_per_condition 2"),
        ("engine.zero_stage=4", r"engine\.zero_stage"),
        ('method.objective={"normalisation": "sharp", "weighting": "cross"}', "'cross' has nothing to weigh"),
        ("method.objective.normalisation=abc", r"'joint', 'corrected' or 'sharp'"),
        ("method.objective.remask.passes=0", r"remask\.passes"),
        ("method.objective.remask.order=best", r"'random' or 'confidence'"),
        ("steps", "not of the form section.key=value"),
        ("steps.a=1", "'steps' is a value, not a section"),
    ],
)
def test_a_slip_is_answered_with_its_place(tmp_path, config, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, config), [override])


def test_zero_stage_0_refuses_bfloat16(tmp_path, config):
    with pytest.raises(ConfigError, match="no float32 masters"):
        load_config(write(tmp_path, config), ["engine.zero_stage=0", "engine.precision=bfloat16"])


def test_overrides_reach_into_sections_and_parse_json(tmp_path, config):
    path = write(tmp_path, config)
    parsed = load_config(path, ["optimizer.lr=3e-4", "method.objective.bandwidths=[0.1]", "output=elsewhere"])
    assert parsed.optimizer.lr == 3e-4
    assert parsed.method.objective.bandwidths == (0.1,)
    assert parsed.output == Path("elsewhere")


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("{}", "output: Field required")])
def test_broken_files(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.json: No such file"):
        load_config(tmp_path / "absent.json")


def test_the_resolved_config_is_the_same_run(tmp_path, config):
    parsed = load_config(write(tmp_path, config))
    assert load_config(write(tmp_path, parsed.model_dump_json())) == parsed


def test_the_schema_describes_every_method():
    schema = json.dumps(TrainConfig.model_json_schema())
    for name in ("fpd", "tokenizer", "masked_model", "classifier", "share of [MASK] in z_init"):
        assert name in schema


def test_every_key_of_the_schema_is_described():
    schema = TrainConfig.model_json_schema()
    sections = {"TrainConfig": schema, **schema["$defs"]}
    keys = {
        f"{name}.{key}": entry for name, one in sections.items() for key, entry in one.get("properties", {}).items()
    }
    assert len(keys) > 200
    assert [key for key, entry in keys.items() if len(entry.get("description", "")) < 2] == []


def test_the_papers_settings_are_the_defaults(tmp_path):
    tree = {"output": "x", "steps": 1, "method": {"name": "fpd"}, "data": {"name": "uniform_labels", "num_classes": 10}}
    parsed = load_config(write(tmp_path, tree))
    assert parsed.optimizer.lr == 1e-5
    assert parsed.micro_batch == 32
    assert parsed.ema.decay == 0.9999
    assert parsed.method.objective.bandwidths == (0.02, 0.05, 0.2)
    assert parsed.method.objective.estimator == "straight_through"
    assert parsed.method.lift.grid == "4x4"


def test_a_hidden_own_target_needs_several_drafts(tmp_path, config):
    several = ["method.objective.own_target=mask", "micro_batch=8", "method.drafts_per_condition=4"]
    assert load_config(write(tmp_path, config), several).method.objective.own_target == "mask"
    with pytest.raises(ConfigError, match="one draft per condition leaves nothing that carries the condition"):
        load_config(write(tmp_path, config), [*several[:2], "method.drafts_per_condition=1"])


@pytest.mark.parametrize(
    "registry", [TEACHERS, BACKBONES, DISTANCES, BRANCHES, METHODS, SOURCES], ids=lambda r: r.group
)
def test_a_section_stands_in_its_registry_under_every_name_it_takes(registry):
    """Else a config of that name would be refused."""
    for name in registry.own:
        entry = registry[name]
        section = entry[0] if isinstance(entry, tuple) else entry
        takes = get_args(section.model_fields["name"].annotation)
        assert name in takes
        assert set(takes) <= set(registry.own)
