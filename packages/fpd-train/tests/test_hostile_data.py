"""Data from strangers: no command, address or place comes from it; whatever it holds is a sample or one sentence."""

import functools
import gzip
import http.server
import io
import json
import os
import random
import struct
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_core.config import ConfigError
from fpd_core.idx import read_images, read_labels
from fpd_core.untrusted.archives import read_gzip
from fpd_train.config import load_config
from fpd_train.data.caption_shards import CaptionShards
from fpd_train.data.image_shards import ImageShards
from fpd_train.data.places import SIZES
from fpd_train.data.write_shards import caption_samples, write_shards
from fpd_train.errors import DataError

MARK = "fpd-was-here"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Attacks leave a mark in the working folder."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not list(tmp_path.rglob(MARK))


@pytest.fixture
def folder(here):
    write_shards(({"__key__": f"{n}", "txt": f"caption {n}".encode()} for n in range(6)), here / "shards", 3)
    return here / "shards"


def captions(folder, **options):
    stream = CaptionShards(folder=folder, **options).open(batch_size=2, seed=0, rank=0, world=1, start=0)
    return [prompt for _ in range(3) for prompt in next(stream).condition.prompts]


COMMANDS = [
    f"pipe:touch {MARK};",
    f"pipe: touch {MARK} #",
    f"PIPE:touch {MARK};",
    f"pipe:touch${{IFS}}{MARK}",
    f"file:///dev/null;touch {MARK}",
    "http://127.0.0.1:9/x",
    "https://127.0.0.1:9/x",
    "s3://bucket/x",
    "gs://bucket/x",
    "hf://datasets/x",
    "htgs://x",
    "ais://x",
    "sftp://127.0.0.1:9/x",
    "ftps://127.0.0.1:9/x",
    "scp://127.0.0.1:9/x",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_is_no_command_and_no_address(here, config, command):
    path = here / "run.json"
    path.write_text(json.dumps(config | {"data": {"name": "caption_shards", "folder": command}}))
    with pytest.raises(ConfigError, match=r"data\.caption_shards: folder .* begins with .*, which is not among allow"):
        load_config(path)
    with pytest.raises(DataError, match="does not exist"):
        captions(Path(command))  # a path is always a local folder


OUTSIDE = [
    *COMMANDS,
    "../other/shard-00000.tar",
    "a/../../other/shard-00000.tar",
    "..",
    ".",
    "",
    "/etc/passwd",
    "/dev/zero",
    ".hidden.tar",
    "a//b.tar",
    "a\\b.tar",
    "~/x.tar",
    f"$(touch {MARK}).tar",
    f"`touch {MARK}`.tar",
    f"x.tar;touch {MARK}",
    f"x.tar|touch {MARK}",
    f"x.tar\ntouch {MARK}",
    "x\0.tar",
    "-rf.tar",
    "é.tar",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_in_sizes_stay_inside(here, folder, name):
    write_shards(({"__key__": f"{n}", "txt": b"x"} for n in range(3)), here / "other", 3)
    (folder / SIZES).write_text(json.dumps({"shard-00000.tar": 3, name: 3}))
    with pytest.raises(
        DataError, match=r"shards/sizes\.json lists .*a shard's name is a path below the folder"
    ) as caught:
        captions(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["shard-00001.tar", "linked/shard-00000.tar"])
def test_links_stay_inside(here, folder, name):
    write_shards(({"__key__": f"{n}", "txt": b"x"} for n in range(3)), here / "other", 3)
    (folder / "shard-00001.tar").unlink()
    (folder / "shard-00001.tar").symlink_to(here / "other/shard-00000.tar")
    (folder / "linked").symlink_to(here / "other")
    (folder / SIZES).write_text(json.dumps({name: 3}))
    with pytest.raises(DataError, match=rf"shards/{name} is a link that leaves "):
        captions(folder)


def test_links_within_the_folder_and_a_linked_folder_are_fine(here, folder):
    (folder / "again.tar").symlink_to("shard-00000.tar")
    (folder / "below").mkdir()
    (folder / "shard-00001.tar").rename(folder / "below/shard-00001.tar")
    (folder / SIZES).write_text(json.dumps({"again.tar": 3, "below/shard-00001.tar": 3}))
    (here / "link").symlink_to(folder)
    assert sorted(captions(here / "link")) == [f"caption {n}" for n in range(6)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("null", "found null"),
        ("3", "found a number"),
        ("[]", "found a list"),
        ('["shard-00000.tar"]', "found a list"),
        ('"shard-00000.tar"', "found text"),
        ("{}", "lists no shard"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "JSON_DEPTH"),
        ('{"shard-00000.tar": "3"}', "the size '3'; a size is a whole number"),
        ('{"shard-00000.tar": null}', "the size None"),
        ('{"shard-00000.tar": true}', "the size True"),
        ('{"shard-00000.tar": 3.0}', "the size 3.0"),
        ('{"shard-00000.tar": -3}', "the size -3"),
        ('{"shard-00000.tar": 0}', "the size 0"),
        ('{"shard-00000.tar": [3]}', r"the size \[3\]"),
        ('{"shard-00000.tar": 1e300}', "the size 1e"),
        ('{"shard-00000.tar": 1000000000000}', "the size 1000000000000"),
        ('{"shard-00000.tar": NaN}', "nan"),
        ('{"shard-00000.tar": 3, "shard-00000.tar": 3}', "twice"),
        ('{"shard-00009.tar": 3}', "listed in .* but missing"),
        ('{"shard-00000.tar": 2}', "holds more than 2 samples, sizes.json says 2"),
        ('{"shard-00000.tar": 4}', "holds 3 samples, sizes.json says 4"),
    ],
)
def test_hostile_sizes(folder, content, message):
    (folder / SIZES).write_text(content)
    with pytest.raises(DataError, match=rf"(sizes\.json|shard).*{message}"):
        captions(folder)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [SIZES, "shard-00000.tar"])
