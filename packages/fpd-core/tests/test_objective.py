"""Eqs. 4-8 together: what the composed loss does and does not touch, switch by switch."""

from copy import deepcopy

import pytest
import torch

from fpd_core.lift import Lift, LiftConfig
from fpd_core.objective import ObjectiveConfig, fixed_point_loss
from fpd_core.refine import RemaskConfig
from fpd_core.ste import soft_embedding


@pytest.fixture
def lift(teacher):
    return Lift(teacher, LiftConfig(space="pixel"))


def student_of(teacher):
    return deepcopy(teacher.network).requires_grad_(True)


def evaluate(teacher, lift, student, seed=0, **options):
    return fixed_point_loss(
        student,
        teacher,
        lift,
        teacher.condition([0, 1, 2, 0]),
        ObjectiveConfig(**options),
        generator=torch.Generator().manual_seed(seed),
    )


def test_only_the_student_gets_a_gradient(teacher, lift):
    student = student_of(teacher)
    evaluate(teacher, lift, student).loss.backward()
    assert sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in [*teacher.parameters(), *lift.parameters()])


def test_the_gradient_is_the_drift_pulled_back_through_the_soft_embedding(teacher, lift):
    """Chain rule by hand: the gradient at the decoder's input, through the softmax, is autograd's logit gradient."""
    captured = {}

    def student(tokens, labels, *rest):
        logits = teacher.network(tokens, labels).detach().double().float().requires_grad_(True)
        captured["logits"] = logits
        return logits

    seen = []
    decode = teacher.decode

    def spy(embeddings, condition):
        embeddings.retain_grad() if embeddings.requires_grad else None
        seen.append(embeddings)
        return decode(embeddings, condition)

    lift._decode = spy
    evaluate(teacher, lift, student).loss.backward()
    _, drafted = seen  # the target is lifted first
    logits = captured["logits"].detach()[..., :12].requires_grad_(True)
    soft_embedding(logits, teacher.codebook).backward(drafted.grad)
    torch.testing.assert_close(captured["logits"].grad[..., :12], logits.grad, rtol=1e-4, atol=1e-8)


def test_the_decoder_sees_exact_codes_or_the_expectation(teacher, lift):
    seen = []
    decode = teacher.decode
    lift._decode = lambda embeddings, condition: seen.append(embeddings.detach()) or decode(embeddings, condition)
    for estimator in ("straight_through", "soft"):
        evaluate(teacher, lift, teacher.network, estimator=estimator)
    _, hard, _, soft = seen
    codes = {tuple(code.tolist()) for code in teacher.codebook}
    assert all(tuple(v.tolist()) in codes for v in hard.flatten(0, 1))
    assert not any(tuple(v.tolist()) in codes for v in soft.flatten(0, 1))


def test_a_student_at_the_fixed_point_of_a_certain_teacher_has_nothing_to_learn(teacher, lift):
    """Teacher and student both always say code 3: refinement changes nothing, narrow drifts vanish (eq. 3)."""

    def certain(tokens, labels, *rest):
        logits = torch.zeros(len(tokens), 64, 13)
        logits[..., 3] = 100
        return logits.requires_grad_(True)

    teacher.logits = lambda tokens, condition, network=None, **_: certain(tokens, condition.labels)[..., :12]
    result = evaluate(teacher, lift, certain)
    assert result.changed == 0
    assert result.entropy < 1e-6
    assert max(float(block.rms.max()) for block in result.blocks) < 1e-3


def test_the_random_draft_source_ignores_the_student(teacher, lift):
    """Only r -> 0 shows the source: with one token refilled, the target is the source everywhere else."""
    lifted = []
    decode = teacher.decode
    lift._decode = lambda embeddings, condition: lifted.append(embeddings.detach()) or decode(embeddings, condition)
    tiny = RemaskConfig(clamp=(0.0, 0.01))
    for source in ("student", "random"):
        evaluate(teacher, lift, teacher.network, draft_source=source, remask=tiny)
    same = [(a == b).all(-1).float().mean().item() for a, b in (lifted[:2], lifted[2:])]
    assert same[0] >= 63 / 64
    assert same[1] < 0.5


def test_z_init_is_mostly_masked_and_guidance_reaches_only_the_teacher(teacher, lift):
    calls = []
    network = teacher.network

    def spy(tokens, labels, *rest):
        calls.append((tokens, labels))
        return network(tokens, labels, *rest)

    evaluate(teacher, lift, spy, init_mask_ratio=0.75)
    ((z_init, labels),) = calls
    assert (z_init == teacher.mask_id).sum(1).tolist() == [48] * 4
    assert labels.tolist() == [0, 1, 2, 0]


def test_the_share_follows_the_progress_of_the_run(teacher, lift):
    """The law moves to exactly one half at the end; the mean share of the batch is reported."""
    law = RemaskConfig(clamp=(0.1, 0.1), end={"clamp": (0.5, 0.5)})
    for progress in (0.0, 0.25, 1.0):
        result = fixed_point_loss(
            teacher.network, teacher, lift, teacher.condition([0, 1]), ObjectiveConfig(remask=law), progress=progress
        )
        assert result.mask_ratio.item() == pytest.approx(0.1 + 0.4 * progress, abs=1e-6)


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [(None, 2.0), (3, 3.0), ("sampler", 1.5), ({"at_zero": 1.5, "at_one": 3.5}, 2.0)],
)
def test_guidance_is_a_number_the_samplers_or_a_function_of_the_share(teacher, lift, guidance, expected):
    """The fashion family refines at 2 and samples at 1.5; a quarter of the tokens is hidden."""
    seen = []
    guided = teacher.guided_logits
    teacher.guided_logits = lambda tokens, condition, g: seen.append(g) or guided(tokens, condition, g)
    result = evaluate(teacher, lift, teacher.network, guidance_scale=guidance, remask=RemaskConfig(clamp=(0.25, 0.25)))
    torch.testing.assert_close(torch.as_tensor(seen[0]).float().expand(4), torch.full((4,), expected))
    assert result.guidance.item() == pytest.approx(expected)


def test_the_samplers_guidance_is_its_ramp_where_the_share_is_open(teacher):
    teacher.sampler = teacher.sampler.model_copy(update={"guidance_scale": 4.0, "guidance_start": 1.0})
    guidance, _ = teacher.refinement(torch.tensor([0.0, 0.5, 1.0]), "sampler", None)
    torch.testing.assert_close(guidance, torch.tensor([4.0, 1 + 3 * 0.5**0.5, 1.0]))  # cos(πr/2) of the way


def test_embedding_noise_changes_the_student_alone(teacher, lift):
    quiet, noisy = (evaluate(teacher, lift, teacher.network, embedding_noise=s).entropy for s in (0.0, 0.9))
    assert quiet != noisy


def test_entropy_is_in_nats(teacher, lift):
    def uniform(tokens, labels, *rest):
        return torch.zeros(len(tokens), 64, 13, requires_grad=True)

    assert evaluate(teacher, lift, uniform).entropy.item() == pytest.approx(torch.tensor(12.0).log().item(), rel=1e-5)


def test_equal_seeds_give_equal_losses(teacher, lift):
    a, b, c = (evaluate(teacher, lift, teacher.network, seed=s).loss for s in (1, 1, 2))
    assert a == b
    assert a != c
