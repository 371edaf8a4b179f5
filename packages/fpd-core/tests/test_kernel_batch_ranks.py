"""Two passes on two real ranks: how a drift problem is spread over ranks and chunks changes nothing."""

import os
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from warm_python import outcome

from fpd_core.kernel_batch import first_pass, second_pass
from fpd_core.lift import Lift, LiftConfig
from fpd_core.objective import ObjectiveConfig, comparison, draft_embeddings, draw_draft, draw_target

pytestmark = pytest.mark.distributed
LABELS = ([0, 1, 2], [1, 1, 0], [2, 0, 1], [0, 2, 2])  # the chunks; rank 0 holds the first two, rank 1 the others
CONFIGS = [
    ObjectiveConfig(weighting="cross", bandwidths=(0.05, 0.2)),
    ObjectiveConfig.model_validate({"distance": {"name": "mmd", "across": 0.2}}),
    ObjectiveConfig.model_validate({"distance": {"name": "frechet", "decay": 0}}),
]


def parts(folder):
    """The teacher, its lift and a student, for this process."""
    teacher = torch.load(folder / "teacher.pt", weights_only=False)
    student = torch.load(folder / "student.pt", weights_only=False)
    return student, teacher, Lift(teacher, LiftConfig(space="pixel"))


def generators(chunks):
    return [torch.Generator().manual_seed(40 + chunk) for chunk in chunks]


def gradients(student):
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


def one_rank(rank, folder):
    """What this file does when it is started as a script: its two chunks, then the mean over ranks."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = [one_problem(rank, folder, config) for config in CONFIGS]
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def one_problem(rank, folder, config):
    student, teacher, lift = parts(folder)
    mine = range(2 * rank, 2 * rank + 2)
    conditions, drawn = [teacher.condition(LABELS[chunk]) for chunk in mine], generators(mine)
    chunks = first_pass(student, teacher, lift, conditions, config, generators=drawn, gather=True)
    losses = []
    for chunk, generator in zip(chunks, drawn, strict=True):
        found = second_pass(student, teacher, lift, chunk, config, generator=generator)
        (found.loss / len(chunks)).backward()
        losses.append(found.loss.detach())
    gradient = gradients(student)
    dist.all_reduce(gradient)
    return torch.stack(losses).mean(), gradient / 2


def one_batch(folder, config):
    """All chunks as one ordinary batch of one process, with every graph at once."""
    student, teacher, lift = parts(folder)
    features, targets = [], []
    for labels, generator in zip(LABELS, generators(range(4)), strict=True):
        condition = teacher.condition(labels)
        logits, draft = draw_draft(student, teacher, condition, config, generator)
        target = draw_target(teacher, condition, draft, config, generator=generator)
        targets.append(lift(teacher.codebook[target.tokens], condition)[0].detach())
        features.append(lift(draft_embeddings(logits, draft, teacher, config), condition)[0])
    conditions = [teacher.condition(labels) for labels in LABELS]
    distance = comparison(config).distance
    loss = distance([torch.cat(features)], [torch.cat(targets)], conditions)[0].loss
    loss.backward()
    return loss.detach(), gradients(student)


def test_two_ranks_of_two_chunks_are_one_batch(warm_python, teacher, tmp_path):
    teacher = teacher.double()
    torch.save(teacher, tmp_path / "teacher.pt")
    torch.save(deepcopy(teacher.network).eval().requires_grad_(True), tmp_path / "student.pt")
    code, output = outcome(warm_python.start([__file__, tmp_path], ranks=2))
    assert code == 0, output
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for config, *found in zip(CONFIGS, *ranks, strict=True):
        loss, expected = one_batch(tmp_path, config)
        for value, gradient in found:
            torch.testing.assert_close(value, loss, rtol=1e-6, atol=0)
            assert (gradient - expected).norm() < 1e-6 * expected.norm()


if __name__ == "__main__":
    one_rank(int(os.environ["RANK"]), Path(sys.argv[1]))