def test_pipes_and_devices_in_a_folder(here, folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DataError, match=f"{name} is (a FIFO, not a file|listed)"):
        captions(folder)


# --- schemes that a config allows ---


@pytest.mark.parametrize("command", ["pipe:cat shards", "pipe:cat shards/shard-{00000..00001}.tar"])
def test_an_allowed_command_is_run(folder, command):
    assert sorted(captions(command, allow=["pipe"])) == sorted(captions(folder))


@pytest.mark.parametrize("name", [n for n in OUTSIDE if not n.startswith("a//")])
def test_an_allowed_command_gets_no_hostile_names(folder, name):
    (folder / SIZES).write_text(json.dumps({name: 3}))
    with pytest.raises(DataError, match="a shard's name is a path below the folder"):
        captions("pipe:cat shards", allow=["pipe"])


def test_a_command_that_fails_is_a_sentence():
    with pytest.raises(DataError, match=r"pipe:false/sizes\.json cannot be read|not valid JSON"):
        captions("pipe:false", allow=["pipe"])


def test_an_endless_command_is_cut():
    with pytest.raises(DataError, match="JSON_BYTES"):
        captions("pipe:yes #", allow=["pipe"])


def test_a_server_without_ranges_is_read_from_end_to_end(folder, served):
    assert sorted(captions(served(folder), allow=["http", "sequential"])) == sorted(captions(folder))
    with pytest.raises(DataError, match="no range requests; add 'sequential' to allow"):
        captions(served(folder), allow=["http"])
    with pytest.raises(DataError, match=r"sizes\.json does not exist, and web servers list no folders"):
        captions(served(folder) + "/absent", allow=["http"])


