"""With `gather`, how a batch is spread over ranks changes nothing."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from warm_python import outcome

from fpd_core.drift import drift_loss

pytestmark = pytest.mark.distributed


def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, 5, generator=generator, dtype=torch.float64)
    return x, x + 0.3 * torch.randn(6, 3, 5, generator=generator, dtype=torch.float64)


def one_rank(rank, results):
    """What this file does when it is started as a script."""
    dist.init_process_group("gloo", init_method=f"file://{results}/meeting", rank=rank, world_size=2)
    x, y = (part[3 * rank : 3 * rank + 3] for part in batch())
    x = x.clone().requires_grad_()
    result = drift_loss(x, y, gather=True)
    result.loss.backward()
    torch.save((x.grad, result.loss.detach(), result.rms, result.scale), results / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_compute_the_problem_of_one(warm_python, tmp_path):
    code, output = outcome(warm_python.start([__file__, tmp_path], ranks=2))
    assert code == 0, output
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    x, y = batch()
    x.requires_grad_()
    whole = drift_loss(x, y)
    whole.loss.backward()
    # Each rank's loss is a mean over its own rows; averaging over ranks, as data parallelism does, halves them.
    torch.testing.assert_close(torch.cat([part[0] for part in parts]) / 2, x.grad)
    torch.testing.assert_close((parts[0][1] + parts[1][1]) / 2, whole.loss.detach())
    for _, _, rms, scale in parts:
        torch.testing.assert_close(rms, whole.rms)
        torch.testing.assert_close(scale, whole.scale)


if __name__ == "__main__":
    one_rank(int(os.environ["RANK"]), Path(sys.argv[1]))
