"""The bundled assets are what their cards say: they load, they are small, and they are good enough to measure with."""

from pathlib import Path

import pytest
import torch

from fpd_core import load_generator
from fpd_core.idx import read_images, read_labels
from fpd_core.networks.classifier import accuracy, load_classifier
from fpd_core.networks.vq_tokenizer import load_tokenizer
from fpd_core.sampling import sample
from fpd_core.teachers import load_teacher

ASSETS = Path(__file__).resolve().parents[3] / "assets" / "fashion"
MIB = 2**20


@pytest.fixture(scope="module")
def real():
    pixels = torch.from_numpy(read_images(ASSETS / "data" / "t10k-images-idx3-ubyte.gz").copy())
    images = torch.nn.functional.pad(pixels.float() / 255, (2, 2, 2, 2))[:, None].expand(-1, 3, -1, -1)
    return images, torch.from_numpy(read_labels(ASSETS / "data" / "t10k-labels-idx1-ubyte.gz").astype("int64"))


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(ASSETS / "classifier")


def test_the_classifier_knows_at_least_92_percent(classifier, real):
    images, labels = real
    batches = [accuracy(classifier, images[i : i + 500], labels[i : i + 500]) for i in range(0, 10_000, 500)]
    assert sum(batches) / len(batches) >= 0.92


def test_the_tokenizer_reconstructs_and_uses_its_codebook(real):
    tokenizer = load_tokenizer(ASSETS / "tokenizer")
    images = real[0][:500]
    with torch.no_grad():
        tokens = tokenizer.encode(images)
        error = (tokenizer.decode(tokenizer.codebook[tokens]) - images).square().mean()
    assert -10 * error.log10() > 22
    assert len(tokens.unique()) > 240


@pytest.mark.parametrize(("maker", "least"), [("teacher, 8 steps", 0.9), ("student, 1 step", 0.85)])
def test_images_show_what_was_asked_for(classifier, maker, least):
    """On 1,000 images they are at 0.942 and 0.916."""
    labels = torch.arange(200) % 10
    if maker.startswith("student"):
        images = load_generator(ASSETS / "student").generate(labels, seed=1)
    else:
        teacher = load_teacher({"name": "fashion", "path": str(ASSETS / "teacher")})
        condition = teacher.condition(labels)
        tokens = sample(teacher, condition, 8, generator=torch.Generator().manual_seed(1))
        images = teacher.decode(teacher.codebook[tokens], condition)
    assert accuracy(classifier, images, labels) > least


def test_student_and_teacher_share_tokenizer_and_frozen_parts():
    teacher = load_teacher({"name": "fashion", "path": str(ASSETS / "teacher")}).state_dict()
    student = load_generator(ASSETS / "student").model.state_dict()
    for name in ("tokenizer.codebook", "network.tok_emb.weight", "network.pos_emb", "network.bias"):
        assert torch.equal(teacher[name], student[name]), name
    assert not torch.equal(teacher["network.last_layer.2.weight"], student["network.last_layer.2.weight"])


@pytest.mark.parametrize("name", ["tokenizer", "teacher", "classifier", "student"])
def test_every_asset_has_a_card_with_its_command(name):
    card = (ASSETS / name / "README.md").read_text()
    for word in ("license:", "Made by `", "seed", "torch", "## Configuration"):
        assert word in card


def test_the_assets_stay_small():
    weights = sum(path.stat().st_size for path in ASSETS.rglob("*.safetensors"))
    assert weights <= 15 * MIB
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 25 * MIB
