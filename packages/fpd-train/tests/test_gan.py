"""Distillation with the adversarial term: its schedule, its refusals, and whole runs with two engines."""

import json
import time
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fpd_core.conditioning import ClassCondition
from fpd_core.config import ConfigError
from fpd_core.discriminator import DeitBranch, Discriminator, Taps
from fpd_core.weights import missing
from fpd_train.batch import Batch
from fpd_train.config import load_config
from fpd_train.data.write_shards import write_shards
from fpd_train.methods.fpd import FpdConfig, FpdMethod
from fpd_train.methods.gan import DISCRIMINATOR, STUDENT, Gan, GanConfig
from fpd_train.methods.interface import Parts

SMALL = [{"name": "efficientnet_lite0", "image_size": 64}]
PARTS = Parts(torch.device("cpu"), 1, 0, 100)


def png(side, number):
    pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def shards(folder, side):
    samples = ({"__key__": f"{n:04d}", "png": png(side, n), "cls": str(n % 3).encode()} for n in range(40))
    write_shards(samples, folder, 20)
    return {"name": "image_shards", "folder": str(folder), "num_classes": 3, "image_size": side}


@pytest.fixture
def gan_config(config, tmp_path):
    """The tiny run with the adversarial term from its third step on, the discriminator warmed up at the second."""
    method = config["method"] | {"gan": {"branches": SMALL, "start_step": 1, "discriminator_steps": 1}}
    return config | {"method": method, "data": shards(tmp_path / "shards", 32), "steps": 5, "sample_every": 100}


def method(teacher_folder, **gan):
    section = {"branches": SMALL, "start_step": 0, "discriminator_steps": 0} | gan
    teacher, lift = {"path": str(teacher_folder)}, {"space": "pixel"}
    tree = {"teacher": teacher, "lift": lift, "drafts_per_condition": 4, "gan": section}
    torch.manual_seed(0)
    return FpdMethod(FpdConfig.model_validate(tree), PARTS)


def without_the_term(teacher_folder):
    teacher, lift = {"path": str(teacher_folder)}, {"space": "pixel"}
    return FpdMethod(FpdConfig.model_validate({"teacher": teacher, "lift": lift, "drafts_per_condition": 4}), PARTS)


def batch(images=8, side=32, conditions=8):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(images, 3, side, side, generator=generator)
    return Batch(ClassCondition(torch.arange(conditions) % 3), pictures)


def loss_of(made, phase, batch):
    forward = {STUDENT: made.networks[STUDENT], DISCRIMINATOR: made.networks[DISCRIMINATOR]}
    return made.loss(phase, batch, forward, torch.Generator().manual_seed(1), 0)


def test_drift_alone_then_the_discriminator_alone_then_both(teacher_folder):
    made = method(teacher_folder, start_step=2, discriminator_steps=1)
    phases = [list(made.phases(step)) for step in range(5)]
    assert phases == [[STUDENT], [STUDENT], [DISCRIMINATOR], [STUDENT, DISCRIMINATOR], [STUDENT, DISCRIMINATOR]]


def test_each_phase_moves_its_own_network(teacher_folder):
    made = method(teacher_folder)
    for phase, other in ((STUDENT, DISCRIMINATOR), (DISCRIMINATOR, STUDENT)):
        for network in made.networks.values():
            network.zero_grad()
        loss, _ = loss_of(made, phase, batch())
        loss.backward()
        assert any(p.grad is not None and p.grad.any() for p in made.networks[phase].parameters())
        assert all(p.grad is None for p in made.networks[other].parameters())


def test_the_adversarial_term_changes_the_students_gradient_by_its_ratio(teacher_folder):
    """λ is set so at the images; the reports say the same."""
    loss, report = loss_of(method(teacher_folder, gradient_ratio=0.25), STUDENT, batch())
    assert report["gan_ratio"] == pytest.approx(0.25)
    assert loss.item() == pytest.approx(report["loss"] + report["gan_weight"] * report["loss_gan"], rel=1e-5)


def test_before_the_start_the_loss_is_that_of_a_run_without(teacher_folder):
    made, plain = method(teacher_folder), without_the_term(teacher_folder)
    given = batch()
    small = Batch(given.condition[:2])
    alone, _ = made.loss(STUDENT, given, {STUDENT: made.networks[STUDENT]}, torch.Generator().manual_seed(1), 0)
    without, _ = plain.loss(STUDENT, small, {STUDENT: plain.networks[STUDENT]}, torch.Generator().manual_seed(1), 0)
    assert torch.equal(alone, without)


def accumulated(made, batches):
    """The student's mean gradient over the micro-batches of one step, as the trainer takes it."""
    forward = {STUDENT: made.networks[STUDENT]}
    forward |= {DISCRIMINATOR: made.networks[DISCRIMINATOR]} if DISCRIMINATOR in made.networks else {}
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(batches))]
    made.prepare(STUDENT, batches, forward, generators, 0)
    for part, generator in zip(batches, generators, strict=True):
        (made.loss(STUDENT, part, forward, generator, 0)[0] / len(batches)).backward()
    return torch.cat([p.grad.flatten() for p in made.networks[STUDENT].parameters() if p.grad is not None])


