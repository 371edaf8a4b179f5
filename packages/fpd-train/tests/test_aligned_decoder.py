"""The decoder stage: what it trains, what it leaves alone, what it writes."""

import pytest
import torch

from fpd_core import load_generator
from fpd_core.checkpoints import save_folder
from fpd_core.conditioning import ClassCondition
from fpd_core.generator import GenerationConfig, save_generator
from fpd_core.networks.classifier import Classifier, ClassifierConfig
from fpd_core.teachers import load_teacher
from fpd_train.batch import Batch
from fpd_train.ema import Ema, EmaConfig
from fpd_train.methods import aligned_decoder
from fpd_train.methods.aligned_decoder import AlignedDecoderConfig, AlignedDecoderMethod
from fpd_train.methods.interface import Parts


@pytest.fixture
def section(teacher_folder, tmp_path):
    torch.manual_seed(1)
    teacher = load_teacher({"name": "fashion", "path": str(teacher_folder)})
    how, student = GenerationConfig(init_mask_ratio=0.8, temperature=0.7), tmp_path / "student"
    save_generator(student, teacher, teacher.network, how, {"name": "fashion"}, "# card", torch.float32)
    sizes = ClassifierConfig(num_classes=3, widths=(8, 8, 8), feature_dim=6)
    save_folder(tmp_path / "judge", {"classifier": sizes.model_dump()}, Classifier(sizes).state_dict(), "# card")
    return {"generator": str(student), "encoder": {"name": "classifier", "path": str(tmp_path / "judge")}}


@pytest.fixture
def method(section):
    return built(section)


def built(section):
    config = AlignedDecoderConfig.model_validate(section)
    return AlignedDecoderMethod(config, Parts(torch.device("cpu"), world=1, seed=0, steps=4))


def batch(seed=0):
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch(ClassCondition(torch.arange(6) % 3), images)


def step(method, seed=0):
    network = method.networks["decoder"]
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    loss, report = method.loss("decoder", batch(seed), method.networks, torch.Generator().manual_seed(seed), 0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return report


def test_the_decoder_is_trained_and_nothing_else(method):
    network = method.networks["decoder"]
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {
        f"model.tokenizer.decoder.{name}" for name, _ in network.model.tokenizer.decoder.named_parameters()
    }
    state = Ema(network, EmaConfig(), saves_frozen=False).state()
    assert not any("network." in name or "encoder." in name for name in state)


def test_a_step_moves_the_decoder_and_leaves_the_student_as_it_was(method, section):
    original = load_generator(section["generator"])
    before = original.generate([0, 1, 2], seed=3)
    step(method)
    assert torch.equal(method._before.generate([0, 1, 2], seed=3), before)
    assert not torch.equal(method._after(method.networks).generate([0, 1, 2], seed=3), before)


def test_the_export_opens_as_before_with_its_own_decoder(method, section, tmp_path):
    step(method)
    method.export(tmp_path / "aligned", method.networks, "# card")
    old, new = load_generator(section["generator"]), load_generator(tmp_path / "aligned")
    assert new.generation == old.generation
    assert new.teacher_config == {"name": "fashion"}
    condition = old.model.condition([0, 1, 2, 0])
    drawn = [one.tokens(condition, torch.Generator().manual_seed(5)) for one in (old, new)]
    assert torch.equal(*drawn)  # the same transformer, to float16
    torch.testing.assert_close(new.model.codebook, old.model.codebook, rtol=1e-3, atol=1e-3)
    assert float((new.generate([0], seed=1) - old.generate([0], seed=1)).abs().max()) > 1e-3


def test_moments_are_those_of_all_batches_so_far_until_the_decay_rules(method):
    network = method.networks["decoder"]
    parts = torch.randn(3, 4, 6, dtype=torch.float64).float()
    for number, part in enumerate(parts, start=1):
        mean, covariance = network.moments("real", part, 1 / number)
    seen = parts.flatten(0, 1)
    torch.testing.assert_close(mean, seen.mean(0))
    torch.testing.assert_close(covariance, torch.cov(seen.T, correction=0), rtol=1e-4, atol=1e-5)


def test_only_this_batch_pulls_on_the_moments(method):
    network = method.networks["decoder"]
    network.moments("drafts", torch.randn(4, 6), 1.0)
    features = torch.randn(4, 6, requires_grad=True)
    mean, _ = network.moments("drafts", features, 0.25)
    mean.sum().backward()
    torch.testing.assert_close(features.grad, torch.full((4, 6), 0.25 / 4))


def test_reconstruction_is_held_by_its_weight(section):
    """Without it the loss never encodes; with it L1 of real images is reported."""
    free, held = built(section | {"reconstruction_weight": 0}), built(section)
    assert step(free)["l1"] == 0
    rebuilt = held._before.model
    images = batch().images
    expected = (rebuilt.decode(rebuilt.codebook[rebuilt.tokenize(images)], None) - images).abs().mean()
    assert step(held)["l1"] == pytest.approx(float(expected), rel=1e-5)


def test_quality_is_psnr_before_and_after(method):
    step(method)
    report = method.quality(method.networks, iter(batch(n) for n in range(64)))
    model, errors = method._before.model, []
    for n in range(64):
        images = batch(n).images
        rebuilt = model.decode(model.codebook[model.tokenize(images)], None)
        errors.append((rebuilt - images).square().mean())
    assert report["psnr_db_before"] == pytest.approx(float(-10 * torch.stack(errors).mean().log10()), abs=1e-4)
    assert report["psnr_db"] != report["psnr_db_before"]


def test_a_grid_shows_before_and_after(method):
    grid = method.grid(method.networks, torch.Generator().manual_seed(0))
    assert grid.shape == (20, 3, 32, 32)
    assert torch.equal(grid[:10], grid[10:])  # nothing is trained yet


def test_what_is_missing_is_said(section, monkeypatch):
    with pytest.raises(ValueError, match="the data brings none; use image_shards"):
        built(section).loss("decoder", Batch(ClassCondition(torch.tensor([0]))), {}, torch.Generator(), 0)
    monkeypatch.setattr(aligned_decoder, "Tokenizes", ())  # as if no family could encode
    with pytest.raises(ValueError, match="the fashion family has no encoder; set it to 0"):
        built(section)
