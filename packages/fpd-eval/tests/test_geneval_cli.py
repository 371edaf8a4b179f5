"""`fpd-eval geneval` as users type it, with tiny random networks; mistakes end in one sentence and exit code 2."""

import json
from typing import Any, ClassVar

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from fpd_core import load_generator, teachers
from fpd_core.checkpoints import CheckpointError
from fpd_core.conditioning import PromptCondition, TextCondition
from fpd_core.generator import GenerationConfig, save_generator
from fpd_core.teachers import SamplerConfig, Teacher, TeacherConfig
from fpd_eval.cli import main
from fpd_eval.extractors import weights
from fpd_eval.geneval import colors, make_prompts, official, preprocessing, self_check, suites
from fpd_eval.geneval.classes import TASKS
from fpd_eval.geneval.detector import Detection
from fpd_eval.geneval.official import CAT_AND_CUP

TINY_CLIP = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class TinyConfig(TeacherConfig):
    name: str = "tiny"


class TinyText(Teacher):
    """A text-conditional family: the length of the prompt decides which of three codes is likely."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Linear(1, 3)
        self.register_buffer("codebook", torch.eye(3))
        self.mask_id, self.seq_len, self.num_classes, self.image_size = 3, 4, None, 8
        self.sampler, self.refine_guidance = SamplerConfig(), None

    def condition(self, wanted: Any):
        if isinstance(wanted, TextCondition):
            return wanted
        prompts = wanted.prompts if isinstance(wanted, PromptCondition) else wanted
        lengths = torch.tensor([[len(prompt) / 50.0] for prompt in prompts])
        return TextCondition(tokens=lengths[:, None], pooled=lengths, decoder=lengths[:, None])

    def null_condition(self, condition):
        return self.condition([""] * len(condition))

    def logits(self, tokens, condition, *, network=None, embedding_noise=0.0, generator=None):
        return (network or self.network)(condition.pooled)[:, None].expand(-1, self.seq_len, -1)

    def decode(self, embeddings, condition):
        cells = embeddings.transpose(1, 2).unflatten(2, (2, 2))
        return torch.nn.functional.interpolate(cells, scale_factor=4)

    def architecture(self):
        return {"name": "tiny"}

    @classmethod
    def from_architecture(cls, architecture):
        return cls()

    @classmethod
    def load(cls, config):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return cls()


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A working folder with a student of `TinyText`, a tiny detector and a tiny CLIP where they belong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(teachers.TEACHERS, "tiny", (TinyConfig, TinyText))
    monkeypatch.setattr(preprocessing, "SHORT_EDGE", 32)
    monkeypatch.setattr(preprocessing, "LONG_EDGE", 48)
    teacher = TinyText.load(None)
    save_generator(tmp_path / "run" / "student", teacher, teacher.network, GenerationConfig(), {"name": "tiny"}, "card")
    detector = Mask2FormerConfig(
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
        num_queries=3,
        num_labels=80,
    )
    (tmp_path / "tiny-quickgelu.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "tiny-quickgelu.json")
    monkeypatch.setattr(colors, "MODEL", "tiny-quickgelu")
    # Random networks see nothing: their self-check is the subject of a test of its own.
    monkeypatch.setattr(suites, "checked", lambda detector, known, *, accept: detector)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Mask2FormerForUniversalSegmentation(detector)
        clip = open_clip.CLIP(**TINY_CLIP)
    network.save_pretrained("weights/mask2former-swin-small-coco-instance")
    monkeypatch.setitem(weights.EVAL_WEIGHTS, "mask2former_mmdet", weights.EVAL_WEIGHTS["mask2former"])
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    return tmp_path


@pytest.fixture
def run(world, capsys):
    """Runs `fpd-eval geneval`: (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["geneval", *map(str, arguments)])
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


def write_images(root, records):
    for number, record in enumerate(records):
        (root / f"{number:05d}" / "samples").mkdir(parents=True)
        (root / f"{number:05d}" / "metadata.jsonl").write_text(json.dumps(record))
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{number:05d}" / "samples" / "00000.png")


def test_images_made_elsewhere_are_scored_as_json(run, world):
    colored = next(record for record in make_prompts() if record["tag"] == "colors")
    write_images(world / "pictures", [make_prompts()[0], colored])
    # Random networks score low; a threshold below zero keeps every box, so that colours are asked for.
    options = ("--samples", 1, "--allow-partial", "--option", "threshold=-1", "--clip-weights", "clip.pt")
    code, out, _ = run("--images", world / "pictures", *options, "--json")
    assert code == 0
    (outcome,) = json.loads(out)
    assert outcome["name"] == "pictures"
    assert set(outcome["scores"]["tasks"]) == {"single_object", "colors"}
    assert outcome["scores"]["complete"] is False
    assert outcome["options"]["threshold"] == -1
    assert outcome["prompts_sha256"] == "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
    assert outcome["detections"]["colors"] == "CLIP tiny-quickgelu"
    page = (world / "pictures-geneval" / "colors.html").read_text()
    assert colored["prompt"] in page


