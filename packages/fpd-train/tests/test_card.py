"""The card of an exported network: the licence follows the weights that it holds."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from fpd_train.card import model_card
from fpd_train.config import load_config

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("config", "licence", "base", "tag"),
    [
        ("maskgit", "mit", ["llvictorll/Maskgit-pytorch"], "unconditional-image-generation"),
        ("maskgen", "other", "turkeyju/generator_maskgen_vq_l", "text-to-image"),
        ("fashion", "apache-2.0", "fashion", "unconditional-image-generation"),
        ("rivals/fashion-dimo", "apache-2.0", "fashion", "unconditional-image-generation"),
        ("fashion-decoder", "apache-2.0", "fashion", "unconditional-image-generation"),
        ("fashion-tokenizer", "apache-2.0", None, None),
    ],
)
def test_the_licence_is_that_of_the_weights_inside(monkeypatch, config, licence, base, tag):
    monkeypatch.chdir(ROOT)
    card = ModelCard(model_card(load_config(Path(f"configs/{config}.json")), "fpd-train run", 1, {"fid": 3.25}))
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (licence, "fpd", tag)
    held = card.data.base_model
    assert held == base or base in held
    assert ("## Whose weights are inside" in card.text) == (tag is not None)
    assert "| fid | 3.2500 |" in card.text
    assert "Made by `fpd-train run`" in card.text


def test_research_only_weights_are_named(monkeypatch):
    monkeypatch.chdir(ROOT)
    card = ModelCard(model_card(load_config(Path("configs/maskgen.json")), "x", 1, {}))
    assert "| transformer | turkeyju/generator_maskgen_vq_l | weights labelled for research use" in card.text
    assert card.data.license_link.startswith("https://huggingface.co/turkeyju/")
