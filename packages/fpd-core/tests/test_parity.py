"""Full-size networks under made-up weights against outputs of the official modules under the same weights.

`data/parity.json` holds what the official modules gave in float64: mean, standard deviation, largest magnitude, the
first and the last eight values of each output.
"""

import json
from pathlib import Path

import pytest
import torch

from fpd_core.networks.clip_text import ClipText, ClipTextConfig
from fpd_core.networks.maskgen import MaskGen, MaskGenConfig, aesthetic_embedding
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.synthetic import fill_synthetic, synthetic_floats, synthetic_ints, synthetic_tensor
from fpd_core.networks.tatitok import TaTiTok, TaTiTokConfig
from fpd_core.networks.vqgan import VqGan, VqGanConfig

EXPECTED = json.loads((Path(__file__).parent / "data/parity.json").read_text())
# The official modules differ by 5e-6 between float32 and float64; the smallest mistake found moves a value by 2e-4.
TOLERANCE = 5e-5


def synthetic(build):
    """The network of `build()`, every weight made up, in eval mode; skips the usual initialisation."""
    with torch.device("meta"):
        network = build()
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    fill_synthetic(network)
    return network


def assert_parity(name, output):
    expected = EXPECTED[name]
    assert list(output.shape) == expected["shape"]
    flat = output.double().flatten()
    found = {
        "mean": flat.mean(),
        "std": flat.std(correction=0),
        "absmax": flat.abs().max(),
        "head": flat[:8],
        "tail": flat[-8:],
    }
    errors = {k: (v - torch.tensor(expected[k], dtype=torch.float64)).abs().max().item() for k, v in found.items()}
    print(f"{name}: max abs error {max(errors.values()):.1e}")  # pytest -rP shows it
    assert max(errors.values()) < TOLERANCE, errors


def test_the_hash_behind_the_weights():
    """u(0, 0) and u(3, 2) in Python's integers."""

    def u(i, p):
        h = (i * 2654435761 + p * 40503 + 12345) % 2**32
        h ^= h >> 15
        h = h * 2246822519 % 2**32
        h ^= h >> 13
        return h / 2**32 - 0.5

    matrix, gain, bias = (synthetic_tensor(k, s, 2) for k, s in (("a", (2, 3)), ("n.weight", (4,)), ("n.bias", (4,))))
    assert matrix[1, 0].item() == pytest.approx(u(3, 2) * 2, rel=1e-6)
    assert gain[3].item() == pytest.approx(1 + 0.1 * u(3, 2), rel=1e-6)
    assert bias[3].item() == pytest.approx(0.1 * u(3, 2), rel=1e-6)
    assert synthetic_ints(1, 0, 1000).item() == int((u(0, 0) + 0.5) * 1000)


@pytest.mark.full_size
def test_maskgit():
    network = synthetic(lambda: MaskGit(MaskGitConfig()))
    tokens = synthetic_ints(512, 9001, 1025).view(2, 16, 16)
    tokens[:, 8:] = 1024
    logits = network(tokens.flatten(1), torch.tensor([207, 1000]))
    assert_parity("maskgit logits", logits)
    assert logits[0, :8].argmax(1).tolist() == [579] * 8


def test_the_head_count_of_maskgit_cannot_be_seen_in_the_weights():
    """Half as many heads load cleanly and move the logits by far more than the tolerance."""
    config = MaskGitConfig(codebook_size=16, num_classes=3, seq_len=8, width=48, depth=2, num_heads=16, mlp_width=96)
    right, wrong = (synthetic(lambda n=n: MaskGit(config.model_copy(update={"num_heads": n}))) for n in (16, 8))
    wrong.load_state_dict(right.state_dict())
    tokens, labels = synthetic_ints(16, 1, 17).view(2, 8), torch.tensor([0, 3])
    assert (right(tokens, labels) - wrong(tokens, labels)).abs().max() > 100 * TOLERANCE


@pytest.mark.full_size
def test_vqgan():
    network = synthetic(lambda: VqGan(VqGanConfig()))
    codes = synthetic_ints(256, 9002, 1024)
    assert_parity("vqgan image", network.decode(network.codebook[codes][None]))
    images = synthetic_floats((1, 3, 256, 256), 9003).clamp(-1, 1)
    latents = network.latents(images)
    assert_parity("vqgan latents", latents.transpose(1, 2).unflatten(2, (16, 16)))
    nearest = torch.cdist(latents[0].double(), network.codebook.double()).argmin(1)
    assert torch.equal(network.encode(images)[0], nearest)


@pytest.mark.full_size
def test_maskgen():
    network = synthetic(lambda: MaskGen(MaskGenConfig()))
    tokens = synthetic_ints(256, 9004, 8192).view(2, 128)
    tokens[:, 64:] = 8192
    text, pooled = synthetic_floats((2, 77, 768), 9005), synthetic_floats((2, 768), 9006)
    assert_parity("maskgen logits", network(tokens, text, pooled, torch.tensor([6.5, 5.0])))


def test_aesthetic_embedding():
    assert_parity("maskgen aesthetic", aesthetic_embedding(torch.tensor([6.5, 5.0]), 256))


@pytest.mark.full_size
def test_tatitok():
    network = synthetic(lambda: TaTiTok(TaTiTokConfig()))
    codes, text = synthetic_ints(128, 9007, 8192), synthetic_floats((1, 77, 768), 9008)
    assert_parity("tatitok image", network.decode(network.codebook[codes][None], text))
    images = 0.5 + 0.5 * synthetic_floats((1, 3, 256, 256), 9009).clamp(-1, 1)
    latents = network.latents(images)
    assert_parity("tatitok latents", latents.transpose(1, 2)[:, :, None])
    nearest = torch.cdist(latents[0].double(), network.codebook.double()).argmin(1)
    assert torch.equal(network.encode(images)[0], nearest)


@pytest.mark.full_size
def test_clip_text():
    """The tokenizer too: the captions are those behind the token ids of the reference."""
    network = synthetic(lambda: ClipText(ClipTextConfig()))
    tokens = network.tokenize(["a photo of a cat", ""])
    assert tokens[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert tokens[1].tolist() == [49406, 49407] + [0] * 75
    features = network(tokens)
    assert_parity("clip_text penultimate", features.penultimate)
    assert_parity("clip_text pooled", features.pooled)
    assert_parity("clip_text final", features.final)
