"""GenEval on synthetic folders: images, detections, verdicts, pages; resumed runs; mistakes of users."""

import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_eval.geneval import JudgeOptions, make_prompts
from fpd_eval.geneval.classes import TASKS
from fpd_eval.geneval.detection_folder import DetectionFolder, StoredImage
from fpd_eval.geneval.detector import Detection
from fpd_eval.geneval.layout import Sample, read_layout
from fpd_eval.geneval.results import read_results
from fpd_eval.geneval.runner import Judges, evaluate, generate
from fpd_eval.runtime.ranks import Ranks
from fpd_eval.systems.system import GeneratingSystem

SIZE = 16


class Networks:
    """A detector that sees a bench and a weak dog where the image's first pixel is bright; counts its work."""

    def __init__(self):
        self.detected, self.opened = 0, 0
        self.identity = {"detector": "pixels"}

    def open(self):
        self.opened += 1
        return self

    def __call__(self, images):
        self.detected += len(images)
        return [self._boxes(int(np.array(image)[0, 0, 0])) for image in images]

    @staticmethod
    def _boxes(value):
        mask = np.ones((SIZE, SIZE), bool)
        return (
            {"bench": [Detection(2, 2, 9, 12, 0.95, mask)], "dog": [Detection(0, 0, 4, 4, 0.4, mask)]} if value else {}
        )


class GreenEyes:
    """A classifier that sees nothing but green; notes what it was asked."""

    def __init__(self):
        self.identity, self.asked = {"colors": "green"}, []

    def __call__(self, image, name, found):
        assert all(box.mask.shape == (image.height, image.width) for box in found)
        self.asked.append((name, len(found)))
        return ["green"] * len(found)


@pytest.fixture
def networks():
    return Networks()


@pytest.fixture
def eyes():
    return GreenEyes()


@pytest.fixture
def judges(networks, eyes):
    return Judges(detector=networks.open, colors=lambda: eyes)


class FakeSystem(GeneratingSystem):
    """A text-conditional system; prompts with a bench have a bright first pixel."""

    name, role, steps, network_evaluations, fingerprint = "fake", "student", 1, 1, "abc"

    def __init__(self, fail_after=None):
        self.settings, self.calls, self.fail_after = {"temperature": 1.0}, [], fail_after

    def images(self, condition, *, seed):
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise KeyboardInterrupt
        self.calls.append((condition.prompts, seed))
        noise = torch.rand(len(condition), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        noise[:, :, 0, 0] = torch.tensor([[float("bench" in prompt)] for prompt in condition.prompts])
        return noise


def write_images(root, records, bright, samples=1):
    for number, record in enumerate(records):
        folder = root / f"{number:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps(record))
        for index in range(samples):
            pixels = np.full((SIZE, SIZE, 3), 7 * index, np.uint8)
            pixels[0, 0] = 255 if bright(record) else 0
            Image.fromarray(pixels).save(folder / "samples" / f"{index:05d}.png")


def test_generation_writes_the_official_layout_with_one_seed_per_prompt(tmp_path):
    system = FakeSystem()
    generate(system, tmp_path / "images", samples=2)
    assert [call for call, _ in system.calls] == [(record["prompt"],) * 2 for record in make_prompts()]
    assert {seed for _, seed in system.calls} == {42}
    folders = read_layout(tmp_path / "images")
    assert [folder.record for folder in folders] == make_prompts()
    assert [sample.path.name for sample in folders[552].samples] == ["00000.png", "00001.png"]
    pixels = np.array(folders[552].samples[1].open())
    expected = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(42))[1].permute(1, 2, 0) * 255
    np.testing.assert_allclose(pixels[1:], expected[1:], atol=0.5001)
    made = json.loads((tmp_path / "images" / "generation.json").read_text())
    assert made.pop("torch") == torch.__version__
    assert made.pop("fpd_eval") == version("fpd-eval")
    assert len(made.pop("prompts_sha256")) == 64
    assert made == {
        "system": "fake",
        "steps": 1,
        "negative_prompt": None,
        "temperature": 1.0,
        "seed": 42,
        "samples": 2,
        "prompts": 553,
        "checkpoint_sha256": {},
        "fingerprint": "abc",
    }


