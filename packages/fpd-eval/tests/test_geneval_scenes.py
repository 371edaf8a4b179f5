"""The suite of the bundled world: its prompts are GenEval's own and held out, its judge knows true scenes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_core.checkpoints import save_folder
from fpd_core.conditioning import PromptCondition
from fpd_core.networks.scene_judge import SceneJudge, SceneJudgeConfig
from fpd_core.scenes import Drawing, Placed, Scene, draw_scene, held_out
from fpd_core.scenes.vocabulary import COLORS, OBJECTS
from fpd_eval.bench.rows import GenEvalRow
from fpd_eval.cli import main
from fpd_eval.geneval import make_prompts, suites
from fpd_eval.geneval.classes import TASKS
from fpd_eval.geneval.judge import JudgeOptions
from fpd_eval.geneval.scenes import KNOWN, SceneDetector, scene_prompts
from fpd_eval.geneval.suites import suite_called
from fpd_eval.report.geneval_rows import shown_prompts
from fpd_eval.systems import read_system

CPU = torch.device("cpu")


def test_official_prompts_of_these_objects_apply_word_for_word():
    official = {record["prompt"]: record for record in make_prompts()}
    ours = {record["prompt"]: record for record in scene_prompts()}
    known = {
        prompt for prompt, record in official.items() if all(clause["class"] in OBJECTS for clause in record["include"])
    }
    shared = ours.keys() & official.keys()
    assert len(shared) > 60
    for prompt in shared:
        assert ours[prompt] == official[prompt]
    # What is missing asks for a colour that this world does not paint on that object.
    assert all("color" in clause for prompt in known - shared for clause in official[prompt]["include"])


def test_every_task_is_asked_and_nothing_that_training_saw():
    records = scene_prompts()
    counts = {task: sum(record["tag"] == task for record in records) for task in TASKS}
    assert counts["single_object"] == 20
    assert all(20 <= count <= 100 for count in counts.values())
    assert len({record["prompt"] for record in records}) == len(records)
    asked = {record["prompt"] for record in records if record["tag"] != "single_object"}
    random = np.random.default_rng(7)
    seen = {draw_scene(random, task).record["prompt"] for task in TASKS for _ in range(400)}
    assert not asked & seen
    assert all(held_out(record) for record in records if record["tag"] != "single_object")


def test_the_suites_stay_apart():
    assert suite_called("geneval").prompts() == make_prompts()
    assert suite_called("geneval").sha256() != suite_called("scenes").sha256()
    assert suite_called("scenes").options == JudgeOptions()
    assert shown_prompts("scenes") != shown_prompts()
    assert GenEvalRow.model_fields["suite"].default == "geneval"
    with pytest.raises(ValueError, match="did you mean 'scenes'"):
        suite_called("scene")


class OneRedDog(SceneJudge):
    """Sees a red dog in the upper left corner of bright images."""

    def detect(self, images):
        dark = super().detect(torch.zeros_like(images))
        dog = {"dog": [(0.0, 0.0, 24.0, 24.0, 0.9)]}
        return [
            found.__class__(dog if image.mean() > 0.5 else {}, torch.zeros_like(found.color_map), COLORS)
            for found, image in zip(dark, images, strict=True)
        ]


def test_the_judge_answers_in_the_form_of_a_detector():
    detector = SceneDetector(OneRedDog(SceneJudgeConfig(kinds=OBJECTS, colors=COLORS, width=8, depth=1)), CPU)
    bright, dark = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64))
    found = detector([bright, dark])
    assert found[1] == {}
    [dog] = found[0]["dog"]
    assert (dog[:4], dog.color) == ((0, 0, 24, 24), "red")
    with pytest.raises(ValueError, match="64 x 64 pixels"):
        detector([Image.new("RGB", (32, 64))])


@pytest.fixture
def run_geneval(capsys):
    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture
def judge(tmp_path):
    torch.manual_seed(0)
    network = SceneJudge(SceneJudgeConfig(kinds=OBJECTS, colors=COLORS, width=8, depth=1))
    save_folder(tmp_path / "judge", {"judge": network.config.model_dump()}, network.state_dict(), "card")
    return tmp_path / "judge"


def test_true_scenes_go_through_the_whole_command(run_geneval, tmp_path, judge, monkeypatch):
    """Drawn scenes of a few prompts, an untrained judge: files, scores and pages, none of them GenEval's."""
    monkeypatch.setattr(suites, "checked", lambda detector, known, accept: detector)
    records = {record["tag"]: record for record in reversed(scene_prompts())}
    few = tuple(records[tag] for tag in TASKS)
    monkeypatch.setattr("fpd_eval.geneval.scenes._records", lambda: few)
    (tmp_path / "a.json").write_text(json.dumps({"kind": "drawn", "name": "true scenes", "reconstructed": False}))
    code, out, err = run_geneval(
        "geneval", "--suite", "scenes", "--system", tmp_path / "a.json", "--samples", 2,
        "--detector-weights", judge, "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert code == 0, err
    [outcome] = json.loads(out)
    assert (outcome["suite"], outcome["scores"]["images"]) == ("scenes", 12)
    assert outcome["prompts_sha256"] == suite_called("scenes").sha256()
    assert outcome["options"]["counting_threshold"] == 0.9
    assert (tmp_path / "out" / "true-scenes" / "index.html").exists()


def test_an_untrained_judge_fails_its_self_check(run_geneval, tmp_path, judge):
    (tmp_path / "a.json").write_text(json.dumps({"kind": "drawn", "name": "true", "reconstructed": False}))
    code, out, err = run_geneval(
        "geneval", "--suite", "scenes", "--system", tmp_path / "a.json", "--samples", 1, "--per-task", 1,
        "--detector-weights", judge, "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert "the detector fails its self-check on the bundled picture scenes.png: expected a red car" in err
    assert not (tmp_path / "out" / "true" / "results.jsonl").exists()


def test_the_known_picture_is_a_scene_of_this_world():
    objects = [
        Placed(known.name, known.color, int(known.box[0]) // 8, int(known.box[1]) // 8) for known in KNOWN.objects
    ]
    drawn = Drawing()(Scene({}, tuple(objects), 0)).transpose(1, 2, 0)
    np.testing.assert_allclose(np.array(KNOWN.open()) / 255, drawn, atol=0.51 / 255)


def test_the_halves_share_single_objects_alone():
    choose, report, both = (suite_called(name).prompts() for name in ("scenes-choose", "scenes-report", "scenes"))
    shared = [record for record in choose if record in report]
    assert {record["tag"] for record in shared} == {"single_object"}
    assert len(choose) + len(report) - len(shared) == len(both)
    assert len(suite_called("scenes").first(2)) == 2 * len(TASKS)


def test_drawn_scenes_show_what_is_asked(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"kind": "drawn", "name": "true", "reconstructed": False}))
    system = read_system(tmp_path / "a.json").load(CPU)
    images = system.images(PromptCondition(("a photo of a red apple", "a photo of a dog")), seed=0)
    assert images.shape == (2, 3, 64, 64)
    red = images[0, 0] - images[0, 1:].mean(0)
    assert (red > 0.5).sum() > 50
    assert (images[1, 0] - images[1, 1:].mean(0) > 0.5).sum() < 20
    assert torch.equal(images, system.images(PromptCondition(("a photo of a red apple", "a photo of a dog")), seed=0))
    with pytest.raises(ValueError, match="'a photo of a unicorn' is no prompt of the bundled world"):
        system.images(PromptCondition(("a photo of a unicorn",)), seed=0)


def test_the_bundled_judge_passes_true_scenes_and_no_others(run_geneval, tmp_path, monkeypatch):
    """Five prompts of every task: all right when drawn, none when the pictures belong to other prompts."""
    records = scene_prompts()
    few = tuple(record for task in TASKS for record in [r for r in records if r["tag"] == task][:5])
    monkeypatch.setattr("fpd_eval.geneval.scenes._records", lambda: few)
    (tmp_path / "a.json").write_text(json.dumps({"kind": "drawn", "name": "true"}))
    arguments = ("geneval", "--suite", "scenes", "--samples", 1, "--json")
    code, out, err = run_geneval(*arguments, "--system", tmp_path / "a.json", "--out", tmp_path / "out")
    assert code == 0, err
    assert json.loads(out)[0]["scores"]["overall"] == 1.0
    swapped, made = tmp_path / "swapped", tmp_path / "out" / "true" / "images"
    for number in range(len(few)):
        (swapped / f"{number:05d}" / "samples").mkdir(parents=True)
        other = made / f"{(number + 5) % len(few):05d}" / "samples" / "00000.png"
        (swapped / f"{number:05d}" / "samples" / "00000.png").write_bytes(other.read_bytes())
        (swapped / f"{number:05d}" / "metadata.jsonl").write_bytes(
            (made / f"{number:05d}" / "metadata.jsonl").read_bytes()
        )
    code, out, err = run_geneval(*arguments, "--images", swapped, "--out", tmp_path / "judged")
    assert code == 0, err
    assert json.loads(out)[0]["scores"]["overall"] < 0.1
