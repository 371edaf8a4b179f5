"""DeepSpeed's universal checkpoints: the shards of any number of ranks as one file per weight, which any other number,
and ZeRO stage 1 in place of 2, can resume from. Only these names are DeepSpeed's; nothing of it is imported.

FOLDER/*model_states.pt             as they were, of the first rank
FOLDER/zero/optimizer_state.pt      what is not of a single weight
FOLDER/zero/WEIGHT/{fp32,...}.pt    the master and the optimizer's averages, whole
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

States = Mapping[str, Any]
Shard = tuple[str, Mapping[str, Tensor]]  # a weight's name; by the name of its file, this rank's part, flat

OPTIMIZER, BASE, MAPPINGS = "optimizer_state_dict", "base_optimizer_state", "param_slice_mappings"
MASTERS, MASTERS_3 = "single_partition_of_fp32_groups", "fp32_flat_groups"
SHARDED = (BASE, MAPPINGS, MASTERS)
FAMILIES = {0: "0", 1: "1 and 2", 2: "1 and 2", 3: "3"}


def check_stages(earlier: int, now: int) -> None:
    """Raises ValueError: a checkpoint of one ZeRO stage cannot be resumed at the other."""
    if FAMILIES[earlier] != FAMILIES[now]:
        raise ValueError(
            f"the checkpoint is of ZeRO stage {earlier} and engine.zero_stage is {now}: DeepSpeed goes on from stage "
            f"1 to 2 and back, between others it cannot; give zero_stage {earlier}"
        )


def convert(source: Path, target: Path, stage: int, read: Callable[[Path], Any]) -> None:
    """Write the universal form of what all ranks saved of a network. On one rank alone.

    Args:
        source: the network's folder in a checkpoint, of ZeRO stage `stage`, which is not 0.
        target: is made.
        read: opens a file that DeepSpeed wrote.

    Raises:
        ValueError: a file is missing or damaged, or the optimizer keeps something that this form does not know.
        OSError: `target` cannot be written.
    """
    models, optimizers = _of_ranks(source, "model_states"), _of_ranks(source, "optim_states")
    if not models or not optimizers:
        raise ValueError(f"{source} holds no states of an engine")
    states = [read(path)[OPTIMIZER] for path in optimizers]
    zero = target / "zero"
    zero.mkdir(parents=True)
    if stage == 3:
        shapes = read(models[0])["param_shapes"]
        ranks = [_shards_3(state, shapes, rank, len(states)) for rank, state in enumerate(states)]
        base = states[0][OPTIMIZER]
        kept = {OPTIMIZER: {"state": {0: {"step": base["state"][0]["step"]}}, "param_groups": base["param_groups"]}}
        left_out: Sequence[str] = (OPTIMIZER, MASTERS_3)
    else:
        ranks = [_shards(state) for state in states]
        base, kept, left_out = states[0][BASE], {}, SHARDED
        kept = {"param_groups": base["param_groups"]}
    torch.save(
        {key: value for key, value in states[0].items() if key not in left_out} | kept, zero / "optimizer_state.pt"
    )
    _write_whole(zero, ranks)
    shutil.copyfile(models[0], target / models[0].name)


def _of_ranks(folder: Path, kind: str) -> list[Path]:
    """The ranks' files of a kind, in the order of ranks."""
    found = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_\d+")

    def rank(path: Path) -> int:
        match = found.search(path.name)
        return int(match[1] or 0) if match else 0

    return sorted(folder.glob(f"*_{kind}.pt"), key=rank)


def _shards(state: States) -> Iterator[Shard]:
    """Of stages 1 and 2, where the weights of a rank lie one behind the other and the first and last may be cut."""
    averages = state[BASE]["state"]
    for group, (masters, mapping) in enumerate(zip(state[MASTERS], state[MAPPINGS], strict=True)):
        flat = {"fp32": masters, **averages[group]}
        for name, place in mapping.items():
            yield name, _cut(flat, place.start, place.numel)


def _shards_3(state: States, shapes: Sequence[Mapping[str, Any]], rank: int, world: int) -> Iterator[Shard]:
    """Of stage 3, where every rank has an equal part of each weight and the last is padded."""
    for group, (masters, weights) in enumerate(zip(state[MASTERS_3], shapes, strict=True)):
        flat, start = {"fp32": masters, **state[OPTIMIZER]["state"][group]}, 0
        if "exp_avg" not in flat:
            raise ValueError(
                "DeepSpeed cannot change the number of ranks at zero_stage 3 with optimizer.first_moment false; "
                "start as many ranks as before"
            )
        for name, shape in weights.items():
            size = -(-shape.numel() // world)
            yield name, _cut(flat, start, max(0, min(size, shape.numel() - rank * size)))
            start += size


def _cut(flat: Mapping[str, Any], start: int, size: int) -> dict[str, Tensor]:
    """A weight's part of each flat tensor; the optimizer's count of steps is no tensor of weights and stays."""
    return {key: value if key == "step" else value.narrow(0, start, size) for key, value in flat.items()}


def _write_whole(folder: Path, ranks: Sequence[Iterator[Shard]]) -> None:
    parts: dict[str, list[Mapping[str, Tensor]]] = {}
    for shards in ranks:
        for name, shard in shards:
            parts.setdefault(name, []).append(shard)
    for name, found in parts.items():
        (folder / name).mkdir()
        for key in found[0]:
            values = [part[key] for part in found]
            torch.save(
                values[0] if key == "step" else {"param": torch.cat(values), "cat_dim": 0}, folder / name / f"{key}.pt"
            )
