"""Exported students in diffusers: the pictures of fpd's own samplers, and schedulers that keep their terms."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from fpd_core import load_generator
from fpd_core.generator import GenerationConfig, Generator, save_generator
from fpd_core.pipeline import (
    AncestralScheduler,
    ConfidenceScheduler,
    FpdPipeline,
    HaltonScheduler,
    OneStepScheduler,
    SourceScheduler,
    StudentModel,
)
from fpd_core.pipeline_files import write_pipeline
from fpd_core.sampling import sample

ASSETS = Path(__file__).resolve().parents[3] / "assets"
ALL = (OneStepScheduler, ConfidenceScheduler, HaltonScheduler, AncestralScheduler, SourceScheduler)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"steps": 3, "temperature": 1.5, "init_mask_ratio": 0.6},
        {"steps": 3, "guidance_scale": 2.5, "embedding_noise": 0.3},
        {"sampler": "ancestral", "steps": 4, "top_p": 0.8},
        {"sampler": "confidence", "steps": 1, "init_mask_ratio": 0.5},
        {"sampler": "confidence", "steps": 5, "ranking_noise": 2.0, "rule": "v1", "guidance_scale": 3.0},
    ],
    ids=str,
)
def test_the_pipeline_draws_what_the_generator_draws(teacher, how):
    generator = Generator(teacher, GenerationConfig(**how), {})
    pipe = quiet(FpdPipeline.of(generator))
    drawn = pipe(class_labels=[2, 0], num_images_per_prompt=2, generator=seeded(5), output_type="pt").images
    assert torch.equal(drawn, generator.generate([2, 2, 0, 0], seed=5))


OPTIONS = {
    "plain": ({}, {}),
    "ramped": ({"temperature": 0.7, "temperature_start": 1.4}, {"first_progress": "one_step"}),
    "annealed": ({}, {"annealed_draws": True, "confidence": "logit", "confidence_temperature": 1.5}),
    "sharpened": ({"temperature": 1.0}, {"multiplier": {"start": 1.0, "end": 2.0}, "top_k": 5, "rule": "floor"}),
}
SOFTMAX = {"temperature": "softmax_temperature", "temperature_start": "softmax_temperature_start"}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("scheduler", "sampler"), [(ConfidenceScheduler, "confidence"), (HaltonScheduler, "halton")])
def test_the_orders_of_a_teacher_are_those_of_sampling_token_for_token(teacher, scheduler, sampler, options):
    heat, others = options
    plain = {"rule": "corrected", "confidence": "probability", "confidence_temperature": 4.5}
    others = {**plain, "shift": sampler == "halton", **others}
    model = StudentModel(Generator.untrained(teacher, GenerationConfig()))
    pipe = quiet(FpdPipeline(model, scheduler(mask_token_id=teacher.mask_id, **heat, **others)))
    drawn = pipe(
        class_labels=[1, 2, 0], num_inference_steps=6, guidance_scale=2.0, generator=seeded(9), output_type="latent"
    ).images
    named = {SOFTMAX[key]: value for key, value in heat.items()} | others
    wanted = teacher.condition([1, 2, 0])
    guided = {"guidance_scale": 2.0, "guidance_start": None}
    assert torch.equal(drawn, sample(teacher, wanted, 6, sampler, generator=seeded(9), **guided, **named))


def test_timesteps_fall_from_one_and_others_are_refused():
    scheduler = OneStepScheduler(mask_token_id=7)
    assert scheduler.timesteps.tolist() == [1]
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [1, 0.75, 0.5, 0.25]
    for wrong in (0.0, 0.6, 1.25, -0.5):
        with pytest.raises(ValueError, match="none of the 4"):
            scheduler.step(torch.zeros(1, 4, 7), wrong, torch.full((1, 4), 7))
    with pytest.raises(ValueError, match="must be positive"):
        scheduler.set_timesteps(0)


def test_a_step_fixes_the_surest_draws_and_says_what_it_drew_from(rng):
    # L = 4 in two steps: round(4 arccos(1/2) 2/π) = 3 stay masked, so one token is fixed, then three.
    scheduler = ConfidenceScheduler(mask_token_id=6, temperature=0.5, top_k=3, confidence_temperature=0.0)
    scheduler.set_timesteps(2)
    logits = torch.randn(2, 4, 6, generator=rng)
    first = scheduler.step(logits, scheduler.timesteps[0], torch.full((2, 4), 6), generator=rng)
    for b in range(2):
        odds = []
        for place in range(4):
            kept = np.sort(logits[b, place].double().numpy())[-3:]
            weights = {k: np.exp(2 * v) for k, v in enumerate(logits[b, place].double().tolist()) if v >= kept[0]}
            token = int(first.sampled_tokens[b, place])
            odds.append(weights[token] / sum(weights.values()))
            finite = first.pred_logits[b, place].isfinite().nonzero().flatten().tolist()
            assert finite == sorted(weights)
        assert first.sampled_probs[b].tolist() == pytest.approx(odds, rel=1e-5)
        surest = int(np.argmax(odds))
        expected = [int(first.sampled_tokens[b, place]) if place == surest else 6 for place in range(4)]
        assert first.prev_sample[b].tolist() == expected
    last = scheduler.step(logits, scheduler.timesteps[1], first.prev_sample, generator=rng)
    was_open = first.prev_sample == 6
    assert torch.equal(last.prev_sample, torch.where(was_open, last.sampled_tokens, first.prev_sample))


def test_top_p_leaves_the_likeliest_codes_of_that_probability():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(1, 200, 4)
    scheduler = OneStepScheduler(mask_token_id=4, top_p=0.7)
    out = scheduler.step(logits, 1.0, torch.full((1, 200), 4), generator=seeded(0))
    assert set(out.sampled_tokens.unique().tolist()) == {0, 1}
    assert set(out.sampled_probs.mul(1000).round().unique().tolist()) == {375, 625}  # 0.3 and 0.5 of 0.8
    with pytest.raises(ValueError, match="top_p"):
        OneStepScheduler(mask_token_id=4, top_p=0.0)


def test_a_refill_hides_the_share_that_remains_and_keeps_the_rest(rng):
    # 8 tokens, r_init = 0.75, N = 2: z_init hides 6, the draft then hides round(0.75 · 2/3 · 8) = 4.
    scheduler = OneStepScheduler(mask_token_id=5, init_mask_ratio=0.75)
    scheduler.set_timesteps(2)
    start = scheduler.initial_sample(3, 8, 5, rng, torch.device("cpu"))
    assert (start == 5).sum(1).tolist() == [6, 6, 6]
    seen = scheduler.step(torch.randn(3, 8, 5), 1.0, start, generator=rng)
    hidden = seen.prev_sample == 5
    assert hidden.sum(1).tolist() == [4, 4, 4]
    assert torch.equal(seen.prev_sample[~hidden], seen.sampled_tokens[~hidden])
    done = scheduler.step(torch.randn(3, 8, 5), 0.5, seen.prev_sample, generator=rng).prev_sample
    assert torch.equal(done[~hidden], seen.prev_sample[~hidden])
    assert (done < 5).all()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_any_scheduler_is_made_from_anothers_settings(tmp_path, kind):
    settings = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "num_inference_steps": 4, "shift": True}
    first = OneStepScheduler(mask_token_id=9, **settings)
    assert set(first.compatibles) == set(ALL)
    other = kind.from_config(first.config)
    assert isinstance(other, kind)
    assert {name: other.config[name] for name in settings} == settings
    other.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert (again.mask_token_id, len(again.timesteps)) == (9, 4)
    sampled = again.step(torch.randn(1, 16, 9), 1.0, torch.full((1, 16), 9), generator=seeded(1), return_dict=False)
    assert [tuple(value.shape) for value in sampled] == [(1, 16), (1, 16), (1, 16), (1, 16, 9)]


@pytest.fixture
def folder(teacher, tmp_path):
    how = GenerationConfig(init_mask_ratio=0.8, temperature=1.2)
    save_generator(tmp_path / "student", teacher, teacher.network, how, {"name": "fashion"}, "# card")
    return tmp_path / "student"


def opened(folder, **options):
    return quiet(diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **options))


def test_an_exported_folder_opens_both_ways(folder, tmp_path):
    expected = load_generator(folder).generate([1, 2], seed=3)
    for options in ({"custom_pipeline": str(folder)}, {"custom_pipeline": str(folder / "pipeline.py")}, {}):
        pipe = opened(folder, **options)
        assert torch.equal(pipe(class_labels=[1, 2], generator=seeded(3), output_type="pt").images, expected)
    with pytest.raises(ValueError, match="trust_remote_code"):
        diffusers.DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder))
    pipe.save_pretrained(tmp_path / "saved")
    assert torch.equal(load_generator(tmp_path / "saved" / "student").generate([1, 2], seed=3), expected)


@pytest.mark.parametrize(
    ("world", "asked"),
    [("fashion", {"class_labels": [7, 9]}), ("scenes", {"prompt": ["a photo of a dog", "a photo of a red apple"]})],
)
def test_the_bundled_students_open_both_ways(world, asked):
    student = ASSETS / world / "student"
    (wanted,) = asked.values()
    expected = load_generator(student).generate(wanted, seed=1)
    assert torch.equal(opened(student)(**asked, generator=seeded(1), output_type="pt").images, expected)


@pytest.mark.parametrize("world", ["fashion", "scenes"])
def test_the_bundled_students_hold_the_files_that_an_export_writes(world, tmp_path):
    generator = load_generator(ASSETS / world / "student")
    write_pipeline(tmp_path, generator.generation, generator.model.mask_id)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert len(written) == 5
    for path in written:
        assert (ASSETS / world / "student" / path).read_text() == (tmp_path / path).read_text()


def test_images_come_in_the_forms_that_diffusers_has(teacher):
    pipe = quiet(FpdPipeline.of(Generator(teacher, GenerationConfig(), {})))
    forms = {form: pipe(class_labels=1, generator=seeded(2), output_type=form).images for form in ("pil", "np", "pt")}
    assert forms["np"].shape == (1, 32, 32, 3)
    assert np.array_equal(forms["np"], forms["pt"].permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.array(forms["pil"][0]), (forms["np"][0] * 255).round().astype("uint8"))
    tokens = pipe(class_labels=1, generator=seeded(2), output_type="latent", return_dict=False)[0]
    assert tokens.shape == (1, 64)
    one_by_one = pipe(class_labels=[0, 2], generator=[seeded(4), seeded(6)], output_type="latent").images
    for drawn, label, seed in zip(one_by_one, (0, 2), (4, 6), strict=True):
        alone = pipe(class_labels=label, generator=seeded(seed), output_type="latent").images[0]
        assert torch.equal(drawn, alone)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "either prompt or class_labels"),
        ({"prompt": "a dog", "class_labels": 1}, "either prompt or class_labels"),
        ({"class_labels": 3}, "0 to 2"),
        ({"class_labels": 0, "num_inference_steps": 65}, "between 1 and the 64 tokens"),
        ({"class_labels": 0, "generator": [seeded(0), seeded(1)]}, "2 generators were given for 1 images"),
    ],
)
def test_wrong_requests_are_one_sentence(teacher, asked, said):
    pipe = quiet(FpdPipeline.of(Generator(teacher, GenerationConfig(), {})))
    with pytest.raises(ValueError, match=said):
        pipe(**asked)


def test_a_scheduler_of_another_network_is_refused(teacher):
    pipe = FpdPipeline(StudentModel(Generator(teacher, GenerationConfig(), {})), OneStepScheduler(mask_token_id=99))
    with pytest.raises(ValueError, match="mask_token_id 99 is not the student's, 12"):
        pipe(class_labels=0)
