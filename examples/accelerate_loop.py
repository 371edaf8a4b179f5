"""Fixed-Point Distillation in a loop of Hugging Face Accelerate, with fpd_core alone: one process or several.

    accelerate launch examples/accelerate_loop.py 100

The first 20 losses are those of `fpd-train run --config configs/fashion.json` on as many ranks, to six digits: the same
settings, and random numbers from the same streams (`fpd_core.seeds`).
"""

import sys
from collections.abc import Iterator
from copy import deepcopy

import torch
from accelerate import Accelerator

from fpd_core.lift import Lift, LiftConfig
from fpd_core.objective import ObjectiveConfig, fixed_point_loss
from fpd_core.seeds import seeded
from fpd_core.teachers import load_teacher

OBJECTIVE = ObjectiveConfig(weighting="cross", guidance_scale=3.0)
IMAGES, DRAFTS, WARMUP, SEED = 32, 16, 20, 0


def train(steps: int, accelerator: Accelerator) -> Iterator[float]:
    """This rank's losses."""
    rank, world = accelerator.process_index, accelerator.num_processes
    teacher = load_teacher("fashion").to(accelerator.device)
    lift = Lift(teacher, LiftConfig()).to(accelerator.device)
    network = deepcopy(teacher.network).requires_grad_(True)  # in eval mode: without dropout
    for part in network.parameter_groups().values():
        torch.nn.ParameterList(part).requires_grad_(False)  # embeddings, positions, output bias stay
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    student, optimizer = accelerator.prepare(network, torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.0))
    for step in range(steps):
        labels = torch.randint(teacher.classes, (IMAGES // DRAFTS * world,), generator=seeded("labels", SEED, step))
        condition = teacher.condition(labels[rank::world]).repeat_interleave(DRAFTS)
        generator = seeded("student", SEED, rank, step, 0, device=teacher.device)
        loss = fixed_point_loss(
            student, teacher, lift, condition, OBJECTIVE, generator=generator, gather=world > 1
        ).loss
        optimizer.param_groups[0]["lr"] = 5e-4 * min(1.0, (step + 1) / WARMUP)
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    process = Accelerator()
    for number, value in enumerate(train(int(sys.argv[1]), process), start=1):
        process.print(f"step {number}  loss {value:.6f}", flush=True)
    process.end_training()
