"""Fixed-Point Distillation in a plain PyTorch loop, with fpd_core alone.

    python examples/plain_loop.py runs/plain 400

The first 20 losses are those of `fpd-train run --config configs/fashion.json`, to six digits: the same settings, and
random numbers from the same streams (`fpd_core.seeds`).
"""

import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch

from fpd_core.generator import GenerationConfig, save_generator
from fpd_core.lift import Lift, LiftConfig
from fpd_core.objective import ObjectiveConfig, fixed_point_loss
from fpd_core.seeds import seeded
from fpd_core.teachers import load_teacher

OBJECTIVE = ObjectiveConfig(weighting="cross", guidance_scale=3.0)
IMAGES, DRAFTS, WARMUP, SEED = 32, 16, 20, 0


def train(steps: int, folder: Path | None = None) -> Iterator[float]:
    """The losses; at the end the student goes to `folder`."""
    teacher = load_teacher("fashion").to("cuda" if torch.cuda.is_available() else "cpu")
    lift = Lift(teacher, LiftConfig()).to(teacher.device)
    student = deepcopy(teacher.network).requires_grad_(True)  # in eval mode: without dropout
    for part in student.parameter_groups().values():
        torch.nn.ParameterList(part).requires_grad_(False)  # embeddings, positions, output bias stay
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    for step in range(steps):
        labels = torch.randint(teacher.classes, (IMAGES // DRAFTS,), generator=seeded("labels", SEED, step))
        condition = teacher.condition(labels).repeat_interleave(DRAFTS)
        generator = seeded("student", SEED, 0, step, 0, device=teacher.device)
        loss = fixed_point_loss(student, teacher, lift, condition, OBJECTIVE, generator=generator).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rate.step()
        yield loss.item()
    if folder is not None:
        how = GenerationConfig(init_mask_ratio=OBJECTIVE.init_mask_ratio)
        save_generator(folder, teacher, student, how, {"name": "fashion"}, "# A student of examples/plain_loop.py\n")


if __name__ == "__main__":
    for number, value in enumerate(train(int(sys.argv[2]), Path(sys.argv[1])), start=1):
        print(f"step {number}  loss {value:.6f}", flush=True)