@pytest.fixture
def quick(monkeypatch):
    """Only the first prompt of every task: a run of the whole program in seconds."""
    records = {record["tag"]: record for record in reversed(make_prompts())}
    few = [records[tag] for tag in TASKS]
    monkeypatch.setattr("fpd_eval.geneval.official.make_prompts", lambda: few)
    return few


def test_a_student_and_its_teacher_are_generated_and_scored(run, world, quick):
    arguments = ("--ckpt", "run/student", "--steps", 1, 4, "--samples", 2, "--clip-weights", "clip.pt")
    code, out, _ = run(*arguments)
    assert code == 0
    assert all(name in out for name in ("student", "teacher-1", "teacher-4", "overall", *TASKS))
    folders = [world / "run" / "geneval" / name for name in ("student", "teacher-1", "teacher-4")]
    for folder in folders:
        assert len(list((folder / "images").glob("0000?/samples/0000[01].png"))) == 12
        assert len((folder / "results.jsonl").read_text().splitlines()) == 12
    made = json.loads((folders[2] / "images" / "generation.json").read_text())
    assert (made["system"], made["steps"], made["sampler"], made["seed"]) == ("teacher-4", 4, "confidence", 42)
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.glob("*/0000?/**/*.*")}
    assert run(*arguments)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_missing_judges_are_said_before_an_image_is_made(run, world):
    code, _, err = run("--ckpt", "run/student", "--detector-weights", "gone.pth")
    assert code == 2
    assert "gone.pth does not exist; get Mask2Former" in err
    assert "vit_large_patch14_clip_224.openai.safetensors does not exist" in err
    assert not (world / "run" / "geneval").exists()


def test_a_page_of_two_tasks_says_so(run, world):
    colored = next(record for record in make_prompts() if record["tag"] == "colors")
    write_images(world / "pictures", [make_prompts()[0], colored])
    options = ("--samples", 1, "--allow-partial", "--clip-weights", "clip.pt")
    assert run("--images", world / "pictures", *options)[0] == 0
    page = (world / "pictures-geneval" / "index.html").read_text()
    assert "Partial: 2 of 553 prompts, 2 of 553 images, 2 of 6 tasks." in page
    assert "Mean of these 2 tasks, no overall score" in page
    assert "Overall" not in page


