"""The multi-step samplers against the published Halton sequence and against what any sampler must do."""

from itertools import pairwise

import pytest
import torch

from fpd_core.sampling import halton_order, network_evaluations, sample
from fpd_core.schedules import reveal_plan


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
    assert len(record.seen) == network_evaluations(4, 3.0) == 8
    assert [labels.tolist() for _, labels in record.seen[:2]] == [[1, 2], [3, 3]]
    record.seen.clear()
    sample(teacher, teacher.condition([1, 2]), 4, generator=rng, guidance_scale=1.0)
    assert len(record.seen) == network_evaluations(4, 1.0) == 4
    record.seen.clear()
    sample(teacher, teacher.condition([1, 2]), 4, generator=rng, guidance_scale=3.0, guidance_ramp=True)
    assert len(record.seen) == network_evaluations(4, 3.0, guidance_ramp=True) == 7


def test_guided_logits_are_the_documented_mixture(teacher, rng):
    tokens = torch.randint(12, (2, 64), generator=rng)
    condition = teacher.condition([0, 2])
    conditional, null = teacher.logits(tokens, condition), teacher.logits(tokens, teacher.null_condition(condition))
    torch.testing.assert_close(teacher.guided_logits(tokens, condition, 2.5), null + 2.5 * (conditional - null))
    # MaskGIT writes (1 + w) c - w u: the same with w = g - 1
    torch.testing.assert_close(teacher.guided_logits(tokens, condition, 2.5), 2.5 * conditional - 1.5 * null)


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
