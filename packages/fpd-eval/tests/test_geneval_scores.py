"""Scores of hand-counted verdicts, and completeness over the official prompts."""

import json
import math

import pytest

from fpd_eval.geneval import make_prompts, summarize
from fpd_eval.geneval.scores import incomplete_message, missing_images


def results(tag, *prompts):
    """Verdicts per prompt, as 0 and 1."""
    return [
        {"tag": tag, "correct": bool(correct), "metadata": json.dumps({"tag": tag, "prompt": number})}
        for number, verdicts in enumerate(prompts)
        for correct in verdicts
    ]


def test_tasks_count_images_and_overall_is_the_mean_of_tasks():
    # 6 of 8, 1 of 4 and 3 of 6 images: (0.75 + 0.25 + 0.5) / 3.
    judged = [
        *results("counting", (1, 1, 1, 1), (1, 1, 0, 0)),
        *results("colors", (1, 0, 0, 0)),
        *results("position", (1, 1, 1), (0, 0, 0)),
    ]
    scores = summarize(judged)
    assert {tag: task.score for tag, task in scores.tasks.items()} == {
        "counting": 0.75,
        "colors": 0.25,
        "position": 0.5,
    }
    assert scores.overall == 0.5
    assert scores.correct_images == 10 / 18
    assert scores.correct_prompts == 4 / 5
    assert (scores.images, scores.prompts) == (18, 5)


def test_tasks_stand_in_the_papers_order():
    judged = [*results("position", (1,)), *results("single_object", (1,))]
    assert list(summarize(judged).tasks) == ["single_object", "position"]


def test_the_standard_error_takes_prompts_as_units():
    # Prompt means 1, 1, 0, 0: standard deviation sqrt(1/3), of the mean sqrt(1/3) / 2. As 16 independent images it
    # would be sqrt(0.25 / 16), less than half of that.
    task = summarize(results("colors", (1,) * 4, (1,) * 4, (0,) * 4, (0,) * 4)).tasks["colors"]
    assert task.standard_error == pytest.approx(math.sqrt(1 / 3) / 2)


def test_the_error_of_overall_adds_independent_tasks():
    judged = [*results("colors", (1,), (0,), (0,)), *results("position", (1,), (0,), (1,), (0,))]
    # Errors sqrt(1/3) / sqrt(3) = 1/3 and sqrt(1/3) / 2; the mean of two scores.
    assert summarize(judged).overall_standard_error == pytest.approx(math.sqrt(1 / 9 + 1 / 12) / 2)


def test_one_prompt_has_no_error():
    scores = summarize(results("colors", (1, 0)))
    assert scores.tasks["colors"].standard_error is None
    assert scores.overall_standard_error is None


def test_prompts_are_told_apart_by_their_record():
    twice = results("colors", (1,)) + results("colors", (0,))
    assert summarize(twice).prompts == 1


def test_nothing_is_no_score():
    with pytest.raises(ValueError, match="no judged images"):
        summarize([])


def test_all_prompts_with_all_images_are_complete():
    assert missing_images(((record, 4) for record in make_prompts()), samples=4) == []


def test_nine_missing_folders_and_a_short_one_are_named():
    images = [(record, 4) for record in make_prompts()[9:]]
    images[0] = (images[0][0], 3)
    missing = missing_images(images, samples=4)
    assert missing[:2] == ["00000 (0 of 4)", "00001 (0 of 4)"]
    assert missing[-1] == "00009 (3 of 4)"
    assert len(missing) == 10
    assert incomplete_message(missing, shown=1) == (
        "images are missing for 10 of 553 prompts: 00000 (0 of 4) and 9 more"
    )


def test_foreign_repeated_and_oversized_prompts_are_refused():
    record = make_prompts()[0]
    with pytest.raises(ValueError, match="'a photo of a unicorn' is not one of the 553"):
        missing_images([({**record, "prompt": "a photo of a unicorn"}, 4)], samples=4)
    with pytest.raises(ValueError, match="'a photo of a bench' has two folders"):
        missing_images([(record, 4), (record, 4)], samples=4)
    with pytest.raises(ValueError, match="has 5 images, expected 4"):
        missing_images([(record, 5)], samples=4)
