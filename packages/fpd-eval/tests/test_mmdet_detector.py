"""mmdetection's Mask2Former in transformers' network: the map, weights by formula, outputs of mmdetection itself.

`FPD_MMDET_FIXTURE` names another fixture of the same layout.
"""

import hashlib
import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_core.checkpoints import CheckpointError
from fpd_eval.geneval.classes import CLASSES
from fpd_eval.geneval.mask2former import FACEBOOK, OPENMMLAB, Mask2FormerDetector
from fpd_eval.geneval.mmdet_weights import from_mmdet, load_mmdet, rules
from fpd_eval.geneval.preprocessing import PREPROCESSINGS, opencv_bilinear

FIXTURE = json.loads(
    Path(os.environ.get("FPD_MMDET_FIXTURE", Path(__file__).with_name("mask2former_mmdet.json"))).read_text()
)
SHAPES, PARITY = FIXTURE["state_dict"], FIXTURE["parity"]
ACTIONS = {"copy": "copy", "split3": "split", "merge": "merge", "check_index": "check"}
PLACES = {"d": range(3), "l": range(3), "e": range(6), "t": range(9)}


def expanded():
    """The fixture's rules with their places filled in."""
    for source, action, targets in FIXTURE["map"]["rules"]:
        if "{s}" in source:
            places = [{"s": s, "b": b} for s, depth in enumerate((2, 2, 18, 2)) for b in range(depth)]
        else:
            names = [name for name in PLACES if f"{{{name}}}" in source]
            places = [dict(zip(names, values, strict=True)) for values in product(*(PLACES[name] for name in names))]
        for place in places:
            yield source.format(**place), ACTIONS[action], tuple(target.format(**place) for target in targets)


def u(count, p):
    """The fixture's numbers in [-1/2, 1/2), all arithmetic modulo 2^32."""
    h = (np.arange(count, dtype=np.uint64) * 2654435761 + p * 40503 + 12345).astype(np.uint32)
    h ^= h >> np.uint32(15)
    h = (h.astype(np.uint64) * 2246822519).astype(np.uint32)
    h ^= h >> np.uint32(13)
    return h / 2**32 - 0.5


def ints(shape, p, mod):
    return np.floor((u(int(np.prod(shape)), p) + 0.5) * mod).reshape(shape)


def floats(shape, p):
    return (u(int(np.prod(shape)), p) * np.sqrt(12)).reshape(shape).astype(np.float32)


