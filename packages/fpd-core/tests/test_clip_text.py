"""CLIP features and the transformers key map against transformers' own text model; padding and activation."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from fpd_core.checkpoints import CheckpointError
from fpd_core.config import ConfigError
from fpd_core.containers import load_public
from fpd_core.networks.clip_text import ClipText, ClipTextConfig

CONFIG = ClipTextConfig(width=16, depth=3, num_heads=2, projection_width=12)


def transformers_model(activation):
    torch.manual_seed(0)
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=16,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            projection_dim=12,
            hidden_act=activation,
            bos_token_id=49406,
            eos_token_id=49407,
            initializer_factor=5.0,
        )
    ).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def ours(tmp_path):
    """Loads the model's file into our tower."""

    def load(model, config=CONFIG):
        image_tower = {"vision_model.x.weight": torch.zeros(1), "logit_scale": torch.zeros(())}
        save_file(model.state_dict() | image_tower, tmp_path / "model.safetensors")
        network = ClipText(config).eval()
        load_public(network, tmp_path / "model.safetensors")
        return network

    return load


@torch.no_grad()
@pytest.mark.parametrize(("activation", "quick"), [("quick_gelu", True), ("gelu", False)])
def test_features_are_those_of_transformers(ours, activation, quick):
    model = transformers_model(activation)
    network = ours(model, CONFIG.model_copy(update={"quick_gelu": quick})).double()
    model.double()
    tokens = network.tokenize(["a red bicycle leaning on a wall", ""])
    expected = model(tokens, output_hidden_states=True)
    features = network(tokens)
    torch.testing.assert_close(features.penultimate, expected.hidden_states[-2])
    torch.testing.assert_close(features.final, expected.last_hidden_state)
    torch.testing.assert_close(features.pooled, expected.text_embeds)


@torch.no_grad()
def test_the_activation_cannot_be_seen_in_the_weights(ours):
    model = transformers_model("quick_gelu")
    plain = ours(model, CONFIG.model_copy(update={"quick_gelu": False}))
    tokens = plain.tokenize(["a red bicycle"])
    assert (plain(tokens).final - model(tokens).last_hidden_state).abs().max() > 1e-3


def test_open_clip_files_load_too(tmp_path):
    network = ClipText(CONFIG)
    save_file(network.state_dict() | {"visual.proj": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    loaded = ClipText(CONFIG)
    load_public(loaded, tmp_path / "open_clip_model.safetensors")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("change", ["unknown", "missing"])
def test_a_key_that_does_not_fit_is_named(tmp_path, change):
    key = "text_model.encoder.layers.1.self_attn.k_proj.weight"
    state = transformers_model("gelu").state_dict()
    state = state | {f"{key}.new": torch.zeros(1)} if change == "unknown" else {k: state[k] for k in state if k != key}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn|resblocks\.1\.attn\.in_proj_weight"):
        load_public(ClipText(CONFIG), tmp_path / "model.safetensors")


def test_captions_become_byte_pairs_between_start_and_end():
    network = ClipText(CONFIG)
    tokens = network.tokenize(["A photo OF a cat", "", "cat " * 100])
    assert tokens[0].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407] + [0] * 70
    assert tokens[1].tolist() == [49406, 49407] + [0] * 75
    assert tokens[2].tolist() == [49406] + [2368] * 75 + [49407]


def test_padding_is_a_switch_and_reaches_the_features():
    network = ClipText(CONFIG)
    padded = ClipText(CONFIG.model_copy(update={"pad_id": 49407}))
    padded.load_state_dict(network.state_dict())
    tokens = padded.tokenize(["cat"])
    assert tokens[0].tolist() == [49406, 2368] + [49407] * 75
    zero, end = network(network.tokenize(["cat"])), padded(tokens)
    torch.testing.assert_close(zero.pooled, end.pooled)  # the first end token pools
    torch.testing.assert_close(zero.penultimate[:, :3], end.penultimate[:, :3])
    assert not torch.allclose(zero.penultimate[:, 3:], end.penultimate[:, 3:], atol=1e-3)


def test_importing_the_network_does_not_import_open_clip():
    program = "import fpd_core, fpd_core.networks.clip_text, sys; sys.exit('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_without_open_clip_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip.tokenizer", None)
    with pytest.raises(ConfigError, match=r"pip install 'fpd-core\[text\]'"):
        ClipText(CONFIG)