class Rank(Ranks):
    """One of two ranks without the other: they share nothing but files."""

    def barrier(self):
        pass


def test_two_ranks_make_and_judge_what_one_does(tmp_path, judges, networks):
    generate(FakeSystem(), tmp_path / "one", samples=1)
    alone = evaluate(tmp_path / "one", tmp_path / "out", judges, name="fake", samples=1)
    networks.detected = 0
    # The second first: the main rank judges what both have found.
    for rank, share in ((1, 276), (0, 277)):
        system, ranks = FakeSystem(), Rank(rank, 2)
        generate(system, tmp_path / "two", samples=1, ranks=ranks)
        assert len(system.calls) == share
    outcomes = [
        evaluate(tmp_path / "two", tmp_path / "shared", replace(judges, ranks=Rank(rank, 2)), name="fake", samples=1)
        for rank in (1, 0)
    ]
    assert outcomes == [None, alone]
    assert networks.detected == 553
    for image in (tmp_path / "one").glob("*/samples/*.png"):
        assert (tmp_path / "two" / image.relative_to(tmp_path / "one")).read_bytes() == image.read_bytes()


def test_interrupted_generation_continues(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generate(FakeSystem(fail_after=500), tmp_path / "images", samples=1)
    rest = FakeSystem()
    generate(rest, tmp_path / "images", samples=1)
    assert [call[0] for call, _ in rest.calls] == [record["prompt"] for record in make_prompts()[500:]]


def test_another_system_or_seed_does_not_fill_the_same_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generate(FakeSystem(fail_after=1), tmp_path / "images")
    with pytest.raises(ValueError, match=r"was filled with seed 42, now it is 7"):
        generate(FakeSystem(), tmp_path / "images", seed=7)
    hotter = FakeSystem()
    hotter.settings, hotter.fingerprint = {"temperature": 2.0}, "def"
    with pytest.raises(ValueError, match=r"was filled with temperature 1.0, now it is 2.0"):
        generate(hotter, tmp_path / "images")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    with pytest.raises(
        ValueError, match=r"was filled with checkpoint_sha256 \{\}, now it is \{'model.safetensors': '[0-9a-f]"
    ):
        generate(FakeSystem(), tmp_path / "images", checkpoints=[weights])


def test_a_record_that_is_silent_or_absent_is_no_permission(tmp_path):
    images, record = tmp_path / "images", tmp_path / "images" / "generation.json"
    with pytest.raises(KeyboardInterrupt):
        generate(FakeSystem(fail_after=1), images)
    known = json.loads(record.read_text())
    record.write_text(json.dumps({key: value for key, value in known.items() if key != "seed"}))
    with pytest.raises(ValueError, match=r"generation.json does not say seed of what fills its folder"):
        generate(FakeSystem(), images)
    record.unlink()
    with pytest.raises(ValueError, match=r"holds images but no generation.json"):
        generate(FakeSystem(), images)


@pytest.fixture
def official(tmp_path):
    """One image of all 553 prompts; those with "bench" in them show a bench."""
    write_images(tmp_path / "images", make_prompts(), lambda record: "bench" in record["prompt"])
    return tmp_path / "images"


def test_a_whole_run_gives_the_scores_of_the_rules(official, tmp_path, judges, networks, eyes):
    outcome = evaluate(official, tmp_path / "out", judges, name="fake", samples=1)

    # The fake detector sees one bench of score 0.95 and a weak dog wherever the prompt says bench; CLIP sees green.
    def right(record):
        clauses = record["include"]
        green = all(clause.get("color", "green") == "green" for clause in clauses)
        seen = {"bench"} <= {clause["class"] for clause in clauses} <= {"bench", "dog"}
        return green and seen and record["tag"] not in ("counting", "position")

    expected = {tag: [right(record) for record in make_prompts() if record["tag"] == tag] for tag in TASKS}
    assert {tag: task.score for tag, task in outcome.scores.tasks.items()} == {
        tag: sum(verdicts) / len(verdicts) for tag, verdicts in expected.items()
    }
    assert outcome.scores.complete
    assert expected["single_object"].count(True) == 1
    asked = [record for record in make_prompts() if "bench" in record["prompt"] and record["tag"].startswith("color")]
    assert len(eyes.asked) == len(asked)
    assert networks.detected == 553
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["scores"]["overall"] == outcome.scores.overall


def test_results_are_the_official_lines(official, tmp_path, judges):
    evaluate(official, tmp_path / "out", judges, name="fake", samples=1)
    results = read_results(tmp_path / "out" / "results.jsonl")
    assert len(results) == 553
    first = results[0]  # a photo of a bench
    assert list(first) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details", "colors"]
    assert first["filename"] == str(official / "00000" / "samples" / "00000.png")
    assert (first["correct"], first["reason"]) == (True, "")
    assert json.loads(first["metadata"]) == make_prompts()[0]
    # float32 numbers, classes in the detector's order: bench is 13, dog 16.
    assert (
        first["details"]
        == '{"bench": [[2.0, 2.0, 9.0, 12.0, 0.949999988079071]], "dog": [[0.0, 0.0, 4.0, 4.0, 0.4000000059604645]]}'
    )
    assert first["colors"] == "{}"
    assert results[1]["reason"] == "expected cow>=1, found 0"


def test_finished_images_are_not_detected_again_but_changed_ones_are(official, tmp_path, judges, networks):
    evaluate(official, tmp_path / "out", judges, name="fake", samples=1)
    networks.detected = networks.opened = 0
    evaluate(official, tmp_path / "out", judges, name="fake", samples=1)
    assert (networks.detected, networks.opened) == (0, 0)
    changed = official / "00000" / "samples" / "00000.png"
    Image.new("RGB", (SIZE, SIZE)).save(changed)
    evaluate(official, tmp_path / "out", judges, name="fake", samples=1)
    assert networks.detected == 1
    assert read_results(tmp_path / "out" / "results.jsonl")[0]["reason"] == "expected bench>=1, found 0"


def test_detections_of_another_network_are_not_mixed_in(official, tmp_path, judges, networks):
    evaluate(official, tmp_path / "out", judges, name="fake", samples=1)
    Image.new("RGB", (SIZE, SIZE)).save(official / "00000" / "samples" / "00000.png")
    networks.identity = {"detector": "other"}
    with pytest.raises(ValueError, match="was filled with detector 'pixels', now it is 'other'"):
        evaluate(official, tmp_path / "out", judges, name="fake", samples=1)


def test_missing_images_end_the_run_unless_partial_is_asked_for(tmp_path, judges):
    write_images(tmp_path / "images", make_prompts()[:3], lambda record: True)
    with pytest.raises(
        ValueError, match=r"images are missing for 550 of 553 prompts: 00003 \(0 of 1\), .*--allow-partial"
    ):
        evaluate(tmp_path / "images", tmp_path / "out", judges, name="fake", samples=1)
    assert not (tmp_path / "out").exists()
    outcome = evaluate(tmp_path / "images", tmp_path / "out", judges, name="fake", samples=1, allow_partial=True)
    assert not outcome.scores.complete
    assert "Partial: 3 of 553 prompts" in (tmp_path / "out" / "index.html").read_text()


def test_a_detector_that_sees_nothing_is_questioned(tmp_path, judges):
    write_images(tmp_path / "images", make_prompts()[:32], lambda record: False)
    with pytest.warns(UserWarning, match=r"no object in 32 images scores 0.9 or more \(best 0.00\)"):
        evaluate(tmp_path / "images", tmp_path / "out", judges, name="fake", samples=1, allow_partial=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "00001" / "samples" / "00000.png").write_bytes(b"no image"),
            r"00000.png cannot be decoded",
        ),
        (lambda root: (root / "00001" / "metadata.jsonl").unlink(), r"metadata.jsonl does not exist"),
        (lambda root: (root / "00001" / "metadata.jsonl").write_text("{"), r"metadata.jsonl is not valid JSON"),
        (lambda root: (root / "00001" / "metadata.jsonl").write_text("{}"), r"is not a GenEval record"),
        (lambda root: [path.rename(root / f"x{path.name}") for path in root.iterdir()], r"holds no prompt folders"),
        (lambda root: root.rename(root.with_name("elsewhere")), r"is not a folder"),
    ],
)
def test_damaged_folders_end_in_one_sentence(tmp_path, judges, damage, message):
    root = tmp_path / "images"
    write_images(root, make_prompts()[:3], lambda record: True)
    damage(root)
    with pytest.raises(ValueError, match=message):
        evaluate(root, tmp_path / "out", judges, name="fake", samples=1, allow_partial=True)