@pytest.fixture
def served():
    """The address at which a folder is served."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    def start(folder):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()


# --- what shards hold ---


def encoded(pixels, kind="png"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def header_only(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def image_shard(here, *, key="7", **members):
    write_shards(iter([{"__key__": key, **members}]), here / "images", 1)
    return ImageShards(folder=here / "images", num_classes=3, image_size=4).open(
        batch_size=1, seed=0, rank=0, world=1, start=0
    )


EPS = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n(%pipe%touch {MARK}) (w) file pop\nshowpage\n".encode()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (EPS, "image cannot be decoded: no PNG"),
        (b"", "empty png/jpg/jpeg/webp"),
        (header_only(20_000, 20_000), "IMAGE_PIXELS"),
        (header_only(4, 4), "image cannot be decoded: image file is truncated"),
        (encoded(np.zeros((5, 4), np.uint8)), "is 4x5, the config says 4"),
        (encoded(np.zeros((4, 4, 3), np.uint8), "gif"), "image cannot be decoded"),
        (encoded(np.zeros((4, 4, 3), np.uint8), "tiff"), "image cannot be decoded"),
    ],
)
def test_hostile_images_in_shards(here, image, message):
    with pytest.raises(DataError, match=rf"sample 7 of .*images/shard-00000\.tar.*{message}"):
        next(image_shard(here, png=image, cls=b"1"))


def test_sixteen_bit_grey_in_shards(here):
    values = np.array([[0, 128, 129, 257], [30_000, 32_767, 32_768, 65_535]] * 2, np.uint16)
    batch = next(image_shard(here, png=encoded(values), cls=b"1"))
    wanted = torch.tensor(values.astype(np.float64) / 65_535 * 255).round() / 255
    torch.testing.assert_close(batch.images[0], wanted.float().expand(3, 4, 4), rtol=0, atol=1e-7)
    assert round(float(batch.images[0, 0, 1, 0]) * 255) == 117


@pytest.mark.parametrize("label", [b"", b"x", b"-1", b"3", b"1.0", b"\xff", b"9" * 5000, b"nan"])
def test_hostile_labels(here, label):
    with pytest.raises(DataError, match=r"sample 7 of .*(no integer label|has label|empty cls)") as caught:
        next(image_shard(here, png=encoded(np.zeros((4, 4), np.uint8)), cls=label))
    assert len(str(caught.value)) < 500


def test_names_of_samples_cannot_write_on_the_terminal(here):
    with pytest.raises(DataError) as caught:
        next(image_shard(here, key="\x1b[2J\nfake", png=b"", cls=b"1"))
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends at byte 0 without its end mark"),
        (b"x" * 2000, "no valid header at byte 0"),
        (tar_of([("a.txt", b"x"), ("a.txt", b"y")]), "repeated member"),
        (tar_of([("a.__key__", b"x"), ("b.txt", b"y"), ("c.txt", b"y")]), "missing txt"),
        (tar_of([("txt", b"x"), (".txt", b"x"), ("__meta__/a.txt", b"x")]), "holds 0 samples, sizes.json says 3"),
        (tar_of([(f"{n}.txt", b"x") for n in range(9)]), "holds more than 3 samples"),
        (tar_of([("a.txt", b"\xff\xfe"), ("b.txt", b"x"), ("c.txt", b"x")]), "no UTF-8 caption"),
        (tar_of([("a.txt", b"  "), ("b.txt", b"x"), ("c.txt", b"x")]), "empty caption"),
        (tar_of([("a.txt", b""), ("b.txt", b"x"), ("c.txt", b"x")]), "empty txt"),
        (tar_of([("a.png", b"x"), ("b.txt", b"x"), ("c.txt", b"x")]), "missing txt"),
        (tar_of([("a.v2.txt", b"x"), ("b.txt", b"x"), ("c.txt", b"x")]), "dot in the key"),
        (tar_of([("a.txt", b"x" * 2**17), ("b.txt", b"x"), ("c.txt", b"x")]), "CAPTION_BYTES"),
    ],
)
def test_hostile_shards(folder, content, message):
    (folder / "shard-00000.tar").write_bytes(content)
    (folder / SIZES).write_text('{"shard-00000.tar": 3}')
    with pytest.raises(DataError, match=rf"shard-00000\.tar.*({message})"):
        captions(folder)


def test_members_that_point_elsewhere_are_no_samples(folder):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (("a.txt", tarfile.SYMTYPE), ("b.txt", tarfile.LNKTYPE), ("c.txt", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    (folder / "shard-00000.tar").write_bytes(buffer.getvalue())
    (folder / SIZES).write_text('{"shard-00000.tar": 3}')
    with pytest.raises(DataError, match="holds 0 samples"):
        captions(folder)


def test_gzipped_shards_are_read_from_end_to_end(folder):
    path = folder / "shard-00000.tar"
    before = captions(folder)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"shard-00000\.tar is compressed.*add 'sequential' to allow"):
        captions(folder)
    assert sorted(captions(folder, allow=["sequential"])) == sorted(before)


@pytest.mark.timeout(20)
def test_a_gzipped_bomb_fills_no_memory(folder):
    bomb = gzip.compress(tar_of([(f"{n}.txt", bytes(400_000)) for n in range(3)]))
    (folder / "shard-00000.tar").write_bytes(bomb)
    (folder / SIZES).write_text('{"shard-00000.tar": 3}')
    with pytest.raises(DataError, match=r"shard-00000\.tar.*CAPTION_BYTES|hold no sample that can be used"):
        captions(folder, allow=["sequential"], max_bad_share=0)


@pytest.mark.fuzz
def test_damaged_shards_and_sizes(folder, cases, damaged):
    """Random damage to a shard or to `sizes.json`: six captions, or a sentence."""
    rng, messages = random.Random(0), []
    whole = {name: (folder / name).read_bytes() for name in ("shard-00000.tar", "shard-00001.tar", SIZES)}
    for _ in range(cases(400)):
        name = rng.choice(list(whole))
        (folder / name).write_bytes(damaged(whole[name], rng))
        try:
            assert len(captions(folder)) == 6
        except DataError as error:
            messages.append(str(error))
        (folder / name).write_bytes(whole[name])
    assert messages
    assert not any("\n" in message for message in messages)


# --- captions and IDX files ---


def test_a_byte_order_mark_is_no_part_of_the_first_caption(here):
    (here / "c.txt").write_bytes("\ufeffein Föhn\r\n\r\n  zwei  \n".encode())
    assert [sample["txt"].decode() for sample in caption_samples(here / "c.txt")] == ["ein Föhn", "zwei"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo\nthree \xff\n", "codec can't decode"),
        (b"one\n" + b"a" * 70_000, r"65536 characters or more \(CAPTION_BYTES\)"),
        (b"\n \n\t\n", "no line holds a caption"),
        ("\ufeff".encode(), "no line holds a caption"),
    ],
)
def test_failed_shards_leave_nothing_behind(here, content, message):
    (here / "c.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        write_shards(caption_samples(here / "c.txt"), here / "out/shards", 1)
    assert [path.name for path in (here / "out").iterdir()] == []


@pytest.mark.timeout(20)
def test_captions_come_from_a_file(here):
    os.mkfifo(here / "c.txt")
    with pytest.raises(DataError, match=r"c\.txt is a FIFO, not a file"):
        next(caption_samples(here / "c.txt"))


def test_a_folder_to_write_that_looks_like_a_command(here):
    """webdataset's own writer would hand this name to a shell, or take it for a pattern."""
    out = here / f"pipe:touch {MARK};%d"
    sizes = write_shards(({"__key__": f"{n}", "txt": b"x"} for n in range(3)), Path(out.name), 2)
    assert sizes == {"shard-00000.tar": 2, "shard-00001.tar": 1}
    assert captions(out) == ["x"] * 6
    (here / "it.txt").write_text("x")
    with pytest.raises(DataError, match="is not empty"):
        write_shards(iter(()), here / "it.txt", 2)


