"""Files with exactly the public keys and shapes, in their published containers, load into the default networks.

The files take no room: torch files hold one element per tensor and a zero stride, safetensors are sparse. The networks
live on the meta device, so only the bookkeeping runs, which is what is tested.
"""

import json
import math
import pickle
import struct

import pytest
import torch
from test_public_keys import NETWORKS, public_shapes

from fpd_core.checkpoints import CheckpointError
from fpd_core.containers import load_public


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
