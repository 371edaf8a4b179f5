"""Verdicts worked out by hand from GenEval's rules: `evaluation/evaluate_images.py` of djghosh13/geneval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd_core.config import ConfigError
from fpd_eval.geneval import JudgeOptions, judge
from fpd_eval.geneval.judge import keep, relations


def record(*include, tag="single_object", exclude=None):
    clauses = {"include": list(include)} | ({"exclude": exclude} if exclude else {})
    return {"tag": tag, **clauses, "prompt": "a photo"}


def clause(name, count=1, **more):
    return {"class": name, "count": count, **more}


def boxes(*scores, x=0):
    return [(x, 0, x + 10, 10, score) for score in scores]


def no_colors(name, found):
    raise AssertionError("no clause asks for a colour")


def test_an_object_above_the_threshold_is_enough():
    assert judge(record(clause("dog")), {"dog": boxes(0.31)}, no_colors) == (True, "")


def test_a_missing_object_is_named():
    verdict = judge(record(clause("dog"), clause("cat")), {"dog": boxes(0.9), "bird": boxes(0.9)}, no_colors)
    assert verdict == (False, "expected cat>=1, found 0")


def test_every_failed_clause_has_its_line():
    verdict = judge(record(clause("dog"), clause("cat", 2)), {"cat": boxes(0.9)}, no_colors)
    assert verdict.reason == "expected dog>=1, found 0\nexpected cat>=2, found 1"


@pytest.mark.parametrize(("score", "correct"), [(0.3, False), (np.float32(0.3), False), (0.3000001, True)])
def test_the_threshold_is_compared_in_float32(score, correct):
    # As float64, float32(0.3) = 0.300000012 would lie above 0.3; 0.30000001 rounds to it.
    assert judge(record(clause("dog")), {"dog": [(0, 0, 1, 1, score)]}, no_colors).correct is correct
    assert not judge(record(clause("dog")), {"dog": [(0, 0, 1, 1, 0.30000001)]}, no_colors).correct


def test_counting_needs_high_scores_and_counts_too_many():
    three = record(clause("dog", 3), tag="counting", exclude=[clause("dog", 4)])
    assert judge(three, {"dog": boxes(0.95, 0.91, 0.99, 0.9, 0.5)}, no_colors) == (True, "")
    assert judge(three, {"dog": boxes(0.95, 0.91)}, no_colors).reason == "expected dog>=3, found 2"
    assert judge(three, {"dog": boxes(*[0.95] * 5)}, no_colors).reason == "expected dog<4, found 5"


def test_at_most_sixteen_objects_are_kept():
    crowd = {"dog": boxes(*[0.95] * 20)}
    assert judge(record(clause("dog"), tag="counting", exclude=[clause("dog", 17)]), crowd, no_colors).correct
    verdict = judge(record(clause("dog"), tag="counting", exclude=[clause("dog", 16)]), crowd, no_colors)
    assert verdict.reason == "expected dog<16, found 16"


def test_the_best_come_first_and_of_equal_scores_the_later():
    found = [(0, 0, 1, 1, 0.5), (1, 0, 2, 1, 0.9), (2, 0, 3, 1, 0.5), (3, 0, 4, 1, 0.2)]
    kept = keep(record(), {"dog": found, "cat": [(0, 0, 1, 1, 0.1)], "bird": []}, JudgeOptions())
    assert kept == {"dog": [found[1], found[2], found[0]]}


def test_scores_that_differ_only_in_float64_are_equal():
    found = [(0, 0, 1, 1, 0.5 + 1e-12), (1, 0, 2, 1, 0.5)]
    assert keep(record(), {"dog": found}, JudgeOptions())["dog"] == found[::-1]


@pytest.mark.parametrize(("max_overlap", "kept"), [(1.0, 2), (0.51, 2), (0.5, 1), (0.49, 1)])
def test_nms_counts_pixels_inclusively_and_drops_at_the_limit(max_overlap, kept):
    # 10 x 15 and 10 x 15 pixels sharing 10 x 10: 100 / (150 + 150 - 100) = 1/2.
    found = {"dog": [(0, 0, 9, 14, 0.9), (0, 5, 9, 19, 0.8)]}
    assert len(keep(record(), found, JudgeOptions(max_overlap=max_overlap))["dog"]) == kept


def test_nms_compares_with_kept_boxes_only_and_after_the_limit_on_number():
    # b overlaps a and c, a and c are apart: a removes b, so c stays.
    a, b, c = (0, 0, 9, 9, 0.9), (5, 0, 14, 9, 0.8), (10, 0, 19, 9, 0.7)
    assert keep(record(), {"dog": [c, b, a]}, JudgeOptions(max_overlap=0.3))["dog"] == [a, c]
    assert keep(record(), {"dog": [c, b, a]}, JudgeOptions(max_overlap=0.3, max_objects=2))["dog"] == [a]


def test_colors_are_asked_of_the_best_objects_only():
    asked = []

    def colors(name, found):
        asked.append((name, found))
        return ["red"]

    low, high = (0, 0, 10, 10, 0.4), (20, 0, 30, 10, 0.8)
    assert judge(record(clause("car", color="red"), tag="colors"), {"car": [low, high]}, colors).correct
    assert asked == [("car", [high])]
    assert asked[0][1][0] is high


def test_a_wrong_color_lists_what_was_seen_in_the_order_of_colors():
    wanted = record(clause("car", 4, color="red"), tag="colors")
    verdict = judge(wanted, {"car": boxes(0.9, 0.9, 0.9, 0.9)}, lambda *_: ["white", "blue", "red", "blue"])
    assert verdict == (False, "expected red car>=4, found 1 red; and 1 red, 2 blue, 1 white")


def test_color_is_not_asked_of_too_few_objects():
    verdict = judge(record(clause("car", 2, color="red")), {"car": boxes(0.9)}, no_colors)
    assert verdict.reason == "expected car>=2, found 1"


A_LEFT_OF_B = record(clause("cat"), clause("dog", position=["left of", 0]), tag="position")


def test_the_subject_stands_where_it_should():
    assert judge(A_LEFT_OF_B, {"cat": boxes(0.9, x=100), "dog": boxes(0.9)}, no_colors).correct


def test_a_misplaced_subject_is_told_where_it_is():
    verdict = judge(A_LEFT_OF_B, {"cat": boxes(0.9), "dog": boxes(0.9, x=100)}, no_colors)
    assert verdict.reason == "expected dog left of target, found right of target"


def test_a_subject_without_relation_leaves_two_blanks():
    verdict = judge(A_LEFT_OF_B, {"cat": boxes(0.9), "dog": boxes(0.9)}, no_colors)
    assert verdict.reason == "expected dog left of target, found  target"


def test_a_diagonal_names_both_relations():
    cat, dog = [(0, 0, 10, 10, 0.9)], [(100, 100, 110, 110, 0.9)]
    reason = judge(A_LEFT_OF_B, {"cat": cat, "dog": dog}, no_colors).reason
    assert set(reason.removeprefix("expected dog left of target, found ").removesuffix(" target").split(" and ")) == {
        "right of",
        "below",
    }


def test_without_a_target_nothing_is_placed():
    verdict = judge(A_LEFT_OF_B, {"dog": boxes(0.9)}, no_colors)
    assert verdict.reason == "expected cat>=1, found 0\nno target for dog to be left of"


def test_a_target_of_the_wrong_color_is_no_target():
    placed = record(clause("cat", color="red"), clause("dog", position=["left of", 0]), tag="position")
    verdict = judge(placed, {"cat": boxes(0.9, x=100), "dog": boxes(0.9)}, lambda *_: ["blue"])
    assert verdict.reason == "expected red cat>=1, found 0 red; and 1 blue\nno target for dog to be left of"


def test_every_found_subject_must_stand_there():
    two = record(clause("cat"), clause("dog", 2, position=["left of", 0]), tag="position")
    dogs = [(0, 0, 10, 10, 0.9), (200, 0, 210, 10, 0.8)]
    assert judge(two, {"cat": boxes(0.9, x=100), "dog": dogs}, no_colors).reason == (
        "expected dog left of target, found right of target"
    )


def test_two_clauses_may_share_a_box():
    assert judge(record(clause("cat"), clause("cat")), {"cat": boxes(0.9)}, no_colors).correct


@pytest.mark.parametrize(
    ("subject", "target", "expected"),
    [
        # 10 x 10 boxes, margin 0.1 x (10 + 10) = 2 per axis.
        ((-10, 0, 0, 10), (0, 0, 10, 10), ["left of"]),  # (10 - 2) / 10 = 0.8
        ((-4, 0, 6, 10), (0, 0, 10, 10), []),  # (4 - 2) / 4 = 0.5, not above one half
        ((-5, 0, 5, 10), (0, 0, 10, 10), ["left of"]),  # 3 / 5
        ((-2, 0, 8, 10), (0, 0, 10, 10), []),  # inside the margin
        ((0, 30, 10, 40), (0, 0, 10, 10), ["below"]),  # y points down
        ((0, -30, 10, -20), (0, 0, 10, 10), ["above"]),
        ((40, 40, 50, 50), (0, 0, 10, 10), ["right of", "below"]),  # 38 / 56.6 = 0.67 on both axes
        # Centres 30 right, 50 down: 28 / 58.3 = 0.48 and 48 / 58.3 = 0.82.
        ((30, 50, 40, 60), (0, 0, 10, 10), ["below"]),
        # Boxes 100 wide and 10 high: margins 20 and 2; offset (30, 0) leaves 10 / 30.
        ((30, 0, 130, 10), (0, 0, 100, 10), []),
        ((45, 0, 145, 10), (0, 0, 100, 10), ["right of"]),  # 25 / 45
    ],
)
def test_relations_of_hand_drawn_boxes(subject, target, expected):
    assert relations(subject, target) == expected


coordinate = st.integers(0, 500)
box = st.tuples(coordinate, coordinate, st.integers(1, 200), st.integers(1, 200)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@given(a=box, b=box)
def test_swapped_boxes_have_opposite_relations(a, b):
    assert set(relations(b, a)) == {OPPOSITE[relation] for relation in relations(a, b)}


def test_the_margin_is_an_option():
    near = {"cat": boxes(0.9, x=3), "dog": boxes(0.9)}
    assert not judge(A_LEFT_OF_B, near, no_colors).correct  # (3 - 2) / 3
    assert judge(A_LEFT_OF_B, near, no_colors, {"position_threshold": 0.05}).correct  # (3 - 1) / 3


def test_official_option_names_work_as_mapping_and_as_text():
    dogs = {"dog": boxes(0.5)}
    assert not judge(record(clause("dog")), dogs, no_colors, {"threshold": 0.6}).correct
    assert not judge(record(clause("dog")), dogs, no_colors, {"threshold": "0.6"}).correct
    assert judge(record(clause("dog"), tag="counting"), dogs, no_colors, {"counting_threshold": 0.4}).correct
    assert not judge(record(clause("dog", 2)), {"dog": boxes(0.5, 0.5)}, no_colors, {"max_objects": 1}).correct


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        judge(record(clause("dog")), {}, no_colors, {"treshold": 0.6})


@pytest.mark.parametrize("shape", [list, tuple, lambda rows: np.array(rows, np.float32)])
def test_boxes_may_be_lists_tuples_or_arrays(shape):
    rows = [list(row) for row in boxes(0.2, 0.95, 0.91)]
    two = record(clause("dog", 2), tag="counting", exclude=[clause("dog", 3)])
    assert judge(two, {"dog": shape(rows)}, no_colors) == (True, "")
    assert not judge(two, {"dog": shape(rows[:1])}, no_colors).correct
