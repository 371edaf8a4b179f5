"""Default networks against the public checkpoints' keys and shapes, and against files that hold exactly these.

`data/public_keys.json` writes a list compactly: `{0..23}` and `{weight,bias}` stand for every number and word.
Files take no room: torch files hold one element per tensor and a zero stride, safetensors are sparse. Networks live
on the meta device, so only the bookkeeping runs, which is what is tested.
"""

import itertools
import json
import math
import pickle
import re
import struct
from pathlib import Path

import pytest
import torch

from fpd_core.checkpoints import CheckpointError
from fpd_core.containers import load_public
from fpd_core.networks.clip_text import ClipText, ClipTextConfig
from fpd_core.networks.halton import HaltonMaskGit
from fpd_core.networks.maskgen import MaskGen, MaskGenConfig
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.meissonic import Meissonic, MeissonicConfig
from fpd_core.networks.tatitok import TaTiTok, TaTiTokConfig
from fpd_core.networks.vqgan import VqGan, VqGanConfig
from fpd_core.teachers.halton import LLAMAGEN_VQ16
from fpd_core.teachers.halton import NETWORKS as HALTON
from fpd_core.teachers.maskgen import SIZES
from fpd_core.teachers.meissonic import VIT_H_14
from fpd_core.weights import weight_file

PUBLIC = json.loads((Path(__file__).parent / "data/public_keys.json").read_text())
NETWORKS = {
    "maskgit": lambda: MaskGit(MaskGitConfig()),
    "vqgan": lambda: VqGan(VqGanConfig()),
    "maskgen": lambda: MaskGen(MaskGenConfig()),
    "tatitok": lambda: TaTiTok(TaTiTokConfig()),
    "clip_text": lambda: ClipText(ClipTextConfig()),
    "meissonic": lambda: Meissonic(MeissonicConfig()),
    "halton_tiny_256": lambda: HaltonMaskGit(HALTON["tiny"]),
    "halton_small_256": lambda: HaltonMaskGit(HALTON["small"]),
    "halton_base_256": lambda: HaltonMaskGit(HALTON["base"]),
    "halton_large_384": lambda: HaltonMaskGit(HALTON["large"].model_copy(update={"seq_len": 576})),
    "llamagen": lambda: VqGan(LLAMAGEN_VQ16),
}


def expand(pattern):
    """All keys of a pattern; the fixed text between braces is a choice of one."""
    choices = []
    for part in re.split(r"(\{[^}]*\})", pattern):
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
        if span:
            choices.append([str(n) for n in range(int(span[1]), int(span[2]) + 1)])
        else:
            choices.append(part[1:-1].split(",") if part.startswith("{") else [part])
    return ["".join(words) for words in itertools.product(*choices)]


def public_shapes(name):
    return {key: tuple(shape) for pattern, shape in PUBLIC[name]["tensors"].items() for key in expand(pattern)}


def test_a_pattern_stands_for_every_combination():
    assert expand("a.{9..11}.{x,y}_b") == ["a.9.x_b", "a.9.y_b", "a.10.x_b", "a.10.y_b", "a.11.x_b", "a.11.y_b"]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_list_has_the_published_size(name):
    shapes = public_shapes(name)
    assert len(shapes) == PUBLIC[name]["keys"]
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == PUBLIC[name]["parameters"]


def test_every_list_has_a_network():
    assert NETWORKS.keys() == PUBLIC.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_keys_and_shapes_equal_the_public_file(name):
    with torch.device("meta"):
        network = NETWORKS[name]()
    public = public_shapes(name)
    if name == "llamagen":  # the one file in other names
        public = VqGan.rename_public(public)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == public


@pytest.mark.parametrize(
    ("family", "role", "name"),
    [
        *[("maskgit", "transformer", "maskgit"), ("maskgit", "tokenizer", "vqgan")],
        *[("maskgen", "transformer", "maskgen"), ("maskgen", "tokenizer", "tatitok")],
        *[("maskgen", "text_encoder", "clip_text"), ("meissonic", "transformer", "meissonic")],
        *[("halton", "tiny_256", "halton_tiny_256"), ("halton", "small_256", "halton_small_256")],
        *[("halton", "transformer", "halton_base_256"), ("halton", "large_384", "halton_large_384")],
        ("halton", "tokenizer", "llamagen"),
    ],
)
def test_the_registry_counts_what_the_network_takes(family, role, name):
    assert weight_file(family, role).num_parameters == PUBLIC[name]["parameters"]


