"""The teacher's refinement applied again and again: its law against the stationary law of an enumerable teacher."""

import json

import pytest
import torch
from microscope import ExactTeacher, hidden_by, stationary, total_variation, transition

from fpd_core.generator import GenerationConfig, Generator
from fpd_core.refine import RemaskConfig
from fpd_core.teachers import load_teacher
from fpd_eval.systems.fixed_point import FixedPointKind, FixedPointSystem
from fpd_eval.systems.teacher import TeacherSystem

DRAWS = 60_000  # leave a total variation of about 0.01 over 81 states


@pytest.mark.parametrize(("passes", "guidance"), [(1, 1.0), (1, 2.0), (3, 1.5)])
def test_its_law_is_the_stationary_one(passes, guidance):
    teacher = ExactTeacher(4, 3, seed=1)
    remask = {"clamp": (0.2, 0.9), "passes": passes}
    config = FixedPointKind(
        name="rest", teacher="exact", start_steps=1, refinements=8, remask=remask, guidance_scale=guidance
    )
    images = FixedPointSystem(config, teacher).images(torch.ones(DRAWS), seed=3)
    places = 3 ** torch.arange(3, -1, -1)
    found = torch.bincount(images.argmax(-1) @ places, minlength=81).double() / DRAWS
    law = stationary(transition(teacher, 1, hidden_by(teacher, RemaskConfig(**remask), guidance), passes))
    assert total_variation(found, law) < 0.016
    assert total_variation(found, teacher.law[1]) > 0.03  # and not the teacher's


def test_a_students_drafts_are_refined_as_often_as_asked():
    """Its own drafts first; after many refinements the law is the stationary one, whoever drew the start."""
    teacher, states = ExactTeacher(4, 3, seed=1), 81
    places = 3 ** torch.arange(3, -1, -1)
    student = Generator(teacher, GenerationConfig(init_mask_ratio=1.0), {})
    remask = {"clamp": (0.2, 0.9)}
    law = stationary(transition(teacher, 1, hidden_by(teacher, RemaskConfig(**remask), 1.0), 1))
    far = []
    for refinements in (1, 8):
        config = FixedPointKind(
            name="rest", teacher="exact", start="s", refinements=refinements, remask=remask, guidance_scale=1.0
        )
        system = FixedPointSystem(config, teacher, student)
        assert (system.steps, system.network_evaluations) == (1 + refinements, 1 + refinements)
        images = system.images(torch.ones(DRAWS), seed=3)
        found = torch.bincount(images.argmax(-1) @ places, minlength=states).double() / DRAWS
        far.append(total_variation(found, law))
    drafts = student.tokens(teacher.condition(torch.ones(DRAWS)), torch.Generator().manual_seed(0)) @ places
    far.insert(0, total_variation(torch.bincount(drafts, minlength=states).double() / DRAWS, law))
    assert far[0] > 0.05
    assert far[0] > far[1] + 0.02
    assert far[2] < 0.016


def test_a_student_of_other_codes_is_refused():
    config = FixedPointKind(name="rest", teacher="scenes", start="garments", refinements=1)
    student = Generator(load_teacher("fashion"), GenerationConfig(), {})
    with pytest.raises(ValueError, match="garments draws other codes than the teacher's"):
        FixedPointSystem(config, load_teacher("scenes"), student)


def test_forward_passes_are_counted():
    teacher = load_teacher("fashion")
    config = FixedPointKind(name="rest", teacher="fashion", start_steps=2, refinements=3, remask={"passes": 2})
    system = FixedPointSystem(config, teacher)
    start = TeacherSystem(teacher, steps=2, sampler=None, changed={})
    assert (system.steps, system.network_evaluations) == (2 + 3 * 2, start.network_evaluations + 3 * 2 * 2)
    plain = FixedPointSystem(config.model_copy(update={"guidance_scale": 1.0}), teacher)
    assert plain.network_evaluations == start.network_evaluations + 3 * 2
    assert plain.fingerprint != system.fingerprint


def test_compare_takes_it_and_refuses_what_cannot_be(run, tmp_path):
    section = {"kind": "fixed_point", "name": "rest", "teacher": "fashion", "start_steps": 2, "refinements": 1}
    (tmp_path / "rest.json").write_text(json.dumps(section))
    small = ("--num-images", "20", "--batch-size", "10", "--out", str(tmp_path / "report"))
    code, out, err = run("compare", "--systems", str(tmp_path / "rest.json"), *small, "--json")
    assert code == 0, err
    [row] = json.loads(out)["rows"]
    assert (row["name"], row["steps"]) == ("rest", 3)
    (tmp_path / "rest.json").write_text(json.dumps(section | {"start_steps": 65}))
    code, _, err = run("compare", "--systems", str(tmp_path / "rest.json"), *small)
    assert code == 2
    assert "start_steps must be at most 64" in err
