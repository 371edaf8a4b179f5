"""What a run looks at before anything is loaded, and the sizes that it says first, against sums by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fpd_core import load_generator
from fpd_core.config import CheckpointError, ConfigError
from fpd_core.places import bundled
from fpd_core.weights import WEIGHT_FILES
from fpd_train.cli import app
from fpd_train.config import load_config
from fpd_train.ema import Ema, EmaConfig
from fpd_train.errors import DataError
from fpd_train.memory import by_part, estimate, published_sizes
from fpd_train.preflight import check_first, require_ready, weight_folders
from fpd_train.schema import FILE, current_schema, schema_text
from fpd_train.second_moment import SecondMomentAdamW


@pytest.fixture
def load(config, tmp_path):
    """The tiny config with changes of top-level keys."""

    def loaded(**changes):
        path = tmp_path / "run.json"
        path.write_text(json.dumps(config | changes))
        return load_config(path)

    return loaded


MASKGEN = {"name": "fpd", "teacher": {"name": "maskgen"}, "lift": {"backbone": {"name": "dinov3"}}}
CAPTIONS = {"name": "caption_shards", "folder": "nowhere"}


def test_a_run_with_everything_there_is_let_through(load):
    require_ready(load())


def test_missing_weights_are_all_named(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        require_ready(load(method=MASKGEN, data=CAPTIONS))
    for file in (*WEIGHT_FILES["maskgen"], *WEIGHT_FILES["dinov3"]):
        assert str(file.local) in str(refusal.value)


def test_missing_captions_are_named_before_synthetic_weights_are_made(load):
    method = {"name": "fpd", "teacher": {"name": "maskgen", "weights": "synthetic"}, "lift": {"space": "pixel"}}
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        check_first(load(method=method, data=CAPTIONS))


def test_a_teacher_folder_that_is_not_there_is_named(load, config):
    method = config["method"] | {"teacher": {"name": "fashion", "path": "no/teacher"}}
    with pytest.raises(CheckpointError, match="no/teacher is not a weight folder"):
        require_ready(load(method=method))


def test_a_run_folder_under_a_file_is_refused(load, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        require_ready(load(output=str(tmp_path / "file" / "run")))


def test_other_ranks_and_finished_runs_look_at_nothing(load, tmp_path, monkeypatch):
    lacking = load(data=CAPTIONS)
    monkeypatch.setenv("RANK", "1")
    check_first(lacking)
    monkeypatch.delenv("RANK")
    lacking.output.mkdir()
    (lacking.output / "done.json").write_text("{}")
    check_first(lacking)


def test_run_says_it_before_deepspeed(config, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(config | {"data": CAPTIONS}))
    program = (
        "import sys; from fpd_train.cli import main\n"
        "try: main()\n"
        "finally: print('deepspeed' in sys.modules, 'timm' in sys.modules)"
    )
    arguments = ["run", "--config", str(tmp_path / "run.json")]
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: nowhere does not exist")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout.strip() == "False False"


def test_doctor_lists_data(config, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(config | {"data": CAPTIONS}))
    result = CliRunner().invoke(app, ["doctor", "--config", str(tmp_path / "run.json")])
    assert result.exit_code == 1
    assert "missing  data: nowhere does not exist" in result.stdout
    assert "device cpu: cpu" in result.stdout
    assert "can be written" in result.stdout
    as_json = CliRunner().invoke(app, ["doctor", "--json", "--config", str(tmp_path / "run.json")])
    assert [(one["path"], one["present"]) for one in json.loads(as_json.stdout)] == [("nowhere", False)]


# Published numbers of parameters: MaskGen-L, TA-TiTok, the text tower, DINOv3 ViT-B/16.
TRANSFORMER, TOKENIZER, TEXT = 604_311_552, 391_046_292, 123_650_304


def test_memory_is_counted_by_part(load):
    engine = {"precision": "bfloat16", "zero_stage": 1}
    config = load(method=MASKGEN, data=CAPTIONS, engine=engine)
    [backbone] = (file.num_parameters for file in WEIGHT_FILES["dinov3"])
    assert by_part(config, published_sizes(config)) == {
        "student": 2 * TRANSFORMER,
        "masters": 4 * TRANSFORMER,
        "gradients": 4 * TRANSFORMER,
        "optimizer": 8 * TRANSFORMER,
        "EMA": 4 * TRANSFORMER,
        "teacher": 4 * TRANSFORMER,
        "tokenizer": 4 * TOKENIZER,
        "text encoder": 4 * TEXT,
        "backbone": 4 * backbone,
    }


def test_the_smaller_way_saves_ten_bytes_a_parameter(load):
    engine = {"precision": "bfloat16", "zero_stage": 1}
    whole = load(method=MASKGEN, data=CAPTIONS, engine=engine)
    small = load(
        method=MASKGEN | {"teacher_precision": "bfloat16"},
        data=CAPTIONS,
        engine=engine,
        ema={"enabled": False},
        optimizer={"first_moment": False},
    )
    total = [sum(by_part(one, published_sizes(one)).values()) for one in (whole, small)]
    assert total[0] - total[1] == (4 + 4 + 2) * TRANSFORMER
    first, second = estimate(whole)
    assert f"at least {total[0] / 1e9:.1f} GB" in first
    assert second.startswith(f"memory: {total[1] / 1e9:.1f} GB with --set method.teacher_precision=bfloat16")
    assert len(estimate(small)) == 1


def test_synthetic_weights_take_as_much_and_bundled_ones_say_nothing(load):
    synthetic = {"name": "fpd", "teacher": {"name": "maskgen", "weights": "synthetic"}, "lift": {"space": "pixel"}}
    assert published_sizes(load(method=synthetic, data=CAPTIONS)).transformer == TRANSFORMER
    assert estimate(load()) == []


def test_zero_shares_masters_and_optimizer(load, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    parts = by_part(load(method=MASKGEN, data=CAPTIONS), published_sizes(load(method=MASKGEN, data=CAPTIONS)))
    assert (parts["masters"], parts["optimizer"]) == (TRANSFORMER, 2 * TRANSFORMER)
    assert parts["gradients"] == 4 * TRANSFORMER


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_without_a_first_moment_it_is_adamw_with_beta1_zero(weight_decay):
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 5), torch.randn(7, 3, 5)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    first = SecondMomentAdamW([ours], 0.01, beta2=0.9, eps=1e-6, weight_decay=weight_decay)
    second = torch.optim.AdamW([theirs], 0.01, betas=(0.0, 0.9), eps=1e-6, weight_decay=weight_decay)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert {key for state in first.state.values() for key in state} == {"step", "exp_avg_sq"}


def test_without_an_average_the_network_itself_is_shown_and_nothing_saved():
    network = nn.Linear(2, 3)
    ema = Ema(network, EmaConfig(enabled=False))
    assert ema.module is network
    assert ema.state() == {}
    ema.update(0, [("weight", torch.zeros(3, 2))], {})
    assert network.weight.requires_grad
    assert network.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ema": {"enabled": False}, "engine": {"zero_stage": 3}}, "keeps in pieces"),
        ({"optimizer": {"first_moment": False}, "engine": {"zero_stage": 0}}, "needs zero_stage 1"),
        ({"method": MASKGEN | {"teacher_precision": "bfloat16"}, "data": CAPTIONS}, "needs engine.precision bfloat16"),
    ],
)
def test_options_that_contradict_each_other_are_refused(load, changes, said):
    with pytest.raises(ConfigError, match=said):
        load(**changes)


def test_the_kept_schema_is_the_current_one():
    assert json.loads(schema_text()) == json.loads(current_schema()), f"fpd-train schema --current > .../{FILE}"


@pytest.mark.distributed
def test_the_smaller_way_trains_and_resumes(launch, config):
    less = {
        "method": config["method"] | {"teacher_precision": "bfloat16"},
        "engine": {"precision": "bfloat16"},
        "ema": {"enabled": False},
        "optimizer": {"lr": 1e-3, "first_moment": False},
        "sample_every": 2,
    }
    for steps in (2, 3):
        code, output = launch(**less, steps=steps)
        assert code == 0, output
    assert "resuming" in output
    student = load_generator(Path(config["output"]) / "student")
    assert student.generate([0, 1], seed=0).isfinite().all()


def test_the_shipped_runs_of_the_bundled_worlds_need_nothing_but_shards():
    configs = Path(__file__).resolve().parents[3] / "configs"
    for name in ("fashion", "scenes", "scenes-judge", "scenes-teacher", "scenes-text", "fashion-gan"):
        loaded = load_config(configs / f"{name}.json")
        for folder in weight_folders(loaded.method):
            assert (bundled(folder) / "config.json").is_file(), (name, folder)
