"""Streams of shards against plain webdataset and bare decoding: `python ci/measure_streams.py [FOLDER]`.

FOLDER holds 256-pixel shards that img2dataset wrote (caption and JPEG); without one, shards of the same layout are
written to a temporary folder. Rates are samples per CPU second of this process, all within one run; bytes are the
kernel's count (`rchar` of /proc/self/io). Ends with status 1 if a goal is missed.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import webdataset as wds
from shard_writing import img2dataset_folder

from fpd_train.data.caption_shards import CaptionShards
from fpd_train.data.image_shards import CaptionedImageShards
from fpd_train.data.shards import Shards

BATCH, SIDE, SEED = 48, 256, 0


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def rate(work: Callable[[], int]) -> float:
    began = time.process_time()
    return work() / (time.process_time() - began)


def stream(source: Shards, rank: int = 0, world: int = 1, batch: int = BATCH, position: int = 0):
    return source.stream(batch, seed=SEED, rank=rank, world=world, position=position)


def webdataset_samples(folder: Path) -> Iterator[dict[str, bytes]]:
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    return iter(wds.WebDataset(shards, shardshuffle=False, empty_check=False))


def captions_of_webdataset(folder: Path) -> int:
    return sum(sample["txt"].decode() is not None for sample in webdataset_samples(folder))


def settle() -> None:
    """Wait until what is read ahead has been read: this process no longer computes."""
    used = -1.0
    while time.process_time() - used > 1e-3:
        used = time.process_time()
        time.sleep(0.05)


def drawn(batches: Iterator[object], count: int) -> int:
    """So many batches, and the work that puts others in their place."""
    for _ in range(count):
        next(batches)
    settle()
    return count * BATCH


def bare(source: CaptionedImageShards, contents: list[tuple[bytes, bytes]]) -> int:
    """The same decoding of what lies in memory, in one thread."""
    for first in range(0, len(contents), BATCH):
        source.collate([source.decode(members) for members in contents[first : first + BATCH]])
    return len(contents)


def shares(source: Shards, total: int) -> dict[int, list[float]]:
    """Bytes of each rank for each of its samples: 40 batches, of which two are read ahead, make nearly an epoch."""
    source = source.model_copy(update={"prefetch": 1})
    found: dict[int, list[float]] = {}
    drawn(stream(source), 2)  # what is imported on first use is no data
    for world in (1, 2, 4):
        batch = max(1, total // world // 40)
        for rank in range(world):
            before = bytes_read()
            ahead = stream(source, rank, world, batch)
            for _ in range(38):
                next(ahead)
            settle()
            found.setdefault(world, []).append((bytes_read() - before) / (40 * batch))
            del ahead
    return found


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Median of the rounds: what else the machine does hits both sides of one."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def same_order(source: CaptionShards) -> bool:
    """2 -> 4 -> 3 ranks against one, 48 samples a step."""

    def steps(world: int, position: int, count: int) -> list[tuple[str, ...]]:
        ranks = [stream(source, rank, world, BATCH // world, position) for rank in range(world)]
        parts = [[next(rank).condition.prompts for rank in ranks] for _ in range(count)]
        return [tuple(one for row in zip(*part, strict=True) for one in row) for part in parts]

    changed = steps(2, 0, 11) + steps(4, 11 * BATCH, 9) + steps(3, 20 * BATCH, 10)
    return changed == steps(1, 0, 30)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--samples", type=int, default=1_000_000, help="Captions read while memory is watched.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FPD_CACHE"] = f"{scratch}/cache"
        folder = given.folder or Path(scratch, "shards")
        if given.folder is None:
            img2dataset_folder(folder, shards=4, per_shard=250, size=SIDE)
        return measure(folder, given.rounds, given.samples)


def measure(folder: Path, rounds: int, samples: int) -> int:
    captions = CaptionShards(folder=str(folder))
    images = CaptionedImageShards(folder=str(folder), image_size=SIDE)
    print(", ".join(stream(captions).tally.report()) or f"{folder}: no bad samples")
    total = stream(captions).order_total
    contents = [
        (sample["jpg"], sample["txt"]) for sample in webdataset_samples(folder) if sample.get("txt", b"").strip()
    ]
    ahead = {source: stream(source) for source in (captions, images)}
    for batches in ahead.values():
        drawn(batches, 2)
    part = contents[: 8 * BATCH]
    works: dict[str, Callable[[], int]] = {
        "captions, webdataset": lambda: captions_of_webdataset(folder),
        "captions, fpd": lambda: drawn(ahead[captions], 20 * total // BATCH),
        "images, bare decoding": lambda: bare(images, part),
        "images, fpd": lambda: drawn(ahead[images], 8),
    }
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            rates[name].append(rate(work))
    for name, values in rates.items():
        print(f"{name:24} {statistics.median(values):10.0f} samples per CPU second")
    goals = {
        "captions / webdataset": (_ratio(rates["captions, fpd"], rates["captions, webdataset"]), 20.0, ">="),
        "images / bare decoding": (_ratio(rates["images, fpd"], rates["images, bare decoding"]), 0.9, ">="),
    }
    for name, source in (("captions", captions), ("images", images)):
        found = shares(source, total)
        (whole,) = found[1]
        print(f"{name}: {whole:.0f} bytes a sample at one rank")
        for world in (2, 4):
            goals[f"{name}, share of a rank of {world}, x world"] = (max(found[world]) / whole, 1.05, "<=")
    goals["2 -> 4 -> 3 ranks bit-equal"] = (float(same_order(captions)), 1.0, ">=")
    watched, marks = stream(captions, batch=100), []
    for number in range(samples // 100):
        next(watched)
        if number + 1 in (samples // 1000, samples // 100):
            marks.append(resident_mib())
    print(f"resident: {marks[0]:.1f} MiB after {samples // 10} samples, {marks[1]:.1f} after {samples}")
    goals["resident memory, last / first"] = (marks[1] / marks[0], 1.02, "<=")
    missed = 0
    for name, (value, goal, sign) in goals.items():
        met = value >= goal if sign == ">=" else value <= goal
        missed += not met
        print(f"{'met   ' if met else 'MISSED'} {name:42} {value:8.3f} (goal {sign} {goal:g})")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
