"""`--write-card` puts the measured numbers into the student's card, and `--ckpt` takes a repository of the hub."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard
from local_hub import LocalHub, point_client_at

from fpd_core.generator import load_generator
from fpd_eval.geneval.judge import JudgeOptions
from fpd_eval.geneval.outcome import Outcome
from fpd_eval.geneval.scores import Scores, TaskScore
from fpd_eval.report.card import write_judged

SMALL = ("--num-images", "20", "--device", "cpu")


@pytest.fixture
def student(world):
    """A copy whose card may be written."""
    shutil.copytree(world / "runs" / "tiny" / "student", world / "carded" / "student")
    yield world / "carded" / "student"
    shutil.rmtree(world / "carded")


def numbers(folder):
    card = ModelCard.load(folder / "README.md")
    return {result.metric_type: result.metric_value for result in card.data.eval_results}, card


def test_compare_writes_the_students_row_and_the_whole_table(run, student):
    arguments = ("compare", "--ckpt", "mine=carded/student", "--steps", "1", *SMALL, "--batch-size", "10", "--json")
    code, out, err = run(*arguments, "--write-card")
    assert code == 0, err
    (row,) = (row for row in json.loads(out)["rows"] if row["name"] == "mine")
    found, card = numbers(student)
    assert found == row["values"]
    assert card.data.eval_results[0].metric_args == {"num_images": 20, "seed": 0, "steps": 1}
    assert card.text.startswith("\ncard")
    for name in ("teacher", "untrained", "mine"):
        assert f"| {name} |" in card.text
    run(*arguments, "--write-card")
    assert numbers(student)[1].text == card.text
    load_generator(student)


def test_metrics_writes_what_it_prints_and_only_into_a_folder(run, student):
    arguments = ("metrics", "--protocol", "small", "--only", "fid", *SMALL, "--json", "--write-card")
    code, out, err = run(*arguments, "--ckpt", "carded/student")
    assert code == 0, err
    assert numbers(student)[0] == json.loads(out)["values"]
    for wrong, said in ((("--teacher", "fashion"), "belongs to --ckpt"), (("--ckpt", "some/one"), "needs a folder")):
        code, _, err = run(*arguments, *wrong)
        assert code == 2
        assert said in " ".join(err.split())


def test_geneval_writes_the_student_beside_its_teacher(student):
    def outcome(name, first, second):
        tasks = {
            tag: TaskScore(score=score, standard_error=None, correct=1, images=8, prompts=2)
            for tag, score in (("single_object", first), ("counting", second))
        }
        overall = (first + second) / 2
        scores = Scores(
            tasks=tasks,
            overall=overall,
            overall_standard_error=None,
            correct_images=0.5,
            correct_prompts=0.5,
            images=16,
            prompts=4,
        )
        return Outcome(name=name, scores=scores, samples=4, options=JudgeOptions(), images={}, detections={})

    write_judged([outcome("student", 0.75, 0.125), outcome("teacher-16", 1.0, 0.5)], student)
    found, card = numbers(student)
    assert found == {"single_object": 0.75, "counting": 0.125, "overall": 0.4375}
    assert "| teacher-16 | 1.000 | 0.500 | 0.750 |" in card.text
    assert card.data.eval_results[0].dataset_name == "GenEval"


def test_partial_scores_do_not_go_into_a_card(run, student):
    code, _, err = run("geneval", "--ckpt", "carded/student", "--per-task", "1", "--write-card")
    assert code == 2
    assert "partial scores are none" in " ".join(err.split())


def test_a_repository_is_measured_as_its_folder_is(run, world, tmp_path, monkeypatch):
    with LocalHub() as hub:
        hub.commit_folder("someone/tiny", world / "runs" / "tiny" / "student")
        point_client_at(hub.url, monkeypatch, tmp_path / "cache")
        arguments = ("metrics", "--protocol", "small", "--only", "fid", *SMALL, "--json", "--ckpt")
        code, out, err = run(*arguments, "someone/tiny")
        assert code == 0, err
        assert json.loads(out)["values"] == json.loads(run(*arguments, "runs/tiny/student")[1])["values"]
        two = ("compare", "--ckpt", "someone/tiny", "--ckpt", "mine=runs/tiny/student", "--steps", "1", *SMALL)
        code, out, err = run(*two, "--batch-size", "10", "--json", "--out", str(tmp_path / "report"))
        assert code == 0, err
        assert {"tiny", "mine"} <= {row["name"] for row in json.loads(out)["rows"]}
        code, _, err = run(*arguments, "someone/absent")
        assert code == 2
        assert "no public repository" in " ".join(err.split())
