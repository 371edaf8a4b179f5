"""State-dict keys and shapes of the default networks against the lists of the public checkpoints.

`data/public_keys.json` writes a list compactly: `{0..23}` and `{weight,bias}` stand for every number and word.
"""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from fpd_core.networks.clip_text import ClipText, ClipTextConfig
from fpd_core.networks.maskgen import MaskGen, MaskGenConfig
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.meissonic import Meissonic, MeissonicConfig
from fpd_core.networks.tatitok import TaTiTok, TaTiTokConfig
from fpd_core.networks.vqgan import VqGan, VqGanConfig

PUBLIC = json.loads((Path(__file__).parent / "data/public_keys.json").read_text())
NETWORKS = {
    "maskgit": lambda: MaskGit(MaskGitConfig()),
    "vqgan": lambda: VqGan(VqGanConfig()),
    "maskgen": lambda: MaskGen(MaskGenConfig()),
    "tatitok": lambda: TaTiTok(TaTiTokConfig()),
    "clip_text": lambda: ClipText(ClipTextConfig()),
    "meissonic": lambda: Meissonic(MeissonicConfig()),
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
        state = NETWORKS[name]().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == public_shapes(name)