def test_a_truncated_image_is_named(tmp_path):
    path = tmp_path / "00000.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"00000\.png cannot be decoded"):
        Sample(path, {}).open()


def test_grey_and_transparent_images_are_read_as_rgb(tmp_path):
    for mode in ("L", "RGBA", "P", "I;16"):
        Image.new(mode, (5, 4)).save(tmp_path / "0.png")
        image = Sample(tmp_path / "0.png", {}).open()
        assert (image.mode, image.size) == ("RGB", (5, 4))


def test_names_follow_the_official_pattern(tmp_path):
    write_images(tmp_path, make_prompts()[:1], lambda record: True)
    samples = tmp_path / "00000" / "samples"
    for name in ("0001.png", "7.png", "grid.png", "x0.png", "8.jpg"):
        Image.new("RGB", (4, 4)).save(samples / name)
    (tmp_path / "notes").mkdir()
    assert [sample.path.name for sample in read_layout(tmp_path)[0].samples] == ["00000.png", "0001.png", "7.png"]


def store(root, key, detections, **more):
    path = root / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"detections": detections, **more}))


@pytest.fixture
def colored(tmp_path):
    """One image of a record that asks for a colour, and the record's clause."""
    record = next(record for record in make_prompts() if record["tag"] == "colors")
    write_images(tmp_path / "images", [record], lambda record: True)
    return record["include"][0]