def test_images_of_a_prompt_differ_and_repeat(run, world, quick):
    run("--ckpt", "run/student", "--samples", 2, "--clip-weights", "clip.pt")
    samples = world / "run" / "geneval" / "student" / "images" / "00001" / "samples"
    first, second = (np.array(Image.open(samples / f"0000{index}.png")) for index in range(2))
    again = load_generator(world / "run" / "student").generate([quick[1]["prompt"]] * 2, seed=42)
    assert first.tolist() == (again[0].permute(1, 2, 0) * 255).round().byte().tolist()
    assert second.tolist() == (again[1].permute(1, 2, 0) * 255).round().byte().tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --ckpt or --system, which make the images, or --images"),
        (("--ckpt", "run/student", "--images", "pictures"), "give either --ckpt or --system"),
        (("--images", "pictures", "--steps", "4"), "--steps are those of the teacher of --ckpt"),
        (("--ckpt", "run/student", "--detections", "boxes"), "--detections belong to --images"),
        (("--ckpt", "run/student", "--sampler", "halton"), "--sampler, --guidance-scale and --sampling belong to"),
        (("--ckpt", "run/student", "--steps", "4", "--sampling", "schedule"), "--sampling schedule must be NAME=VALUE"),
        (("--ckpt", "run/student", "--steps", "4", "--sampling", "shedule=cosine"), "did you mean 'schedule'"),
        (
            ("--ckpt", "run/student", "--steps", "4", "--sampling", "guidance_scale=2"),
            "guidance_scale has its own place",
        ),
        (("--images", "pictures", "--option", "threshold"), "must be NAME=VALUE"),
        (("--images", "pictures", "--option", "treshold=1"), "did you mean 'threshold'"),
        (("--images", "pictures", "--samples", "1"), "images are missing for 552 of 553 prompts"),
        (("--images", "nowhere"), "nowhere is not a folder"),
        (("--images", "pictures", "--samples", "0"), "samples"),
        (("--images", "pictures", "--device", "gpu"), "unknown device 'gpu'"),
        (
            ("--images", "pictures", "--samples", "1", "--allow-partial", "--detector-weights", "none"),
            "facebook/mask2former-swin-small-coco-instance",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(run, world, arguments, message):
    write_images(world / "pictures", make_prompts()[:1])
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_a_detector_that_sees_nothing_judges_nothing(run, world, monkeypatch):
    monkeypatch.setattr(suites, "checked", self_check.checked)
    write_images(world / "pictures", make_prompts()[:1])
    code, out, err = run("--images", "pictures", "--samples", "1", "--allow-partial", "--clip-weights", "clip.pt")
    assert code == 2
    assert "the detector fails its self-check on the bundled picture coco.jpg: expected a cat of score above 0.3" in err
    assert "--accept-detector judges all the same" in err
    assert out == ""
    assert not (world / "pictures-geneval" / "results.jsonl").exists()


class Sees:
    """A detector that finds these boxes in every picture."""

    identity: ClassVar[dict[str, str]] = {"detector": "fake"}

    def __init__(self, **found):
        self.found = {name: [Detection(*box) for box in boxes] for name, boxes in found.items()}

    def __call__(self, images):
        return [self.found for _ in images]


CAT, CUP = (5, 3, 400, 300, 0.9), (585, 15, 750, 230, 0.8)


def test_a_detector_that_finds_what_is_there_passes():
    detector = Sees(cat=[CAT], cup=[CUP], dog=[(0, 0, 9, 9, 0.99)])
    assert self_check.checked(detector, CAT_AND_CUP) is detector


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"cat": [CAT], "cup": [(*CUP[:4], 0.25)]}, "of score above 0.3 .*, found a cup of score 0.25 that overlaps"),
        ({"cat": [CAT], "cup": [(580, 12, 758, 122, 0.9)]}, None),  # half the cup, overlap 0.5
        ({"cat": [CAT], "cup": [(580, 12, 758, 45, 0.9)]}, "found a cup of score 0.90 that overlaps it by 0.15"),
        ({"cup": [CUP], "dog": [CAT]}, r"expected a cat .*, found no cat; surest of all: dog \(0.90\), cup \(0.80\)"),
        ({}, "found no cat; expected a cup .*, found no cup; surest of all: nothing"),
    ],
)
def test_a_failed_self_check_says_what_was_expected_and_found(found, said):
    if said is None:
        self_check.checked(Sees(**found), CAT_AND_CUP)
        return
    with pytest.raises(CheckpointError, match=said):
        self_check.checked(Sees(**found), CAT_AND_CUP)


def test_an_accepted_detector_judges_and_is_on_record(run, world, monkeypatch):
    monkeypatch.setattr(suites, "checked", self_check.checked)
    monkeypatch.setattr(official.Mask2FormerDetector, "load", lambda *_, **__: Sees(cup=[CUP], bench=[CAT]))
    write_images(world / "pictures", make_prompts()[:1])
    common = ("--samples", "1", "--allow-partial", "--out", "accepted", "--json")
    assert run("--images", "pictures", *common)[0] == 2
    code, out, err = run("--images", "pictures", *common, "--accept-detector")
    assert code == 0, err
    assert "found no cat" in err
    assert "it was accepted all the same, which is on record" in err
    [outcome] = json.loads(out)
    assert outcome["detections"]["self_check"] == "failed and accepted: no cat"
    stored = json.loads((world / "accepted" / "scores.json").read_text())
    assert stored["detections"] == outcome["detections"]
    # Whoever goes on without accepting is told, not served from the folder.
    write_images(world / "more", make_prompts()[:2])
    code, _, err = run("--images", "more", *common)
    assert code == 2
    assert "fails its self-check" in err


def test_absent_clip_weights_say_where_they_are_published(run, world):
    write_images(world / "pictures", [next(record for record in make_prompts() if record["tag"] == "colors")])
    code, _, err = run("--images", "pictures", "--samples", "1", "--allow-partial")
    assert code == 2
    assert "weights/clip/vit_large_patch14_clip_224.openai.safetensors does not exist" in err
    assert "timm/vit_large_patch14_clip_224.openai" in err


def test_a_class_conditional_student_is_refused(run, world, monkeypatch):
    monkeypatch.setattr(TinyText, "__init__", with_classes(TinyText.__init__))
    code, _, err = run("--ckpt", "run/student", "--clip-weights", "clip.pt")
    assert code == 2
    assert "student makes images of class labels; GenEval needs one that understands prompts" in err


def with_classes(build):
    def built(self):
        build(self)
        self.num_classes = 10

    return built
