"""Students in several steps: laws that a uniform-free network makes exact, and what each loop may show and keep."""

from itertools import product

import pytest
import torch

from fpd_core import load_generator
from fpd_core.config import ConfigError
from fpd_core.few_steps import ancestral, by_confidence, refill
from fpd_core.generator import GenerationConfig, Generator, save_generator
from fpd_core.masking import initial_tokens
from fpd_core.networks.extra_inputs import extended
from fpd_core.networks.noise_input import pyramid
from fpd_core.schedules import reveal_plan
from fpd_core.ste import sample_tokens

MASK = 3  # K = 3 codes
LENGTH = 2


def pair_law():
    """p(a, b) of two tokens, correlated."""
    return torch.tensor([[0.3, 0.05, 0.05], [0.05, 0.2, 0.05], [0.1, 0.1, 0.1]], dtype=torch.float64)


def exact_table():
    """Log of the conditionals of `pair_law` at every pair of tokens [4, 4, 2, 3]: a perfect masked network."""
    law, table = pair_law(), torch.zeros(4, 4, 2, 3)
    for a, b in product(range(4), range(4)):
        first = law.sum(1) if b == MASK else law[:, b] / law[:, b].sum()
        second = law.sum(0) if a == MASK else law[a] / law[a].sum()
        table[a, b] = torch.stack([first, second]).log()
    return table


TABLE = exact_table()


def exact_scores(tokens, progress):
    return TABLE[tokens[:, 0], tokens[:, 1]]


def share_of(tokens):
    return torch.bincount(tokens[:, 0] * 3 + tokens[:, 1], minlength=9).double().view(3, 3) / len(tokens)


@pytest.mark.parametrize("loop", ["ancestral", "confidence"])
def test_a_token_at_a_time_from_exact_conditionals_gives_the_joint_law(loop):
    """In one step the two tokens are independent; one by one they follow the law. Ancestral steps reveal both at once
    with probability 1/N, so the law is that mixture."""
    draws, random = 6000, torch.Generator().manual_seed(0)
    start = torch.full((draws, LENGTH), MASK)
    law = pair_law()
    independent = law.sum(1)[:, None] * law.sum(0)
    if loop == "ancestral":
        found = share_of(ancestral(exact_scores, start, 4, mask_id=MASK, generator=random))
        wanted = independent / 4 + law * 3 / 4
    else:
        found = share_of(by_confidence(exact_scores, start, 2, mask_id=MASK, ranking_noise=1e3, generator=random))
        wanted = law
    assert (found - wanted).abs().max() < 5 * (0.3 * 0.7 / draws) ** 0.5
    assert (independent - wanted).abs().max() > 0.05


def test_ancestral_hides_s_over_t_of_what_was_hidden():
    seen, random = [], torch.Generator().manual_seed(0)

    def scores(tokens, progress):
        seen.append((tokens == MASK).float().mean().item())
        return torch.zeros(*tokens.shape, 3)

    tokens = ancestral(scores, torch.full((40, 500), MASK), 5, mask_id=MASK, generator=random)
    assert seen == pytest.approx([1, 0.8, 0.6, 0.4, 0.2], abs=0.02)
    assert (tokens < MASK).all()


def test_ancestral_draws_from_the_nucleus_alone():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(1, 2000, 3)
    start = torch.full((1, 2000), MASK)
    tokens = ancestral(
        lambda t, p: logits, start, 1, mask_id=MASK, top_p=0.6, generator=torch.Generator().manual_seed(0)
    )
    assert tokens.unique().tolist() == [0, 1]
    assert (tokens == 0).float().mean().item() == pytest.approx(0.5 / 0.8, abs=0.05)


def test_refill_hides_ever_less_of_its_draft_and_keeps_the_rest():
    """100 tokens, r_init 0.9, γ(k/4) = 0.839, 0.667, 0.460: 76, 60 and 41 hidden, after the 90 of z_init."""
    seen, random = [], torch.Generator().manual_seed(0)
    start = initial_tokens(4, 100, 3, MASK, 0.9, random)

    def scores(tokens, progress):
        seen.append(tokens)
        return torch.full((*tokens.shape, 3), 0.0)

    tokens = refill(scores, start, 4, mask_id=MASK, mask_share=0.9, generator=random)
    assert [int((x == MASK).sum(1).unique()) for x in seen] == [90, 76, 60, 41]
    shown = seen[-1] != MASK
    assert torch.equal(tokens[shown], seen[-1][shown])
    assert (tokens < MASK).all()


