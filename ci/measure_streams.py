"""What the streams of shards cost, against plain webdataset and bare decoding: `python ci/measure_streams.py [FOLDER]`.

FOLDER holds 256-pixel shards that img2dataset wrote (caption and JPEG); without one, shards of the same layout are
written to a temporary folder. Rates are samples per CPU second of this process, all rounds within one run; bytes are the
kernel's count (`rchar` of /proc/self/io). Ends with status 1 if a goal is missed.
"""

import argparse
import itertools
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


def read_batches(source: Shards, samples: int) -> int:
    count = samples // BATCH
    for _ in itertools.islice(stream(source), count):
        pass
    return count * BATCH


def bare(source: CaptionedImageShards, contents: list[tuple[bytes, bytes]]) -> int:
    """The same decoding of what lies in memory, in one thread."""
    for batch in itertools.batched(contents, BATCH) if hasattr(itertools, "batched") else _batched(contents):
        source.collate([source.decode(members) for members in batch])
    return len(contents)


def _batched(items: list[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    return (items[first : first + BATCH] for first in range(0, len(items), BATCH))


def shares(source: Shards, total: int) -> dict[int, list[int]]:
    """Bytes of each rank for one epoch, nearly: whole batches, and one more that is read ahead."""
    source = source.model_copy(update={"prefetch": 1})
    found: dict[int, list[int]] = {}
    for world in (1, 2, 4):
        batch = max(1, total // world // 40)
        for rank in range(world):
            before = bytes_read()
            ahead = stream(source, rank, world, batch)
            for _ in range(38):
                next(ahead)
            time.sleep(0.3)  # what is read ahead has been read
            found.setdefault(world, []).append(bytes_read() - before)
            del ahead
    return found


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
    parser.add_argument("--rounds", type=int, default=3)
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
    print(f"{folder}: {', '.join(stream(captions).tally.report()) or 'no bad samples'}")
    total = stream(captions).order_total
    contents = [
        (sample["jpg"], sample["txt"]) for sample in webdataset_samples(folder) if sample.get("txt", b"").strip()
    ]
    read_batches(images, 2 * BATCH)
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, work in {
            "captions, webdataset": lambda: captions_of_webdataset(folder),
            "captions, fpd": lambda: read_batches(captions, 40 * total),
            "images, bare decoding": lambda: bare(images, contents),
            "images, fpd": lambda: read_batches(images, total),
        }.items():
            rates.setdefault(name, []).append(rate(work))
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in median.items():
        print(f"{name:24} {value:10.0f} samples per CPU second")
    goals = {
        "captions / webdataset": (median["captions, fpd"] / median["captions, webdataset"], 20.0, ">="),
        "images / bare decoding": (median["images, fpd"] / median["images, bare decoding"], 0.9, ">="),
    }
    for name, source in (("captions", captions), ("images", images)):
        found = shares(source, total)
        (whole,) = found[1]
        print(f"{name}: {whole / (total * 38 / 40):.0f} bytes a sample at one rank")
        for world in (2, 4):
            mean = statistics.mean(found[world])
            goals[f"{name}, bytes of a rank of {world}, x world"] = (mean * world / whole, 1.05, "<=")
    goals["2 -> 4 -> 3 ranks bit-equal"] = (float(same_order(captions)), 1.0, ">=")
    ahead, marks = stream(captions, batch=100), []
    for number in range(samples // 100):
        next(ahead)
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
