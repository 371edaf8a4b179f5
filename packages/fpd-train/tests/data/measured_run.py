"""A run that writes, for its rank, the bytes handed to each collective per step and the bytes of what stays in memory.

Started as `run.py` is. Collectives are counted where torch.distributed is called; memory is the sum over all tensors
that are alive between two steps, each storage once.
"""

import gc
import json
import os
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import distributed as dist

sent: Counter[str] = Counter()


def size(value):
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(map(size, value)) if isinstance(value, list | tuple) else 0


def counted(name, operation):
    original = getattr(dist, name)

    def call(*args, **kwargs):
        sent[operation] += max(map(size, [*args, *kwargs.values()]))  # what all ranks end up with, or give
        return original(*args, **kwargs)

    setattr(dist, name, call)


counted("all_reduce", "all-reduce")
counted("reduce", "reduce")
counted("broadcast", "broadcast")
counted("all_gather", "all-gather")
counted("all_gather_into_tensor", "all-gather")
counted("reduce_scatter_tensor", "reduce-scatter")

from fpd_train import cli, trainer  # noqa: E402
from fpd_train.stopping import StopRequest  # noqa: E402


class Log:
    """A run's log that notes what was sent since the step before."""

    def __init__(self, log):
        self.log, self.steps = log, []

    def __getattr__(self, name):
        return getattr(self.log, name)

    def step(self, done, *args, **kwargs):
        self.steps.append(dict(sent))
        sent.clear()
        self.log.step(done, *args, **kwargs)


def train(run, batches, log, stop, watchdog, original=trainer.train):
    log = Log(log)
    original(run, batches, log, stop, watchdog)
    gc.collect()
    # The meta tensors by which DeepSpeed remembers shapes take no memory.
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and not one.is_meta]
    sizes = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}
    report = {"sent": log.steps[-1], "memory": sum(sizes.values())}
    Path(f"measured_{os.environ['RANK']}.json").write_text(json.dumps(report))


trainer.train = train
sys.argv[0] = "run.py"
cli.run_rank(StopRequest())
