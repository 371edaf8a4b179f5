"""Sweep what the paper leaves open: short runs from one config, one table.

    python ci/sweep.py --only base --only "guidance 2" --out runs/sweep

Every variant is the same command with a few `--set`s, so each can be repeated alone. Finished variants are skipped.
"""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

OBJECTIVE = "method.objective"
VARIANTS: dict[str, list[str]] = {
    "base": [],
    "seed 1": ["seed=1"],
    "plain": [f"{OBJECTIVE}.weighting=plain"],
    "plain, guidance 2": [f"{OBJECTIVE}.weighting=plain", f"{OBJECTIVE}.guidance_scale=2"],
    "1 draft": ["method.drafts_per_condition=1"],
    "4 drafts": ["method.drafts_per_condition=4"],
    "8 drafts": ["method.drafts_per_condition=8"],
    "32 drafts": ["method.drafts_per_condition=32"],
    "r_init 0.5": [f"{OBJECTIVE}.init_mask_ratio=0.5"],
    "r_init 0.7": [f"{OBJECTIVE}.init_mask_ratio=0.7"],
    "r_init 0.97": [f"{OBJECTIVE}.init_mask_ratio=0.97"],
    "guidance 1": [f"{OBJECTIVE}.guidance_scale=1"],
    "guidance 2": [f"{OBJECTIVE}.guidance_scale=2"],
    "guidance 2.5": [f"{OBJECTIVE}.guidance_scale=2.5"],
    "guidance 4": [f"{OBJECTIVE}.guidance_scale=4"],
    "lr 2e-4": ["optimizer.lr=2e-4"],
    "lr 1e-3": ["optimizer.lr=1e-3"],
    "π in [0.4, 0.95]": [f"{OBJECTIVE}.remask.clamp=[0.4,0.95]"],
    "π in [0.05, 0.7]": [f"{OBJECTIVE}.remask.clamp=[0.05,0.7]"],
    "nothing frozen": ["method.frozen=[]"],
    "soft estimator": [f"{OBJECTIVE}.estimator=soft"],
    "random drafts": [f"{OBJECTIVE}.draft_source=random"],
    "pixel space": ["method.lift.space=pixel"],
    "global pooling": ["method.lift.grid=global"],
    "single h 0.05": [f"{OBJECTIVE}.bandwidths=[0.05]"],
}
COLUMNS = {
    "fd_classifier": ".2f",
    "fd_efficientnet": ".2f",
    "precision": ".3f",
    "recall": ".3f",
    "class_accuracy": ".3f",
}


def folder_of(name: str, out: Path) -> Path:
    return out / "".join(c if c.isalnum() or c in ".-" else "_" for c in name)


def train(name: str, config: Path, steps: int, out: Path) -> None:
    """One variant on one core; a finished one says so and returns."""
    sets = [*VARIANTS[name], f"steps={steps}", f"output={folder_of(name, out)}", f"sample_every={steps}"]
    arguments = [part for value in sets for part in ("--set", value)]
    subprocess.run(
        ["fpd-train", "run", "--config", str(config), *arguments],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def measure(names: list[str], out: Path, num_images: int) -> list[dict]:
    """Rows of all variants under one protocol; the teacher at 16 steps and the untrained student come first."""
    students = [part for name in names for part in ("--ckpt", f"{name}={folder_of(name, out) / 'student'}")]
    command = ["fpd-eval", "compare", *students, "--steps", "16", "--num-images", str(num_images), "--json"]
    result = subprocess.run([*command, "--out", str(out / "report")], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout)["rows"]


def main(
    config: Annotated[Path, typer.Option(help="The run all variants start from.")] = Path("configs/fashion.json"),
    steps: Annotated[int, typer.Option(help="Optimizer steps per variant.")] = 400,
    out: Annotated[Path, typer.Option(help="Folder of the runs and of sweep.md.")] = Path("runs/sweep"),
    num_images: Annotated[int, typer.Option(help="Images per variant.")] = 2000,
    parallel: Annotated[int, typer.Option(help="Runs at a time, one core each.")] = 2,
    only: Annotated[list[str], typer.Option(help="Variants to run; all by default.")] = [],  # noqa: B006
) -> None:
    names = only or list(VARIANTS)
    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(lambda name: train(name, config, steps, out), names))
    rows = measure(names, out, num_images)
    head = ["system", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for row in rows:
        numbers = [format(row["values"][key], form) for key, form in COLUMNS.items()]
        lines.append(f"| {row['name']} ({row['steps']}) | {' | '.join(numbers)} |")
    text = f"{steps} steps, {num_images} images, `{config}`\n\n" + "\n".join(lines) + "\n"
    (out / "sweep.md").write_text(text)
    print(text)


if __name__ == "__main__":
    typer.run(main)