def judged(tmp_path, judges, **options):
    elsewhere = Judges(
        detector=judges.detector, colors=judges.colors, detections=tmp_path / "boxes", options=JudgeOptions(**options)
    )
    evaluate(tmp_path / "images", tmp_path / "out", elsewhere, name="mine", samples=1, allow_partial=True)
    return read_results(tmp_path / "out" / "results.jsonl")[0]


def test_boxes_found_elsewhere_need_no_network(tmp_path, colored, judges, networks, eyes):
    box = {"box": [1, 2, 10, 12], "score": 0.9, "color": colored["color"]}
    store(tmp_path / "boxes", "00000/00000", {colored["class"]: [box]})
    assert judged(tmp_path, judges)["correct"]
    assert (networks.opened, eyes.asked) == (0, [])
    assert not (tmp_path / "out" / "detections").exists()


def test_colors_are_found_from_masks_made_elsewhere(tmp_path, colored, judges, eyes):
    # Columns first: 16 rows of background, then 3 object pixels at the top of the second column.
    mask = {"size": [16, 16], "counts": [16, 3, 237]}
    store(tmp_path / "boxes", "00000/00000", {colored["class"]: [{"box": [1, 0, 2, 3], "score": 0.9, "mask": mask}]})
    result = judged(tmp_path, judges)
    assert result["correct"] is (colored["color"] == "green")
    assert json.loads(result["colors"]) == {colored["class"]: ["green"]}
    assert eyes.asked == [(colored["class"], 1)]


def test_run_lengths_are_cocos():
    decoded = StoredImage.model_validate(
        {"detections": {"dog": [{"box": [0, 0, 1, 1], "score": 1, "mask": {"size": [2, 3], "counts": [1, 2, 2, 1]}}]}}
    )
    # Down the columns: 0 1 | 1 0 | 0 1.
    assert decoded.detections["dog"][0].mask.decode().tolist() == [[False, True, False], [True, False, True]]


