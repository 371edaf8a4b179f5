"""Streams: an order that is a pure function of the seed, at any world size, and a sentence for every kind of damage."""

import functools
import gzip
import hashlib
import http.server
import io
import itertools
import json
import struct
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import FashionMNIST

from fpd_train.data.caption_shards import CaptionShards
from fpd_train.data.image_shards import ImageShards
from fpd_train.data.uniform_labels import UniformLabels
from fpd_train.data.write_shards import caption_samples, fashion_samples, locate_fashion, write_shards
from fpd_train.errors import DataError


def sample(index, *, size=8, label=None, image=None, key=None):
    if image is None:
        buffer = io.BytesIO()
        Image.fromarray(np.full((size, size), index, np.uint8)).save(buffer, format="png")
        image = buffer.getvalue()
    return {"__key__": key or f"{index:06d}", "png": image, "cls": str(index % 3 if label is None else label).encode()}


@pytest.fixture
def folder(tmp_path):
    """23 samples in 5 shards, one of them short; the pixels of an image tell its index."""
    write_shards((sample(i) for i in range(23)), tmp_path / "shards", 5)
    return tmp_path / "shards"


def stream(folder, *, batch=4, seed=0, rank=0, world=1, start=0, **options):
    config = ImageShards(folder=folder, num_classes=3, image_size=8, shuffle_shards=2, **options)
    return config.open(batch_size=batch, seed=seed, rank=rank, world=world, start=start)


def indices(batches, count):
    return [[round(float(image[0, 0, 0]) * 255) for image in next(batches).images] for _ in range(count)]


def test_every_sample_is_seen_once_per_epoch_in_a_new_order(folder):
    flat = [index for batch in indices(stream(folder, batch=23), 3) for index in batch]
    epochs = [flat[:23], flat[23:46], flat[46:]]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != list(range(23))


@pytest.mark.parametrize("start", [1, 3, 7, 30])
def test_a_resumed_stream_continues_with_the_very_next_batch(folder, start):
    assert indices(stream(folder, start=start), 4) == indices(stream(folder), start + 4)[start:]


def test_two_ranks_share_the_order_of_one(folder):
    whole = indices(stream(folder, batch=6), 5)
    halves = [indices(stream(folder, batch=3, rank=r, world=2), 5) for r in (0, 1)]
    assert whole == [[v for pair in zip(a, b, strict=True) for v in pair] for a, b in zip(*halves, strict=True)]


def test_the_seed_decides_the_order(folder):
    assert indices(stream(folder, seed=1), 3) == indices(stream(folder, seed=1), 3) != indices(stream(folder), 3)


def test_images_and_labels_belong_together(folder):
    batch = next(stream(folder))
    pixels = (batch.images[:, 0, 0, 0] * 255).round().long()
    assert torch.equal(batch.condition.labels, pixels % 3)
    assert batch.images.shape == (4, 3, 8, 8)


def rewrite(folder, name, samples):
    with tarfile.open(folder / name, "w") as tar:
        for entry in samples:
            for extension in entry.keys() - {"__key__"}:
                info = tarfile.TarInfo(f"{entry['__key__']}.{extension}")
                info.size = len(entry[extension])
                tar.addfile(info, io.BytesIO(entry[extension]))


def cut(folder):
    path = folder / "shard-00002.tar"
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "shard-00001.tar").unlink(), "shard-00001.tar is listed .* missing"),
        (lambda f: [path.unlink() for path in f.iterdir()], "write shards with `fpd-train shards"),
        (lambda f: (f / "sizes.json").write_text("{"), "not valid JSON"),
        (cut, "shard-00002.tar"),
        (lambda f: (f / "shard-00002.tar").write_bytes(b"no tar" * 300), "shard-00002.tar"),
        (lambda f: rewrite(f, "shard-00004.tar", [sample(1)]), "holds 1 samples, sizes.json says 3"),
        (lambda f: rewrite(f, "shard-00004.tar", [sample(i, label=3) for i in range(3)]), "label 3, .* 0 to 2"),
        (lambda f: rewrite(f, "shard-00004.tar", [sample(i, label="x") for i in range(3)]), "no integer label"),
        (lambda f: rewrite(f, "shard-00004.tar", [sample(i, image=b"x") for i in range(3)]), "cannot be decoded"),
        (lambda f: rewrite(f, "shard-00004.tar", [sample(i, size=9) for i in range(3)]), "9x9, the config says 8"),
        (lambda f: rewrite(f, "shard-00004.tar", [sample(i, key=f"{i}.v1") for i in range(3)]), "dot in the key"),
    ],
)
def test_damage_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        indices(stream(folder, max_bad_share=0), 6)


def test_too_few_samples_for_a_global_batch(folder):
    with pytest.raises(DataError, match="holds 23 samples, one global batch needs 24"):
        stream(folder, batch=12, world=2)


def test_writing_never_overwrites(folder):
    with pytest.raises(DataError, match="not empty"):
        write_shards(iter([sample(0)]), folder, 5)


def test_an_interrupted_writer_leaves_no_folder_behind(tmp_path):
    def failing():
        yield sample(0)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_shards(failing(), tmp_path / "out", 5)
    assert not (tmp_path / "out").exists()


def idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_images_are_padded_to_32_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    idx(tmp_path / "t10k-images-idx3-ubyte.gz", pixels)
    idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.array([3, 1, 4, 1], np.uint8))
    sizes = write_shards(fashion_samples(locate_fashion("folder", tmp_path, "test"), "test"), tmp_path / "out", 3)
    assert (
        sizes
        == json.loads((tmp_path / "out" / "sizes.json").read_text())
        == {"shard-00000.tar": 3, "shard-00001.tar": 1}
    )
    batch = next(
        ImageShards(folder=tmp_path / "out", num_classes=10, image_size=32).open(
            batch_size=4, seed=0, rank=0, world=1, start=0
        )
    )
    shown = {int(label): image for label, image in zip(batch.condition.labels, batch.images, strict=True)}
    assert sorted(batch.condition.labels.tolist()) == [1, 1, 3, 4]
    torch.testing.assert_close(shown[4][1, 2:30, 2:30] * 255, torch.tensor(pixels[2]).float())
    assert shown[4][:, :2].abs().sum() == 0


def test_an_absent_source_says_where_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"t10k-images.*apt-get install dataset-fashion-mnist.*torchvision"):
        locate_fashion("folder", tmp_path, "test")


def test_uniform_labels_are_uniform_reproducible_and_shared_by_ranks():
    config = UniformLabels(num_classes=5)

    def labels(**place):
        return next(
            config.open(**({"batch_size": 4000, "seed": 3, "rank": 0, "world": 1, "start": 2} | place))
        ).condition.labels

    shares = labels().bincount(minlength=5) / 4000
    torch.testing.assert_close(shares, torch.full((5,), 0.2), rtol=0, atol=0.03)
    assert torch.equal(labels(), labels())
    assert not torch.equal(labels(), labels(start=3))
    halves = [labels(batch_size=2000, rank=r, world=2) for r in (0, 1)]
    assert torch.equal(labels(), torch.stack(halves, 1).flatten())


@pytest.mark.parametrize(("batch_size", "world"), [(2, 1), (1, 2), (3, 1), (8, 2)])
def test_balanced_labels_deal_every_class_once_before_any_comes_again(batch_size, world):
    config = UniformLabels(num_classes=5, balanced=True)

    def drawn(start, seed=3):
        ranks = [config.open(batch_size=batch_size, seed=seed, rank=r, world=world, start=start) for r in range(world)]
        while True:
            yield from torch.stack([next(rank).condition.labels for rank in ranks], 1).flatten().tolist()

    row = list(itertools.islice(drawn(0), 100 * batch_size * world))
    decks = [row[i : i + 5] for i in range(0, len(row) - 4, 5)]
    assert all(sorted(deck) == list(range(5)) for deck in decks)
    assert len({tuple(deck) for deck in decks}) > 10
    assert list(itertools.islice(drawn(7), 20)) == row[7 * batch_size * world :][:20]
    assert list(itertools.islice(drawn(0, seed=4), 20)) != row[:20]


def test_captions_travel_from_a_text_file_to_every_rank_once(tmp_path):
    lines = [f"caption {i} – naïve" for i in range(10)]
    (tmp_path / "captions.txt").write_text("\n".join([*lines[:4], "", *lines[4:], "  "]), encoding="utf-8")
    write_shards(caption_samples(tmp_path / "captions.txt"), tmp_path / "shards", 3)
    source = CaptionShards(folder=tmp_path / "shards")
    ranks = [source.open(batch_size=5, seed=0, rank=r, world=2, start=0) for r in (0, 1)]
    seen = [prompt for rank in ranks for prompt in next(rank).condition.prompts]
    assert sorted(seen) == lines
    assert seen != lines


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"", "no line holds"), (b"\xff\xfe", "codec can't decode")]
)
def test_unusable_caption_files_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "c.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        next(caption_samples(tmp_path / "c.txt"))


def test_a_sample_without_a_caption_is_named(tmp_path):
    write_shards(({"__key__": f"{i}", "txt": b" "} for i in range(4)), tmp_path / "s", 4)
    stream = CaptionShards(folder=tmp_path / "s").open(batch_size=2, seed=0, rank=0, world=1, start=0)
    with pytest.raises(DataError, match="empty caption"):
        next(stream)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A web server with four small IDX files, in the place of torchvision's mirrors and checksums."""
    served = tmp_path / "served"
    served.mkdir()
    for split, count in (("train", 3), ("t10k", 2)):
        idx(served / f"{split}-images-idx3-ubyte.gz", np.zeros((count, 28, 28), np.uint8))
        idx(served / f"{split}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8))
    sums = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in sorted(served.iterdir())]

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(FashionMNIST, "resources", sums)
    yield served
    server.shutdown()


def test_the_download_is_read_like_any_other_source(mirror, tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        samples = list(fashion_samples(locate_fashion("torchvision", tmp_path / "data", split), split))
        assert [int(sample["cls"]) for sample in samples] == list(range(count))


def test_a_download_with_a_wrong_checksum_is_refused(mirror, tmp_path):
    (mirror / "train-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match="could not be downloaded"):
        locate_fashion("torchvision", tmp_path / "data", "train")
