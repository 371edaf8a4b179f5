"""Runs with another distance or reference: what they draw, keep and remember."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from fpd_core.conditioning import ClassCondition
from fpd_core.objective import ObjectiveConfig
from fpd_train.batch import Batch
from fpd_train.methods import teacher_samples
from fpd_train.methods.comparison import run_comparison
from fpd_train.methods.fpd import FpdConfig, FpdMethod
from fpd_train.methods.interface import Parts, Remembers

SAMPLES = {"count": 24, "steps": 3}


@pytest.fixture
def method_of(teacher_folder, tmp_path):
    def build(objective, **changes):
        section = {"teacher": {"name": "fashion", "path": str(teacher_folder)}, "lift": {"space": "pixel"}}
        config = FpdConfig.model_validate(section | {"objective": objective, "drafts_per_condition": 3} | changes)
        return FpdMethod(config, Parts(torch.device("cpu"), world=1, seed=0, steps=5, folder=tmp_path))

    return build


def one_loss(method):
    batch = Batch(ClassCondition(torch.tensor([0, 2])))
    return method.loss("student", batch, method.networks, torch.Generator().manual_seed(3), 0)


@pytest.mark.parametrize(
    ("distance", "name"), [("drift", "rms"), ("mmd", "mmd"), ("nystrom", "mmd"), ("frechet", "frechet")]
)
def test_with_samples_the_teacher_is_drawn_from_once_and_not_asked_again(method_of, monkeypatch, distance, name):
    section = {"name": distance} | ({"landmarks": 20} if distance == "nystrom" else {})
    objective = {"reference": "samples", "samples": SAMPLES, "distance": section}
    first = method_of(objective)

    def refuse(*_, **__):
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(type(first._teacher), "guided_logits", refuse)
    monkeypatch.setattr(teacher_samples, "sample", refuse)
    results = [one_loss(method) for method in (first, method_of(objective))]  # the second has them from the folder
    (loss, report), (again, _) = results
    assert torch.equal(loss, again)
    assert math.isfinite(report[name])
    assert f"{name}/pixels" in report or f"{name}/pixels/h0.02" in report
    assert "changed" not in report
    loss.backward()
    assert sum(float(p.grad.abs().sum()) for p in first.networks["student"].parameters() if p.grad is not None) > 0


def test_other_samples_are_drawn_where_others_are_asked_for(method_of, tmp_path):
    drawn = []
    for count in (24, 30):
        objective = {"reference": "samples", "samples": SAMPLES | {"count": count}}
        drawn.append(method_of(objective)._comparison.samples)
        stored = json.loads((tmp_path / teacher_samples.REFERENCE).read_text())
        assert len(stored["tokens"]) == count
    assert [len(samples.labels) for samples in drawn] == [24, 30]
    assert drawn[0].labels.bincount().tolist() == [8, 8, 8]


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        ({"distance": {"name": "mmd"}}, {"drafts_per_condition": 1}, "compares samples of one condition, and there is"),
        ({"distance": {"name": "frechet"}}, {"gather": False}, "remembers what all ranks saw; set gather to true"),
        ({"reference": "samples", "samples": {"steps": 65}}, {}, r"samples\.steps 65 is above the 64 tokens"),
    ],
)
def test_runs_that_make_no_sense_are_refused(method_of, objective, changes, message):
    with pytest.raises(ValueError, match=message):
        method_of(objective, **changes)


def test_captions_cannot_be_drawn_ahead():
    captions = SimpleNamespace(num_classes=None, image_size=32)
    with pytest.raises(ValueError, match="needs a teacher of classes"):
        run_comparison(ObjectiveConfig(reference="samples"), captions, None, None, None)


def test_only_a_distance_that_remembers_is_in_checkpoints(method_of):
    forgets, remembers = method_of({"distance": {"name": "mmd"}}), method_of({"distance": {"name": "frechet"}})
    assert forgets.remembered == {}
    assert isinstance(remembers, Remembers)
    before = {name: value.clone() for name, value in remembers.remembered["distance"].state_dict().items()}
    one_loss(remembers)
    after = remembers.remembered["distance"].state_dict()
    assert before.keys() == after.keys() == {"mean0", "second0", "odds0", "count0"}
    assert all(not torch.equal(value, before[name]) for name, value in after.items() if name != "mean0")


def test_a_resumed_run_remembers_what_the_distance_saw(launch, config, tmp_path):
    """From the checkpoint of step 2 the run goes on to the very weights it had."""
    distance = {"name": "nystrom", "landmarks": 20, "decay": 0.8}
    method = config["method"] | {"objective": {"distance": distance, "reference": "samples", "samples": SAMPLES}}
    options = {"method": method, "steps": 4, "keep_checkpoints": 4, "sample_every": 100}
    code, output = launch(**options)
    assert code == 0, output
    weights = tmp_path / "run" / "student" / "model.safetensors"
    first = load_file(weights)
    remembered = load_file(tmp_path / "run" / "checkpoints" / "step_000002" / "distance.remembered.safetensors")
    assert remembered["seen0"].sum() > 0
    weights.unlink()
    code, output = launch(**options, arguments=("--checkpoint", "step_000002"))
    assert code == 0, output
    assert "resuming" in output
    again = load_file(weights)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