def test_the_registry_counts_what_no_key_list_tells():
    """At 384 px there are 320 positions more; MaskGen-XL and the LAION tower are counted on their networks."""
    for size in ("small", "base"):
        added = 320 * HALTON[size].width
        at_256 = PUBLIC[f"halton_{size}_256"]["parameters"]
        assert weight_file("halton", f"{size}_384").num_parameters == at_256 + added
    with torch.device("meta"):
        xl, tower = MaskGen(MaskGenConfig(**SIZES["xl"])), ClipText(VIT_H_14)
    for network, place in ((xl, ("maskgen", "transformer_xl")), (tower, ("meissonic", "text_encoder_laion"))):
        assert weight_file(*place).num_parameters == sum(p.numel() for p in network.parameters())
    assert (xl.config.width, xl.config.depth, xl.config.num_heads) == (1280, 20, 16)


class Callback:
    """Stands for a class of a training library, as Lightning files pickle them."""

    def __init__(self):
        self.history = [1.0]


def hollow(shapes):
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


def torch_file(path, content):
    torch.save(content, path, pickle_module=pickle)


def safetensors_file(path, shapes):
    """Written by hand after the format's description: length, JSON header, data."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for key, shape in shapes.items():
        size = math.prod(shape)
        header[key] = {"dtype": "U8", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def with_extras(name, shapes):
    """What the published file holds besides: training losses, the tied head's other name."""
    if name == "vqgan":
        return shapes | {"loss.perceptual_loss.net.0.weight": (64, 3, 3, 3), "loss.discriminator.main.0.bias": (64,)}
    if name == "halton_small_256":
        return shapes | {"head.weight": shapes["tok_emb.weight"]}
    if name == "llamagen":
        return shapes | {"quantize.codebook_used": (65536,)}
    if name == "maskgen":
        return shapes | {"lm_head.weight": shapes["embeddings.weight"]}
    return shapes


WRITERS = {
    "bare .bin": lambda path, shapes: torch_file(path, hollow(shapes)),
    "model_state_dict .pth": lambda path, shapes: torch_file(
        path, {"iter": 7, "model_state_dict": hollow(shapes), "optimizer_state_dict": {"state": {0: torch.zeros(3)}}}
    ),
    "DDP .pth": lambda path, shapes: torch_file(
        path, {"model_state_dict": {f"module.{key}": value for key, value in hollow(shapes).items()}}
    ),
    "compiled .pth": lambda path, shapes: torch_file(
        path, {"model_state_dict": {f"module._orig_mod.{key}": value for key, value in hollow(shapes).items()}}
    ),
    "model .pt": lambda path, shapes: torch_file(path, {"model": hollow(shapes), "steps": 7}),
    "Lightning .ckpt": lambda path, shapes: torch_file(
        path, {"epoch": 1, "callbacks": {Callback: Callback()}, "state_dict": hollow(shapes)}
    ),
    "safetensors": safetensors_file,
}
PUBLISHED = [
    ("maskgit", "model_state_dict .pth"),
    ("maskgit", "bare .bin"),
    ("maskgit", "DDP .pth"),
    ("vqgan", "Lightning .ckpt"),
    ("maskgen", "bare .bin"),
    ("tatitok", "bare .bin"),
    ("clip_text", "bare .bin"),
    ("meissonic", "bare .bin"),
    ("maskgen", "safetensors"),
    ("tatitok", "safetensors"),
    ("halton_small_256", "model_state_dict .pth"),
    ("halton_small_256", "compiled .pth"),
    ("llamagen", "model .pt"),
]


@pytest.mark.full_size
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize(("name", "container"), PUBLISHED)
def test_the_published_container_loads_strictly(tmp_path, name, container):
    with torch.device("meta"):
        network = NETWORKS[name]()
    path = tmp_path / "file"
    WRITERS[container](path, with_extras(name, public_shapes(name)))
    load_public(network, path)
    without_one = dict(list(public_shapes(name).items())[:-1])
    WRITERS[container](path, without_one)
    with pytest.raises(CheckpointError, match="1 missing"):
        load_public(network, path)
