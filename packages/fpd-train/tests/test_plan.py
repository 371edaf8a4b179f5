"""`fpd-train plan`: its counts against torch's on real tensors, its bytes against runs of two ranks."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cost_lines
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner
from warm_python import outcome

from fpd_core.checkpoints import save_folder
from fpd_core.conditioning import ClassCondition
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.vq_tokenizer import VqTokenizer, VqTokenizerConfig
from fpd_core.teachers.fashion import FashionTeacher
from fpd_core.weights import WEIGHT_FILES
from fpd_train.batch import Batch
from fpd_train.cli import app
from fpd_train.config import load_config, parse
from fpd_train.methods import build_method
from fpd_train.methods.interface import Parts
from fpd_train.plan.estimate import Assumptions, estimate
from fpd_train.plan.gpus import Gpu
from fpd_train.plan.outline import Outline, outline
from fpd_train.plan.zero import Network, kept, on_the_wire, passing, sent
from fpd_train.pretrain.scene_judge import SceneJudgeMethod

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTATION = ROOT / "docs" / "deploy-training.md"
MEASURED = Path(__file__).parent / "data" / "measured_run.py"


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """A teacher with parameters above and below the size that stage 3 keeps whole."""
    torch.manual_seed(0)
    sizes = MaskGitConfig(codebook_size=512, num_classes=3, seq_len=64, width=256, depth=2, num_heads=4, mlp_width=1024)
    tokenizer = VqTokenizerConfig(codebook_size=512, code_dim=5, widths=(8, 8, 8))
    teacher = FashionTeacher(MaskGit(sizes), VqTokenizer(tokenizer))
    folder = tmp_path_factory.mktemp("wide")
    save_folder(folder, {"architecture": teacher.architecture()}, teacher.state_dict(), "# wide")
    return folder


@pytest.fixture
def wide(config, wide_folder):
    config["method"] = {
        **config["method"],
        "teacher": {"name": "fashion", "path": str(wide_folder)},
        "grid_images": 2,
    }
    return config | {"steps": 2, "micro_batch": 4, "save_every": 9, "sample_every": 9}


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("stage", "precision", "accumulation"),
    [(0, "float32", 1), (1, "bfloat16", 1), (2, "bfloat16", 2), (3, "float32", 2)],
)
def test_two_ranks_keep_and_send_what_was_planned(wide, tmp_path, warm_python, stage, precision, accumulation):
    wide["engine"] = {"zero_stage": stage, "precision": precision, "accumulation": accumulation}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(wide))
    processes = warm_python.start([str(MEASURED), "--config", str(path)], ranks=2, cwd=tmp_path)
    code, output = outcome(processes)
    assert code == 0, output
    found = outline(load_config(path), 2)
    result = estimate(load_config(path), found, 2, CARD, ASSUMED)
    messages = Counter()
    for (_, operation), size in result.sent.items():
        messages[operation] += size
    for rank in (0, 1):
        measured = json.loads((tmp_path / f"measured_{rank}.json").read_text())
        assert measured["memory"] == pytest.approx(sum(result.kept.values()), rel=0.01)
        assert sum(measured["sent"].values()) == pytest.approx(sum(messages.values()), rel=0.01)
        for operation, size in messages.items():
            assert measured["sent"][operation] == pytest.approx(size, rel=0.01)


def test_flops_are_those_of_real_tensors(wide, monkeypatch):
    """The meta device against the CPU, with the attention that torch counts there."""
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
    loaded = parse(wide, "here")
    method = build_method(loaded.method, Parts(torch.device("cpu"), 1, 0, loaded.steps, False, None))
    batch = Batch(ClassCondition(torch.tensor([0, 1])))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss, _ = method.loss("student", batch, method.networks, torch.Generator().manual_seed(0), 0)
        loss.backward()
    # Fused attention computes the scores of two layers, [4, 65, 65] of 256 channels, again in backward.
    again = 2 * (2 * 4 * 65 * 65 * 256)
    assert sum(outline(loaded, 1).flops.values()) == counter.get_total_flops() + again


def test_activations_are_what_autograd_keeps(wide):
    loaded = parse(wide, "here")
    method = build_method(loaded.method, Parts(torch.device("cpu"), 1, 0, loaded.steps, False, None))
    modules = [method._teacher, method._lift, *method.networks.values()]
    own = {one.untyped_storage().data_ptr() for part in modules for one in (*part.parameters(), *part.buffers())}
    sizes = {}

    def keep(tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            sizes[place] = tensor.untyped_storage().nbytes()
        return tensor  # kept alive, so that no place is given twice

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        batch = Batch(ClassCondition(torch.tensor([0, 1])))
        loss, _ = method.loss("student", batch, method.networks, torch.Generator().manual_seed(0), 0)
    found = outline(loaded, 1)
    assert found.student_activations + found.activations == pytest.approx(sum(sizes.values()), rel=0.05)
    del loss


NETWORK = Network(trained=(6, 4), frozen=(3,), shared=0, buffers=0, is_half=True, moments=2, has_average=True)
FOUND = Outline(
    networks={"student": replace(NETWORK, trained=(1_000_000_000,))},
    frozen=2 * 10**9,
    transformer=10**9,
    flops={"bfloat16": 10**15, "float32": 10**12},
    student_activations=8 * 10**9,
    activations=16 * 10**9,
    gathered=0,
    pairs=0,
    passes={"student": 1},
    forwards={"student": 1},
    codes=16,
    logits=1,
)
CARD = Gpu(10**15, 10**14, 10**13, 10**13, 80 * 10**9, 10**11, 2.0)
ASSUMED = Assumptions(efficiency=0.5, price=2.0)


def test_the_arithmetic_of_a_small_network():
    """By hand: ten elements trained, three frozen, four ranks."""
    assert kept(NETWORK, 1, 4) == {
        "weights": 2 * 13,
        "masters": 3 * 4,
        "gradients": 40,
        "optimizer": 3 * 8,
        "EMA": 4 * (3 + 3),
    }
    assert passing(NETWORK, 0, 4) == {"gradients": 40}
    assert sent(NETWORK, 2, 4, passes=3, forwards=3) == {
        ("gradients", "all-reduce"): 60,
        ("weights", "all-gather"): 20,
    }
    assert sent(NETWORK, 2, 1, passes=3, forwards=3) == {}
    assert on_the_wire("all-reduce", 100, 4) == 150
    assert on_the_wire("reduce-scatter", 100, 4) == 75


def a_run(config, **engine):
    engine = {"precision": "bfloat16", "zero_stage": 1} | engine
    return parse(config | {"steps": 1800, "micro_batch": 8, "engine": engine}, "here")


def test_time_and_money(config):
    """2 s of bfloat16 and .2 s of float32 at half the peak; 2 GB twice and 2 GB once in the ring of two at 100 GB/s."""
    result = estimate(a_run(config), FOUND, 2, CARD, ASSUMED)
    assert result.seconds == pytest.approx({"bfloat16": 2, "float32": 0.2, "communication": (2 + 1) * 1e9 / 1e11})
    step = 2.23
    assert result.images_per_second == pytest.approx(16 / step)
    assert result.hours == pytest.approx(step * 1800 / 3600)
    assert result.dollars == pytest.approx(result.hours * 2 * 2.0)


def test_what_to_change_first(config):
    assert estimate(a_run(config), FOUND, 64, CARD, ASSUMED).change is None
    small = replace(CARD, memory=32 * 10**9)
    setting, then = estimate(a_run(config), FOUND, 64, small, ASSUMED).change
    assert setting == "engine.zero_stage=2"
    assert then == estimate(a_run(config, zero_stage=2), FOUND, 64, small, ASSUMED).memory
    assert estimate(a_run(config, zero_stage=2), FOUND, 64, small, ASSUMED).change is None
    batch = estimate(a_run(config), FOUND, 1, replace(CARD, memory=38 * 10**9), ASSUMED).change
    assert batch[0] == "micro_batch=2 and engine.accumulation=4"  # 4 images still take too much
    setting, then = estimate(a_run(config), FOUND, 1, replace(CARD, memory=10**9), ASSUMED).change
    assert setting == "method.adapter={}"
    assert then > 10**9


def plan(*words):
    return CliRunner().invoke(app, ["plan", *map(str, words)])


def test_the_command(wide, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(wide))
    found = plan("--config", path, "--gpus", 2, "--gpu", "a100-80gb", "--price", 3, "--json")
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout)
    assert record["assumed"]["price"] == 3
    assert record["dollars"] == pytest.approx(record["hours"] * 2 * 3)
    assert record["fits"] is True
    said = plan("--config", path).stdout
    assert "1 x h100" in said
    assert "with adapters (method.adapter)" in said
    assert plan("--config", path, "--gpu", "l4", "--set", "micro_batch=8192").exit_code == 1


def test_an_unknown_card_is_answered_with_the_nearest(tmp_path):
    result = plan("--config", tmp_path / "none.json", "--gpu", "h10")
    assert "unknown GPU 'h10'; did you mean 'h100'" in str(result.exception)


def test_every_recipe_has_its_cost_line_in_the_documentation():
    """A plan, or the sentence that says why there is none."""
    rows = dict(re.findall(r"^\| `(.+\.json)` \| (.+) \|$", DOCUMENTATION.read_text(), re.MULTILINE))
    assert set(rows) == {str(path.relative_to(ROOT / "configs")) for path in cost_lines.recipes()}
    planned = r"[\d,]+ steps on \d x \w+: [\d.]+ [GM]B per card, .+, \$[\d,.]+(; does not fit, change first: .+)?"
    assert not [row for row in rows.values() if not re.fullmatch(rf"{planned}|no plan: [^.]+", row)]


def small_recipes():
    """One of the bundled worlds for each method and stage; the public sizes differ from them in size alone."""
    found = {}
    for path in sorted(cost_lines.recipes(), key=lambda path: len(path.name), reverse=True):
        method = json.loads(path.read_text())["method"]
        if path.name.startswith(("fashion", "scenes")):
            found[method["name"], method.get("stage")] = path
    return list(found.values())


@pytest.mark.parametrize("path", small_recipes(), ids=lambda path: path.stem)
def test_the_documentation_states_what_is_planned(path):
    assert cost_lines.line(path) in DOCUMENTATION.read_text().splitlines()


def test_a_recipe_that_cannot_be_planned_has_the_reason_in_its_line(monkeypatch):
    def loss(*_):
        raise NotImplementedError("aten::fancy has no\nmeta kernel")

    monkeypatch.setattr(SceneJudgeMethod, "loss", loss)
    assert cost_lines.line(ROOT / "configs" / "scenes-judge.json") == (
        "| `scenes-judge.json` | no plan: method 'scene_judge' cannot be planned: torch's meta device, which knows "
        "shapes and no values, refuses a step of it (aten::fancy has no) |"
    )


@pytest.mark.full_size
def test_the_published_size_is_planned_without_its_weights():
    found = outline(load_config(ROOT / "configs" / "maskgit.json"), 64)
    student = found.networks["student"]
    (published,) = (one for one in WEIGHT_FILES["maskgit"] if one.role == "transformer")
    assert sum(student.trained) + sum(student.frozen) == published.num_parameters
    assert found.transformer == 4 * published.num_parameters