def idx(kind, shape, data=b""):
    return gzip.compress(bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(8, (2, 3, 4), bytes(24))[:-9], "damaged"),
        (idx(8, (2, 3, 4), bytes(23)), "truncated"),
        (idx(8, (2**32 - 1,) * 3, bytes(24)), "truncated"),
        (idx(8, (2**31, 2**31, 4), b""), "truncated"),  # wraps to 0 in 64 bits
        (idx(13, (2, 3, 4), bytes(24)), "not an IDX file"),
        (idx(8, (24,), bytes(24)), "not an IDX file"),
        (b"plain", "not gzipped"),
        (b"", "not an IDX file|damaged"),
    ],
)
def test_hostile_idx_files(here, content, message):
    (here / "it.gz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"it\.gz .*({message})"):
        read_images(here / "it.gz")


def test_idx_files_are_bounded(here, monkeypatch):
    monkeypatch.setitem(read_gzip.__kwdefaults__, "limit", 1000)
    (here / "it.gz").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(ValueError, match=r"it\.gz .*ARCHIVE_BYTES"):
        read_labels(here / "it.gz")
    os.mkfifo(here / "fifo.gz")
    with pytest.raises(ValueError, match=r"fifo\.gz is a FIFO"):
        read_labels(here / "fifo.gz")
