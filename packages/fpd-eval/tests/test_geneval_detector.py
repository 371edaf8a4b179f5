"""Mask2Former's outputs read as mmdetection reads them: against loops in float64 and hand-made cases."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from fpd_core.checkpoints import CheckpointError
from fpd_eval.geneval.classes import CLASSES
from fpd_eval.geneval.mask2former import FACEBOOK, Mask2FormerDetector, by_class, postprocess
from fpd_eval.geneval.preprocessing import fitted_size, mmdet_3


def bilinear(picture, height, width):
    """Half-pixel centres, clamped at the edges, no antialiasing; float64, one pixel at a time."""
    rows, columns = picture.shape
    out = np.empty((height, width))
    for y in range(height):
        sy = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
        top, wy = int(sy), sy - int(sy)
        below = min(top + 1, rows - 1)
        for x in range(width):
            sx = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            left, wx = int(sx), sx - int(sx)
            right = min(left + 1, columns - 1)
            upper = picture[top, left] * (1 - wx) + picture[top, right] * wx
            lower = picture[below, left] * (1 - wx) + picture[below, right] * wx
            out[y, x] = upper * (1 - wy) + lower * wy
    return out


def reference(class_logits, mask_logits, padded, resized, size, top=100):
    """(label, score, box, mask) of every detection, from the published description, in float64."""
    pairs = []
    for query, logits in enumerate(class_logits):
        weights = np.exp(logits - logits.max())
        pairs += [(weight / weights.sum(), query, label) for label, weight in enumerate(weights[:-1])]
    found = []
    for probability, query, label in sorted(pairs, reverse=True)[:top]:
        full = bilinear(bilinear(mask_logits[query], *padded)[: resized[0], : resized[1]], *size)
        inside = [(x, y) for y in range(size[0]) for x in range(size[1]) if full[y, x] > 0]
        mean = sum(1 / (1 + np.exp(-full[y, x])) for x, y in inside) / (len(inside) + 1e-6)
        xs, ys = [x for x, _ in inside], [y for _, y in inside]
        box = [min(xs), min(ys), max(xs) + 1, max(ys) + 1] if inside else [0, 0, 0, 0]
        found.append((label, probability * mean, box, full > 0))
    return found


def sorted_rows(instances):
    columns = (instances.labels.tolist(), instances.scores.tolist(), instances.boxes.tolist(), instances.masks)
    return sorted(zip(*columns, strict=True), key=lambda row: (row[0], row[1]))


@pytest.mark.parametrize(
    ("padded", "resized", "size"),
    [((32, 32), (32, 32), (20, 20)), ((32, 64), (30, 50), (15, 25)), ((32, 32), (32, 24), (44, 33))],
)
def test_postprocessing_equals_loops_in_float64(padded, resized, size):
    random = np.random.default_rng(sum(size))
    # More pairs (6 x 20) than the 100 kept; smooth masks, so that no pixel sits at zero.
    class_logits, mask_logits = random.normal(size=(6, 21)), 3 * random.normal(size=(6, padded[0] // 4, padded[1] // 4))
    mask_logits[3] = -2  # an empty mask
    instances = postprocess(
        torch.tensor(class_logits, dtype=torch.float32),
        torch.tensor(mask_logits, dtype=torch.float32),
        padded_size=padded,
        resized_size=resized,
        image_size=size,
    )
    expected = sorted(reference(class_logits, mask_logits, padded, resized, size), key=lambda row: (row[0], row[1]))
    assert len(expected) == 100
    found = sorted_rows(instances)
    assert [row[0] for row in found] == [row[0] for row in expected]
    np.testing.assert_allclose([row[1] for row in found], [row[1] for row in expected], rtol=2e-5, atol=1e-7)
    assert [row[2] for row in found] == [row[2] for row in expected]
    assert all(np.array_equal(ours[3].numpy(), theirs[3]) for ours, theirs in zip(found, expected, strict=True))


def one_query(class_logits, mask_logits, size):
    masks = torch.tensor(mask_logits, dtype=torch.float32)[None]
    sizes = {"padded_size": size, "resized_size": size, "image_size": size}
    return postprocess(torch.tensor([class_logits]), masks, **sizes)


def test_a_hand_made_mask_has_a_hand_made_box_and_score():
    mask = np.full((4, 6), -5.0)
    mask[1, 2:5] = np.log(3)  # probability 3/4
    mask[2, 3] = 0.0  # not above zero: outside
    instances = one_query([np.log(2), 0.0, 0.0], mask, (4, 6))  # 1/2, 1/4 and "no object" 1/4
    scores = dict(zip(instances.labels.tolist(), instances.scores.tolist(), strict=True))
    assert scores == pytest.approx({0: 0.5 * 0.75, 1: 0.25 * 0.75}, rel=1e-5)
    assert instances.boxes.tolist() == [[2, 1, 5, 2]] * 2


def test_an_empty_mask_has_an_empty_box_and_no_score():
    instances = one_query([3.0, 0.0], np.full((4, 6), -1.0), (4, 6))
    assert instances.scores.tolist() == [0]
    assert instances.boxes.tolist() == [[0, 0, 0, 0]]


def test_masks_are_scored_at_the_size_of_the_image():
    # 2 x 2 logits stretched to 8 x 8: the mean probability inside differs from that of the single positive cell.
    logits = np.array([[4.0, -4.0], [-4.0, -4.0]])
    instances = one_query([9.0, -9.0], logits, (8, 8))
    full = bilinear(logits, 8, 8)
    expected = (1 / (1 + np.exp(-full[full > 0]))).mean()
    assert instances.scores.item() == pytest.approx(expected, abs=1e-6)
    assert abs(expected - 1 / (1 + np.exp(-4.0))) > 0.01


def test_overlapping_masks_do_not_overwrite_each_other():
    masks = torch.full((2, 4, 4), 5.0)
    sizes = {"padded_size": (4, 4), "resized_size": (4, 4), "image_size": (4, 4)}
    instances = postprocess(torch.tensor([[5.0, -5.0, 0.0], [-5.0, 5.0, 0.0]]), masks, **sizes)
    assert bool(instances.masks.all())


def test_classes_are_mapped_by_index_to_genevals_names():
    instances = one_query([-9.0] * 64 + [5.0, 4.0, 3.0] + [-9.0] * 14, np.ones((4, 4)), (4, 4))
    found = by_class(instances)
    best = sorted(found, key=lambda name: found[name][0].score, reverse=True)[:3]
    assert best == ["computer mouse", "tv remote", "computer keyboard"]
    assert list(found) == [name for name in CLASSES if name in found]


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((256, 256), (800, 800)),
        ((1024, 1024), (800, 800)),
        ((300, 500), (800, 1333)),
        ((500, 300), (1333, 800)),
        ((100, 1000), (133, 1333)),
        ((768, 1024), (800, 1067)),
    ],
)
def test_images_fit_into_1333_x_800(size, fitted):
    assert fitted_size(size) == fitted


def test_input_is_resized_without_antialiasing_normalised_and_padded_with_zeros(monkeypatch):
    monkeypatch.setattr("fpd_eval.geneval.preprocessing.SHORT_EDGE", 20)
    monkeypatch.setattr("fpd_eval.geneval.preprocessing.LONG_EDGE", 40)
    picture = np.random.default_rng(0).integers(0, 256, size=(3, 45, 60))
    inputs, resized = mmdet_3(torch.tensor(picture, dtype=torch.uint8)[None])
    assert resized == (20, 27)
    assert inputs.shape == (1, 3, 32, 32)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    for channel in range(3):
        expected = np.zeros((32, 32))
        expected[:20, :27] = (bilinear(picture[channel].astype(float), 20, 27) - mean[channel]) / std[channel]
        np.testing.assert_allclose(inputs[0, channel].double().numpy(), expected, atol=1e-4)


@pytest.fixture(scope="module")
def tiny():
    """A random Mask2Former with 80 classes and 7 queries."""
    config = Mask2FormerConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=7,
        num_labels=80,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mask2FormerForUniversalSegmentation(config).eval()


@pytest.fixture
def small_input(monkeypatch):
    monkeypatch.setattr("fpd_eval.geneval.preprocessing.SHORT_EDGE", 64)
    monkeypatch.setattr("fpd_eval.geneval.preprocessing.LONG_EDGE", 96)


def picture(height, width, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8))


def test_a_tiny_network_detects_end_to_end(tiny, small_input):
    detector = Mask2FormerDetector(tiny, batch_size=2)
    images = [picture(32, 32, seed) for seed in range(3)] + [picture(32, 40, 3)]
    found = detector(images)
    assert [sum(map(len, detections.values())) for detections in found] == [100] * 4
    for image, detections in zip(images, found, strict=True):
        assert set(detections) <= set(CLASSES)
        for name, boxes in detections.items():
            for box in boxes:
                assert box.mask.shape == (image.height, image.width), name
                assert 0 <= box.score <= 1
                ys, xs = box.mask.nonzero()
                assert box[:4] == ((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0))


def test_a_batch_gives_what_single_images_give(tiny, small_input):
    images = [picture(32, 32, seed) for seed in range(2)] + [picture(24, 48, 5)]
    together = Mask2FormerDetector(tiny)(images)
    alone = [found for image in images for found in Mask2FormerDetector(tiny)([image])]
    for ours, theirs in zip(together, alone, strict=True):
        scores = [sorted(box.score for boxes in found.values() for box in boxes) for found in (ours, theirs)]
        np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-5)


def test_published_folders_are_opened(tiny, small_input, tmp_path):
    tiny.save_pretrained(tmp_path)
    detector = Mask2FormerDetector.load(tmp_path)
    assert detector.identity == Mask2FormerDetector(tiny).identity
    assert detector.identity["detector"] == FACEBOOK
    assert not any(parameter.requires_grad for parameter in detector.model.parameters())


def test_missing_weights_are_named(tiny, tmp_path):
    state = {name: value for name, value in tiny.state_dict().items() if "class_predictor" not in name}
    tiny.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(CheckpointError, match=r"does not fit Mask2Former: 2 weights missing \(class_predictor"):
        Mask2FormerDetector.load(tmp_path)


def test_a_damaged_file_is_refused(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="holds no Mask2Former"):
        Mask2FormerDetector.load(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        Mask2FormerDetector.load(tmp_path)


def test_a_network_of_other_classes_is_refused(tmp_path):
    Mask2FormerConfig(num_labels=133).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="knows 133 classes, not the 80 of COCO instances"):
        Mask2FormerDetector.load(tmp_path)