def smooth(height, width, p):
    g = floats((height // 16, width // 16, 3), p).repeat(16, 0).repeat(16, 1)
    return (128 + 50.0 * g + ints((height, width, 3), p + 1, 41) - 20).clip(0, 255).astype(np.uint8)


def index_table():
    return torch.tensor([[13 * (i // 7 - j // 7 + 6) + i % 7 - j % 7 + 6 for j in range(49)] for i in range(49)])


@pytest.fixture(scope="module")
def weights():
    """All 649 tensors by the fixture's formula."""
    keys = sorted(key for key in SHAPES if not key.endswith("relative_position_index"))
    state = {key: index_table() for key in SHAPES if key.endswith("relative_position_index")}
    for place, key in enumerate(keys):
        shape, p = SHAPES[key], place + PARITY["weight_offset"]
        values = u(int(np.prod(shape)), p)
        if len(shape) == 1:
            values = (1 if key.endswith("weight") else 0) + 0.1 * values
        else:
            gain = next((gain for end, gain in PARITY["gains"].items() if key.endswith(end)), 1)
            values = values * np.sqrt(12 * shape[0] / values.size) * gain
        state[key] = torch.from_numpy(values.astype(np.float32).reshape(shape))
    return state


def second(key):
    """mmdetection 2.x names."""
    if key.startswith("panoptic_head.pixel_decoder.encoder."):
        return key.replace(".self_attn.", ".attentions.0.").replace(".ffn.", ".ffns.0.")
    if key.startswith("panoptic_head.transformer_decoder.layers."):
        named = key.replace(".self_attn.", ".attentions.1.").replace(".cross_attn.", ".attentions.0.")
        return named.replace(".ffn.", ".ffns.0.")
    return key


def test_the_map_is_the_fixtures():
    found = list(rules())
    assert len(found) == len(SHAPES) == 649
    assert {source: (action, targets) for source, action, targets in found} == {
        source: (action, targets) for source, action, targets in expanded()
    }


@pytest.mark.parametrize("names", [str, second], ids=["3.x", "2.x"])
def test_every_mapped_number_is_the_fixtures(weights, names):
    mapped = from_mmdet({names(key): value for key, value in weights.items()}, "x.pth")
    assert len(mapped) == PARITY["mapped_count"]
    for probe in PARITY["mapped_tensors"]:
        flat = mapped[probe["key"]].flatten()
        assert list(mapped[probe["key"]].shape) == probe["shape"]
        np.testing.assert_allclose(flat[:4], probe["first4"], rtol=1e-6)
        np.testing.assert_allclose(flat[-4:], probe["last4"], rtol=1e-6)
    digest = hashlib.sha256()
    for key in sorted(mapped):
        digest.update(key.encode())
        digest.update(mapped[key].numpy().tobytes())
    assert digest.hexdigest() == PARITY["mapped_sha256"]


@pytest.fixture
def small():
    """The keys with small tensors: cut in three, gathered in fours."""
    return {key: index_table() if key.endswith("position_index") else torch.zeros(12) for key in SHAPES}


CLS, INDEX = "panoptic_head.cls_embed.bias", "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"
QKV = "backbone.stages.0.blocks.0.attn.w_msa.qkv.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(CLS), r"mask2former_swin-s: 1 missing \(panoptic_head.cls_embed.bias\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda state: state.update(other=state.pop(CLS)), r"1 missing .* 1 unexpected \(other\)"),
        (lambda state: state.update({CLS: torch.tensor([float("nan")])}), "cls_embed.bias holds no finite numbers"),
        (lambda state: state.update({CLS: torch.zeros(3, dtype=torch.int64)}), "holds no finite numbers"),
        (lambda state: state.update({INDEX: index_table().T}), "is not the table of relative positions"),
        (lambda state: state.update({QKV: torch.zeros(13)}), "13 rows, which are no three equal parts"),
        (lambda state: state.update({"backbone.stages.0.downsample.norm.bias": torch.zeros(6)}), "6 channels"),
    ],
)
def test_what_is_not_exactly_this_network_is_refused(small, change, message):
    from_mmdet(small, "x.pth")
    change(small)
    with pytest.raises(CheckpointError, match=message):
        from_mmdet(small, "x.pth")


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    path = tmp_path / "mask2former_swin-s_coco_20220504_001756-c9d0c4f2.pth"
    path.write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match=r"is damaged: its SHA-256 starts with [0-9a-f]{8}, not with c9d0c4f2"):
        load_mmdet(path)


def matches(found, expected, *, tolerance):
    flat = found.double().flatten()
    probe = expected["probe16"]
    np.testing.assert_allclose(flat[:8], expected["first8"], atol=tolerance, rtol=0)
    np.testing.assert_allclose(flat[-8:], expected["last8"], atol=tolerance, rtol=0)
    np.testing.assert_allclose(flat[probe["index"]], probe["value"], atol=tolerance, rtol=0)
    assert float(flat.mean()) == pytest.approx(expected["mean"], abs=tolerance)
    assert float(flat.std(correction=0)) == pytest.approx(expected["std"], abs=tolerance)
    assert float(flat.abs().max()) == pytest.approx(expected["absmax"], abs=tolerance)


@pytest.mark.parametrize("case", PARITY["preprocessing"], ids=lambda case: str(case["size"]))
def test_preprocessing_is_that_of_either_mmdetection(case):
    """3.3 to the rounding of an interpolation in float32, 2.28 to that of the last division."""
    image = ints((*case["size"], 3), case["p"], 256).astype(np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    for name, expected, tolerance in (
        ("mmdet-3.3", "mmdet3_input", 5e-4),
        ("mmdet-2.28", "opencv_uint8_pad128_input", 1e-6),
    ):
        inputs, resized = PREPROCESSINGS[name](pixels)
        assert (list(inputs.shape[2:]), list(resized)) == (case["padded"], case["resized"])
        matches(inputs, case[expected], tolerance=tolerance)


def test_opencv_in_eight_bits_is_darker_than_rounding():
    pixels = torch.from_numpy(ints((1, 3, 64, 80), 7, 256).astype(np.uint8))
    exact = torch.nn.functional.interpolate(pixels.double(), (200, 250), mode="bilinear", align_corners=False)
    difference = opencv_bilinear(pixels, (200, 250)).double() - exact
    assert difference.abs().max() < 1.5
    assert float(difference.mean()) == pytest.approx(-0.127, abs=0.02)


def test_the_processor_of_transformers_stretches():
    inputs, resized = PREPROCESSINGS["transformers"](torch.zeros(1, 3, 256, 320, dtype=torch.uint8))
    assert tuple(inputs.shape[2:]) == resized == (800, 1024)
    torch.testing.assert_close(inputs[0, :, 0, 0], torch.tensor([-2.117904, -2.035714, -1.804444]), rtol=0, atol=1e-4)


@pytest.mark.full_size
def test_the_network_gives_what_mmdetections_gives(weights, tmp_path):
    """From a file in the format of the published ones, 2.x names; then the end-to-end picture through the detector."""
    path = tmp_path / "detector.pth"
    contents = {"meta": {"epoch": 50}, "state_dict": {second(key): value for key, value in weights.items()}}
    torch.save(contents, path, _use_new_zipfile_serialization=False)
    detector = Mask2FormerDetector.load(path)
    assert detector.identity["detector"] == OPENMMLAB != FACEBOOK
    assert detector.identity["preprocessing"] == "mmdet-3.3"
    case = PARITY["network"][0]
    with torch.no_grad():
        found = detector.model(
            pixel_values=torch.from_numpy(floats(case["shape"], case["p"])), output_auxiliary_logits=True
        )
    named = {
        **{f"backbone_{place}": one for place, one in enumerate(found.encoder_hidden_states or ())},
        "class_logits": found.class_queries_logits,
        "mask_logits": found.masks_queries_logits,
    }
    for name, expected in case["outputs"].items():
        if name in named:
            matches(named[name], expected, tolerance=1e-4)
    case = PARITY["end_to_end"][0]
    (detections,) = detector([Image.fromarray(smooth(*case["size"], case["p"]))])
    boxes = [
        (CLASSES.index(name), box.score, list(box[:4]), int(box.mask.sum()))
        for name, several in detections.items()
        for box in several
    ]
    boxes.sort(key=lambda one: (-one[1], one[0]))
    assert len(boxes) == len(case["detections"]) == 100
    assert [one[0] for one in boxes] == [one[0] for one in case["detections"]]
    np.testing.assert_allclose([one[1] for one in boxes], [one[1] for one in case["detections"]], atol=1e-4)
    assert [one[2] for one in boxes] == [one[2] for one in case["detections"]]
    np.testing.assert_allclose([one[3] for one in boxes], [one[3] for one in case["detections"]], atol=8)
