"""The node as ComfyUI loads and calls it: by its mappings, with every input that it declares."""

import importlib.util
import inspect
from pathlib import Path

import pytest
import torch

from fpd_core import load_generator
from fpd_core.generator import GenerationConfig, save_generator

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("fpd_node", ROOT / "integrations/comfyui/fpd_node.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def node(module):
    return module.NODE_CLASS_MAPPINGS["FpdGenerate"]


def test_it_keeps_the_contract_of_a_node(module, node):
    assert module.NODE_DISPLAY_NAME_MAPPINGS.keys() == module.NODE_CLASS_MAPPINGS.keys()
    assert node.RETURN_TYPES == ("IMAGE",)
    assert isinstance(node.CATEGORY, str)
    inputs = node.INPUT_TYPES()
    declared = [name for part in ("required", "optional") for name in inputs[part]]
    parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
    assert declared == [name for name in parameters if name != "self"]
    for part, names in inputs.items():
        for name, (kind, options) in names.items():
            assert isinstance(kind, list) or kind in ("STRING", "INT", "FLOAT", "BOOLEAN")
            assert (parameters[name].default is inspect.Parameter.empty) == (part == "required")
            assert "default" in options


def test_its_images_are_the_students_in_the_layout_of_comfyui(node, teacher, tmp_path):
    save_generator(tmp_path / "s", teacher, teacher.network, GenerationConfig(), {"name": "fashion"}, "# card")
    given = {"checkpoint": str(tmp_path / "s"), "prompt": "", "class_label": 2, "seed": 7, "batch_size": 3}
    (images,) = getattr(node(), node.FUNCTION)(**given)
    expected = load_generator(tmp_path / "s").generate([2, 2, 2], seed=7)
    assert (images.shape, images.dtype, images.device.type) == ((3, 32, 32, 3), torch.float32, "cpu")
    assert torch.equal(images, expected.permute(0, 2, 3, 1))
    (more,) = node().generate(**given, steps=4)
    assert torch.equal(more.permute(0, 3, 1, 2), load_generator(tmp_path / "s").sampled(steps=4).generate([2] * 3, 7))
    with pytest.raises(ValueError, match="0 to 2"):
        node().generate(**given | {"class_label": 3})


def test_a_text_student_reads_the_prompt(node):
    student = ROOT / "assets/scenes/student"
    (images,) = node().generate(str(student), "a photo of a dog", 0, 1, 2)
    expected = load_generator(student).generate(["a photo of a dog"] * 2, seed=1)
    assert torch.equal(images, expected.permute(0, 2, 3, 1))