def test_every_position_is_open_at_first_where_a_loop_starts_from_codes():
    """The start shows codes only; all of them are drawn again, as many a step as the plan says."""
    changed, last = [], None

    def scores(tokens, progress):
        nonlocal last
        changed.append(0 if last is None else int((tokens != last).sum()))
        last = tokens
        logits = torch.full((*tokens.shape, 3), -1e4)
        logits[..., 2] = 0
        return logits

    start = torch.zeros(1, 16, dtype=torch.int64)
    tokens = by_confidence(scores, start, 4, mask_id=MASK, generator=torch.Generator().manual_seed(0))
    assert changed[1:] == reveal_plan(16, 4)[:3]
    assert (tokens == 2).all()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_guidance_rises_from_none_to_its_scale(teacher, steps):
    found = []
    generator = Generator(teacher, GenerationConfig(steps=steps, guidance_scale=3, init_mask_ratio=1), {})
    generator.model = teacher.with_network(teacher.network)
    generator.model.guided_logits = lambda *inputs, **_: found.append(inputs[2]) or teacher.logits(*inputs[:2])
    generator.generate([0])
    assert found == pytest.approx({1: [3], 2: [1, 3], 4: [1, 1 + 2 / 3, 1 + 4 / 3, 3]}[steps])
    assert generator.network_evaluations == {1: 2, 2: 3, 4: 7}[steps]


def test_one_step_is_the_forward_pass_it_was(teacher):
    """Written out: z_init, one pass, one draw, in this order of the generator."""
    generator = Generator(teacher, GenerationConfig(init_mask_ratio=0.7, temperature=1.3, embedding_noise=0.2), {})
    random, condition = torch.Generator().manual_seed(4), teacher.condition([0, 2])
    z_init = initial_tokens(2, teacher.seq_len, teacher.codebook_size, teacher.mask_id, 0.7, random)
    logits = teacher.logits(z_init, condition, embedding_noise=0.2, generator=random)
    tokens = sample_tokens(logits, 1.3, random)
    wanted = teacher.decode(teacher.codebook[tokens], condition).clamp(0, 1)
    assert torch.equal(generator.generate([0, 2], seed=4), wanted)
    assert generator.network_evaluations == 1


@pytest.mark.parametrize(("sampler", "steps"), product(["refill", "ancestral", "confidence"], [1, 3]))
def test_students_of_all_kinds_open_and_draw_the_same(teacher, tmp_path, sampler, steps):
    kind = {"refill": "none", "ancestral": "noise", "confidence": "latent"}[sampler]
    network = extended(teacher.network, kind)
    generation = GenerationConfig(steps=steps, sampler=sampler, guidance_scale=2)
    save_generator(tmp_path, teacher, network, generation, {"name": "fashion"}, "# card", torch.float32)
    opened = load_generator(tmp_path)
    assert opened.model.network.extra_input == kind
    assert opened.generation == generation
    images = opened.generate([0, 1], seed=3)
    assert torch.equal(images, Generator(teacher.with_network(network), generation, {}).generate([0, 1], seed=3))
    assert torch.equal(opened.sampled(steps=1).generate([0], seed=1), opened.sampled(steps=1).generate([0], seed=1))


def test_a_network_with_an_input_of_its_own_draws_it_anew_every_step_for_both_branches(teacher):
    network, seen = extended(teacher.network, "latent"), []
    network.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["latent"]), with_kwargs=True)
    generation = GenerationConfig(steps=2, sampler="confidence", guidance_scale=2)
    Generator(teacher.with_network(network), generation, {}).generate([0, 1, 2])
    assert [one.shape for one in seen] == [(3,)] * 3
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_a_noise_input_changes_nothing_at_first(teacher):
    network = extended(teacher.network, "noise")
    tokens, labels = torch.full((2, teacher.seq_len), teacher.mask_id), torch.tensor([0, 1])
    noise = network.draw_inputs(2, torch.Generator().manual_seed(0))
    plain = teacher.network(tokens, labels)
    torch.testing.assert_close(network(tokens, labels, **noise), plain, rtol=0, atol=1e-6)
    network.noise_projection.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    assert (network(tokens, labels, **noise) - plain).abs().max() > 1e-2


def test_the_pyramid_has_unit_variance_and_neighbours_that_agree():
    """Four levels of side 8, 4, 2, 1: two cells of one 2x2 block share three levels of four, opposite corners one."""
    noise = pyramid(4000, 8, torch.Generator().manual_seed(0), torch.device("cpu"))[..., 0]
    correlation = torch.corrcoef(noise.T)
    assert noise.var().item() == pytest.approx(1, abs=0.03)
    assert correlation[0, 1].item() == pytest.approx(0.75, abs=0.05)
    assert correlation[0, 63].item() == pytest.approx(0.25, abs=0.06)


def test_steps_out_of_range_are_answered(teacher):
    generator = Generator(teacher, GenerationConfig(), {})
    with pytest.raises(ConfigError, match=r"generation: steps: .*greater than or equal to 1"):
        generator.sampled(steps=0)
    with pytest.raises(ValueError, match=f"between 1 and the {teacher.seq_len} tokens of an image, got 65"):
        generator.sampled(steps=65).generate([0])
