"""The multi-step samplers against the published Halton sequence and against what any sampler must do."""

from itertools import pairwise

import pytest
import torch

from fpd_core.sampling import halton_order, network_evaluations, sample
from fpd_core.schedules import reveal_plan
from fpd_core.teachers import SamplerConfig


class Recorder:
    """Wraps a teacher's logits; remembers the token maps it was shown."""

    def __init__(self, teacher):
        self.seen, self._logits = [], teacher.logits
        teacher.logits = self

    def __call__(self, tokens, condition, **options):
        self.seen.append((tokens.clone(), condition.labels.clone()))
        return self._logits(tokens, condition, **options)


def test_halton_order_of_the_16_grid():
    cells = [divmod(cell, 16) for cell in halton_order(16)]
    assert cells[:12] == [
        *((8, 5), (4, 10), (12, 1), (2, 7), (10, 12), (6, 3)),
        *((14, 8), (1, 14), (9, 0), (5, 5), (13, 11), (3, 2)),
    ]
    assert cells[-3:] == [(1, 9), (13, 6), (11, 6)]
    assert len(set(cells)) == 256


def test_halton_order_of_the_24_grid():
    assert [divmod(cell, 24) for cell in halton_order(24)[:4]] == [(12, 8), (6, 16), (18, 2), (3, 10)]


@pytest.mark.parametrize("sampler", ["confidence", "halton"])
@pytest.mark.parametrize("steps", [1, 2, 5, 64])
def test_each_step_reveals_its_share_and_keeps_the_rest(teacher, rng, sampler, steps):
    record = Recorder(teacher)
    condition = teacher.condition([0, 1, 2, 0])
    tokens = sample(teacher, condition, steps, sampler, generator=rng, guidance_scale=1)
    maps = [seen for seen, _ in record.seen] + [tokens]
    masked = [int((m[0] == teacher.mask_id).sum()) for m in maps]
    assert [a - b for a, b in pairwise(masked)] == reveal_plan(64, steps)
    for before, after in pairwise(maps):
        known = before != teacher.mask_id
        assert torch.equal(before[known], after[known])
    assert tokens.min() >= 0
    assert tokens.max() < teacher.codebook_size


def test_sampling_is_a_function_of_the_generator(teacher):
    condition = teacher.condition([1, 2])
    a, b, c = (sample(teacher, condition, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_guidance_runs_the_null_branch_only_where_it_counts(teacher, rng):
    record = Recorder(teacher)
    sample(teacher, teacher.condition([1, 2]), 4, generator=rng, guidance_scale=3.0)
    assert len(record.seen) == network_evaluations(4, SamplerConfig(guidance_scale=3.0)) == 8
    assert [labels.tolist() for _, labels in record.seen[:2]] == [[1, 2], [3, 3]]
    record.seen.clear()
    sample(teacher, teacher.condition([1, 2]), 4, generator=rng, guidance_scale=1.0)
    assert len(record.seen) == network_evaluations(4, SamplerConfig(guidance_scale=1.0)) == 4
    record.seen.clear()
    sample(teacher, teacher.condition([1, 2]), 4, generator=rng, guidance_scale=3.0, guidance_start=1.0)
    ramped = SamplerConfig(guidance_scale=3.0, guidance_start=1.0)
    assert len(record.seen) == network_evaluations(4, ramped) == 7


def test_guided_logits_are_the_documented_mixture(teacher, rng):
    tokens = torch.randint(12, (2, 64), generator=rng)
    condition = teacher.condition([0, 2])
    conditional, null = teacher.logits(tokens, condition), teacher.logits(tokens, teacher.null_condition(condition))
    torch.testing.assert_close(teacher.guided_logits(tokens, condition, 2.5), null + 2.5 * (conditional - null))
    # MaskGIT writes (1 + w) c - w u: the same with w = g - 1
    torch.testing.assert_close(teacher.guided_logits(tokens, condition, 2.5), 2.5 * conditional - 1.5 * null)


# MaskGen-L's published table (16 steps, guidance 12 in its own convention, which is ours minus 1; randomize 2).
MASKGEN = SamplerConfig(
    guidance_scale=13.0,
    guidance_start=2.0,
    guidance_ramp="cosine",
    softmax_temperature=0.5,
    softmax_temperature_start=1.3,
    confidence="logit",
    confidence_temperature=2.0,
    annealed_draws=True,
    first_progress="one_step",
    rule="floor",
)


@pytest.mark.parametrize(
    ("step", "scale", "temperature", "noise"),
    [(1, 1.106, 1.25, 1.875), (4, 2.611, 1.10, 1.5), (8, 6.5, 0.90, 1.0), (12, 10.389, 0.70, 0.5), (16, 12, 0.50, 0)],
)
def test_ramps_of_maskgen(step, scale, temperature, noise):
    progress = torch.tensor(MASKGEN.progress(step - 1, 16))
    assert float(MASKGEN.guidance_at(progress)) - 1 == pytest.approx(scale, abs=5e-4)
    assert float(MASKGEN.softmax_temperature_at(progress)) == pytest.approx(temperature, abs=1e-6)
    assert MASKGEN.confidence_temperature * (1 - float(progress)) == pytest.approx(noise)


def test_annealed_draws_end_greedily_and_logit_confidence_keeps_the_strongest(teacher, rng):
    record = Recorder(teacher)
    options = MASKGEN.model_dump() | {"guidance_scale": 1.0, "guidance_start": None}
    tokens = sample(teacher, teacher.condition([0, 1]), 3, generator=rng, **options)
    before_last, condition = record.seen[-1][0], teacher.condition([0, 1])
    best = teacher.logits(before_last, condition).argmax(-1)
    still_open = before_last == teacher.mask_id
    assert torch.equal(tokens[still_open], best[still_open])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "hallton"}, "unknown sampler 'hallton'; known: confidence, halton"),
        ({"guidance_scal": 1}, "did you mean 'guidance_scale'"),
        ({"steps": 65}, "between 1 and the 64 tokens"),
    ],
)
def test_wrong_requests_are_answered(teacher, options, message):
    with pytest.raises(ValueError, match=message):
        sample(teacher, teacher.condition([0]), **({"steps": 2} | options))