def test_the_adversarial_term_adds_to_the_one_drift_problem_of_all_micro_batches(teacher_folder):
    """Without weight it changes nothing of the two passes' gradient; with weight it adds to it in proportion."""
    found = {weight: accumulated(method(teacher_folder, weight=weight), [batch(), batch()]) for weight in (0, 1, 3)}
    drift = accumulated(without_the_term(teacher_folder), [Batch(batch().condition[:2])] * 2)
    torch.testing.assert_close(found[0], drift, rtol=1e-5, atol=1e-7)
    added = found[1] - drift
    assert added.norm() > 1e-3 * drift.norm()
    torch.testing.assert_close(found[3] - drift, 3 * added, rtol=1e-3, atol=1e-3 * float(added.abs().max()))


def test_real_and_generated_images_may_differ_in_number(teacher_folder):
    _, report = loss_of(method(teacher_folder), DISCRIMINATOR, batch(images=5))
    assert report["loss_d"] == pytest.approx(2, abs=0.7)
    assert 0 <= report["d_real"] <= 1
    assert 0 <= report["d_fake"] <= 1


def test_real_images_may_pass_the_tokenizer(teacher_folder):
    made = method(teacher_folder, real_through_tokenizer=True)
    teacher, given = made._teacher, batch()
    rebuilt = teacher.tokenizer.decode(teacher.codebook[teacher.tokenizer.encode(given.images)])
    other = method(teacher_folder)
    _, report = loss_of(made, DISCRIMINATOR, given)
    _, expected = loss_of(other, DISCRIMINATOR, Batch(given.condition, rebuilt))
    assert report == expected


def test_a_family_without_an_encoder_refuses_the_tokenizer():
    teacher = SimpleNamespace(architecture=lambda: {"name": "meissonic"})
    config = GanConfig.model_validate({"branches": SMALL, "real_through_tokenizer": True})
    with pytest.raises(ValueError, match="the meissonic family has no encoder"):
        Gan(config, FpdConfig().objective, teacher, PARTS)


@pytest.mark.parametrize("phase", [STUDENT, DISCRIMINATOR])
def test_images_of_another_size_are_refused(teacher_folder, phase):
    with pytest.raises(ValueError, match="the real images are 28x28 pixels, the student draws 32x32"):
        loss_of(method(teacher_folder), phase, batch(side=28))


def test_a_source_without_images_is_refused(config, tmp_path):
    path = tmp_path / "run.json"
    tree = config | {"method": config["method"] | {"gan": {"branches": SMALL}}}
    path.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"compares with real images, and data\.name 'uniform_labels' brings none"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"data\.name 'scenes' brings none"):
        load_config(path, ['data={"name": "scenes", "has_images": false}'])
    assert load_config(path, ['data={"name": "scenes"}']).method.gan.gradient_ratio == 0.1


def test_the_discriminator_has_adam_and_full_precision_of_its_own(teacher_folder):
    settings = method(teacher_folder).settings[DISCRIMINATOR]
    own = settings.optimizer
    assert (own.lr, own.betas, own.eps, own.weight_decay) == (2e-4, (0.0, 0.99), 1e-8, 0)
    assert settings.precision == "float32"


def test_the_missing_deit_file_is_listed_with_the_others(tmp_path):
    config = FpdConfig(gan=GanConfig(branches=(DeitBranch(path=tmp_path / "absent"),)))
    (file,) = missing(config.required_files())
    assert file.file.filename == "model.safetensors"
    with pytest.raises(ValueError, match="fpd-train weights pull deit"):
        FpdMethod(config, PARTS)


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.02)


def metrics(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


@pytest.mark.distributed
@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_interrupted_run_resumes_both_engines_to_the_same_numbers(launch, gan_config, tmp_path, accumulation):
    gan_config["engine"] = {"accumulation": accumulation}
    code, output = launch(**gan_config)
    assert code == 0, output
    straight = Path(gan_config["output"]).rename(tmp_path / "straight")
    process = launch(wait=False, **gan_config)
    wait_for(Path(gan_config["output"]) / "checkpoints" / "step_000003" / "state.json", process)
    process.kill()
    process.wait()
    code, output = launch(**gan_config)
    assert code == 0, output
    assert "resuming" in output
    assert metrics(gan_config["output"]) == metrics(straight)
    assert metrics(straight)[-1]["images_seen"] == 5 * 8 * accumulation
    assert {"loss_d", "loss_gan", "lr", "lr/discriminator"} <= metrics(straight)[-1].keys()
    for name in ("student", "discriminator"):
        folders = (straight, Path(gan_config["output"]))
        one, two = (load_file(folder / f"checkpoints/step_000005/{name}.ema.safetensors") for folder in folders)
        assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.distributed
def test_partitioning_does_not_change_the_two_losses(launch, gan_config, tmp_path):
    """Every ZeRO stage on two ranks; the frozen projection in the checkpoint is the one that any process draws."""
    found = {}
    for stage in (0, 1, 2, 3):
        folder = tmp_path / f"stage{stage}"
        changes = {"steps": 4, "save_every": 4, "engine": {"zero_stage": stage}, "output": str(folder)}
        code, output = launch(ranks=2, **(gan_config | changes))
        assert code == 0, output
        found[stage] = [line[key] for line in metrics(folder) for key in ("loss", "loss_d", "loss_gan") if key in line]
        saved = load_file(folder / "checkpoints/step_000004/discriminator.ema.safetensors")
        fresh = Discriminator([Taps((24, 40, 112, 320), (16, 8, 4, 2), are_tokens=False)]).state_dict()
        frozen = [name for name in fresh if ".projection." in name]
        assert frozen
        assert all(torch.equal(saved[name], fresh[name]) for name in frozen)
    assert len(found[1]) == 3 + 3 + 2
    for stage in (0, 2, 3):
        assert found[stage] == pytest.approx(found[1], rel=1e-3)
