"""Fixed-Point Distillation of a student that FSDP2 shards over ranks, with fpd_core alone.

    torchrun --nproc-per-node 2 examples/fsdp2_loop.py 100

The first 20 losses are those of `configs/fashion.json` on as many ranks under `deepspeed`, to six
digits: the same settings, and random numbers from the same streams (`fpd_core.seeds`).
"""

import sys
from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard

from fpd_core.lift import Lift, LiftConfig
from fpd_core.objective import ObjectiveConfig, fixed_point_loss
from fpd_core.seeds import seeded
from fpd_core.teachers import load_teacher

OBJECTIVE = ObjectiveConfig(weighting="cross", guidance_scale=3.0)
IMAGES, DRAFTS, WARMUP, SEED = 32, 16, 20, 0


def train(steps: int) -> Iterator[float]:
    """This rank's losses; the process group is there."""
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", rank) if dist.get_backend() == "nccl" else torch.device("cpu")
    mesh = dist.init_device_mesh(device.type, (world,))
    teacher = load_teacher("fashion").to(device)
    lift = Lift(teacher, LiftConfig()).to(device)
    student = deepcopy(teacher.network).requires_grad_(True)  # in eval mode: without dropout
    for part in student.parameter_groups().values():
        torch.nn.ParameterList(part).requires_grad_(False)  # embeddings, positions, output bias stay
    for block in student.transformer.layers:
        for layer in block:
            fully_shard(layer, mesh=mesh)
    fully_shard(student, mesh=mesh)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.0)
    for step in range(steps):
        labels = torch.randint(teacher.classes, (IMAGES // DRAFTS * world,), generator=seeded("labels", SEED, step))
        condition = teacher.condition(labels[rank::world]).repeat_interleave(DRAFTS)
        generator = seeded("student", SEED, rank, step, 0, device=device)
        loss = fixed_point_loss(
            student, teacher, lift, condition, OBJECTIVE, generator=generator, gather=world > 1
        ).loss
        optimizer.param_groups[0]["lr"] = 5e-4 * min(1.0, (step + 1) / WARMUP)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    for number, value in enumerate(train(int(sys.argv[1])), start=1):
        if dist.get_rank() == 0:
            print(f"step {number}  loss {value:.6f}", flush=True)
    dist.destroy_process_group()