@pytest.mark.parametrize(
    ("detections", "more", "message"),
    [
        ({"mouse": []}, {}, r"00000/00000.json: .*unknown class 'mouse'"),
        ({"car": [{"box": [0, 0, 1, 1], "score": 0.9, "color": "gray"}]}, {}, "unknown colour 'gray'"),
        ({"car": [{"box": [0, 0, 1, 1], "score": 0.9, "mask": {"size": [2, 2], "counts": [3]}}]}, {}, "runs cover 3"),
        ({"car": [{"box": [0, 0, 1, 1], "scores": 0.9}]}, {}, "did you mean 'score'"),
        ({}, {"image_sha256": "0" * 64}, "describes another picture"),
    ],
)
def test_wrong_detection_files_are_named(tmp_path, colored, judges, detections, more, message):
    store(tmp_path / "boxes", "00000/00000", detections, **more)
    with pytest.raises(ValueError, match=message):
        judged(tmp_path, judges)


def test_a_color_that_cannot_be_known_is_an_error(tmp_path, colored, judges):
    store(tmp_path / "boxes", "00000/00000", {colored["class"]: [{"box": [0, 0, 1, 1], "score": 0.9}]})
    with pytest.raises(ValueError, match=f"a {colored['class']} whose colour is asked for has neither colour nor mask"):
        judged(tmp_path, judges)
    assert "found 0" in judged(tmp_path, judges, threshold=0.95)["reason"]


def test_missing_detections_are_named(tmp_path, colored, judges):
    (tmp_path / "boxes").mkdir()
    with pytest.raises(ValueError, match=r"00000\.json does not exist: .*00000\.png has no detections"):
        judged(tmp_path, judges)


def test_stored_detections_come_back_exactly(tmp_path):
    sample = Sample(tmp_path / "00007" / "samples" / "00001.png", {})
    score = float(np.float32(0.3))
    folder = DetectionFolder(tmp_path / "detections")
    folder.write(sample, {"dog": [Detection(1.0, 2.0, 3.5, 4.0, score, np.ones((4, 4), bool), "red")]}, "abc")
    assert folder.read(sample) == {"dog": [Detection(1.0, 2.0, 3.5, 4.0, score, None, "red")]}
    assert folder.image_sha256(sample) == "abc"
    assert (tmp_path / "detections" / "00007" / "00001.json").exists()


class Tags(HTMLParser):
    """Collects tags and what they refer to."""

    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]


def test_pages_show_boxes_and_reasons_and_stand_alone(official, tmp_path, judges):
    evaluate(official, tmp_path / "out", judges, name="<script>alert(1)</script>", samples=1)
    for page in ("index", *TASKS):
        text = (tmp_path / "out" / f"{page}.html").read_text()
        parsed = Tags()
        parsed.feed(text)
        assert "script" not in parsed.tags
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert all(re.match(r"data:image/jpeg;base64,|(index|\w+)\.html$", link) for link in parsed.links), page
    text = (tmp_path / "out" / "two_object.html").read_text()
    first = next(record for record in make_prompts() if record["tag"] == "two_object")
    wanted = [clause["class"] for clause in first["include"]]
    assert first["prompt"] in text
    assert f"expected {wanted[1]}&gt;=1, found 0" in text
    single = (tmp_path / "out" / "single_object.html").read_text()
    assert '<rect class="box" x="2.0" y="2.0" width="7.0" height="10.0"/>' in single
    assert single.count("<figure") == 80


def test_hostile_records_cannot_pass_as_prompts(tmp_path, judges):
    record = {**make_prompts()[0], "prompt": "<img src=x onerror=alert(1)>"}
    write_images(tmp_path / "images", [record], lambda record: True)
    with pytest.raises(ValueError, match="is not one of the 553 GenEval records"):
        evaluate(tmp_path / "images", tmp_path / "out", judges, name="fake", samples=1, allow_partial=True)


def test_image_hash_is_that_of_the_file(official, tmp_path, judges):
    evaluate(official, tmp_path / "out", judges, name="fake", samples=1)
    stored = json.loads((tmp_path / "out" / "detections" / "00004" / "00000.json").read_text())
    assert stored["image_sha256"] == hashlib.sha256((official / "00004/samples/00000.png").read_bytes()).hexdigest()
