"""Two passes over chunks against one pass over all samples."""

from copy import deepcopy

import pytest
import torch

from fpd_core.distances import Scene
from fpd_core.kernel_batch import first_pass, second_pass
from fpd_core.lift import Lift, LiftConfig
from fpd_core.objective import ObjectiveConfig, comparison, draft_embeddings, draw_draft, draw_reference
from fpd_core.reference import TeacherSamples

LABELS = ([0, 1, 2, 0], [1, 1, 2, 0], [2, 2, 0, 1])


def generators():
    return [torch.Generator().manual_seed(seed) for seed in (4, 5, 6)]


def gradients(student):
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


def one_pass(student, teacher, lift, config):
    """All chunks with their graphs at once, each with its own randomness, through one ordinary drift problem."""
    features, targets, by = [], [], compared(teacher, lift, config)
    for labels, generator in zip(LABELS, generators(), strict=True):
        condition = teacher.condition(labels)
        logits, draft = draw_draft(student, teacher, condition, config, generator)
        targets.append(draw_reference(teacher, lift, condition, draft, config, by, generator=generator)[0][0])
        features.append(lift(draft_embeddings(logits, draft, teacher, config), condition)[0])
    conditions = [teacher.condition(labels) for labels in LABELS]
    loss = by.distance([torch.cat(features)], [torch.cat(targets)], conditions)[0].loss
    loss.backward()
    return loss.detach()


def two_passes(student, teacher, lift, config):
    conditions, drawn = [teacher.condition(labels) for labels in LABELS], generators()
    by = compared(teacher, lift, config)
    chunks = first_pass(student, teacher, lift, conditions, config, generators=drawn, by=by)
    losses = []
    for chunk, generator in zip(chunks, drawn, strict=True):
        found = second_pass(student, teacher, lift, chunk, config, generator=generator)
        (found.loss / len(chunks)).backward()
        losses.append(found.loss.detach())
    return torch.stack(losses).mean()


def compared(teacher, lift, config):
    """A comparison with nothing to remember yet, and as samples what the teacher may have drawn."""
    tokens = torch.randint(12, (30, 64), generator=torch.Generator().manual_seed(8))
    labels = torch.arange(30) % 3
    features = [block.detach() for block in lift(teacher.codebook[tokens], teacher.condition(labels))]
    scene = Scene([tuple(block.shape[1:]) for block in features], 3, features)
    return comparison(config, scene, TeacherSamples(features, labels))


DISTANCES = [
    {"distance": {"name": "mmd", "across": 0.1}, "own_target": "mask"},
    {"distance": {"name": "nystrom", "landmarks": 20, "decay": 0.5, "kernel": "laplace"}},
    {"distance": {"name": "frechet", "decay": 0, "queue": 16}, "reference": "samples"},
]


@pytest.mark.parametrize(
    "options", [{}, {"weighting": "cross", "embedding_noise": 0.3}, {"estimator": "soft"}, *DISTANCES], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_passes_equal_one(teacher, dtype, options):
    teacher = teacher.to(dtype)
    lift, config = Lift(teacher, LiftConfig(space="pixel")), ObjectiveConfig.model_validate(options)
    found = []
    for run in (one_pass, two_passes):
        student = deepcopy(teacher.network).eval().requires_grad_(True)
        found.append((run(student, teacher, lift, config), gradients(student)))
    (loss, expected), (other, gradient) = found
    torch.testing.assert_close(other, loss, rtol=1e-6, atol=0)
    # Without a graph the float32 network rounds otherwise, and expected embeddings, unlike codes, carry that on.
    tolerance = 1e-5 if dtype == torch.float32 and config.estimator == "soft" else 1e-6
    assert (gradient - expected).norm() < tolerance * expected.norm()


def test_chunks_alone_are_another_problem(teacher):
    """What accumulation without the first pass would do: the test above would see it."""
    lift, config = Lift(teacher, LiftConfig(space="pixel")), ObjectiveConfig()
    student = deepcopy(teacher.network).eval().requires_grad_(True)
    one_pass(student, teacher, lift, config)
    expected, alone = gradients(student), deepcopy(teacher.network).eval().requires_grad_(True)
    for labels, generator in zip(LABELS, generators(), strict=True):
        chunk = first_pass(alone, teacher, lift, [teacher.condition(labels)], config, generators=[generator])[0]
        (second_pass(alone, teacher, lift, chunk, config, generator=generator).loss / 3).backward()
    assert (gradients(alone) - expected).norm() > 1e-2 * expected.norm()
