"""Shards laid out as img2dataset 1.47 leaves them: PAX headers, completion order, `_stats.json` and parquet beside."""

import io
import json
import tarfile

import numpy as np
from PIL import Image


def jpeg(seed, size=16):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(buffer, format="jpeg")
    return buffer.getvalue()


def record(number, **more):
    return {
        "aesthetic": (number * 37 % 50) / 10,
        "pwatermark": number % 7 / 7,
        "caption": f"caption {number} – naïve",
        "url": f"http://host/{number}.jpg",
        "status": "success",
        "width": 200 + number % 5 * 20,
        **more,
    }


def write_tar(path, members):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode, info.uname = len(content), 1700000000.25, 0o444, "bigdata"
            tar.addfile(info, io.BytesIO(content))


def members(key, caption, about, size=16):
    text, image = caption if isinstance(caption, bytes) else (caption or "").encode(), jpeg(int(key), size)
    return [(f"{key}.jpg", image), (f"{key}.json", json.dumps(about, indent=1).encode()), (f"{key}.txt", text)]


def img2dataset_folder(folder, shards=3, per_shard=20, *, change=None, parquet=True, size=16):
    """`change(number)` gives what differs in a record. Returns the captions in the order of the tars."""
    folder.mkdir(parents=True)
    everything = []
    for shard in range(shards):
        numbers = np.random.default_rng(shard).permutation(per_shard) + shard * per_shard  # as downloads finish
        rows, content = [], []
        for number in numbers.tolist():
            key = f"{shard:05d}{number % per_shard:03d}"
            about = record(number, **(change(number) if change else {})) | {"key": key}
            rows.append(about)
            content += members(key, about["caption"], about, size)
            everything.append(about["caption"])
        failed = record(10**6, status="failed_to_download", caption="never seen") | {"key": f"{shard:05d}999"}
        write_tar(folder / f"{shard:05d}.tar", content)
        stats = {"count": per_shard + 1, "successes": per_shard, "failed_to_download": 1, "failed_to_resize": 0}
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats))
        if parquet:
            import pyarrow
            from pyarrow.parquet import write_table

            write_table(pyarrow.Table.from_pylist([failed, *rows]), folder / f"{shard:05d}.parquet")
    return everything
