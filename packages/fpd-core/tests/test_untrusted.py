"""Files from outside: every attack is one sentence that names the file, and nothing hangs, runs or fills the memory."""

import gzip
import io
import os
import random
import socket
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpd_core.untrusted import UntrustedError, limits, open_regular, parse_json, read_bytes, read_json, shown
from fpd_core.untrusted.archives import read_gzip, tar_members
from fpd_core.untrusted.arrays import ArrayArchive
from fpd_core.untrusted.images import _eight_bit, open_image

REPO = Path(__file__).resolve().parents[3]


class OtherError(ValueError):
    """What a caller wants raised."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object .* found a list"),
        ("null", "found null"),
        ("3", "found a number"),
        ("true", "found true or false"),
        ('"x"', "found text"),
        ('{"a": 1, "b": {"c": 2, "c": 3}}', "gives the key 'c' twice"),
        ('{"a": NaN}', "holds nan at a; numbers must be finite"),
        ('{"a": [-Infinity]}', r"holds -inf at a\.0; numbers"),
        ('{"a": 1e999}', "holds inf at a; numbers"),
        ("[[1, NaN]]", r"holds nan at 0\.1; numbers"),
        ('{"a": ' + "1" * 5000 + "}", "a number of 5000 digits"),
        ("[" * 100_000, r"deeper than 64 \(JSON_DEPTH\)"),
        ('{"a":' * 100_000, "deeper than 64"),
        ('{"a": "' + '\\"' * 100_000, "not valid JSON: Unterminated string"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"a": "\xff"}', r"not UTF-8 text \(byte 7\)"),
        ("{}".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_hostile_json(tmp_path, text, message):
    path = tmp_path / "some.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OtherError, match=rf"some\.json.*{message}") as caught:
        read_json(path, what="config", error=OtherError)
    assert str(caught.value).startswith("config ")
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_json_that_means_no_harm(tmp_path):
    path = tmp_path / "some.json"
    text = '\ufeff{"a": "[[[{{{ \\" ü \\ud83d\\ude00", "b": [1, 2.5, -0.0, true, null], "c": 12345678901234}'
    path.write_bytes(text.encode())
    assert read_json(path) == {"a": '[[[{{{ " ü 😀', "b": [1, 2.5, 0.0, True, None], "c": 12345678901234}
    deep = "[" * limits.JSON_DEPTH + "]" * limits.JSON_DEPTH
    assert parse_json(deep, source="x") is not None
    with pytest.raises(UntrustedError, match="JSON_DEPTH"):
        parse_json(f"[{deep}]", source="x")


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"a": 1}')
    assert read_bytes(path, limit=8, name="JSON_BYTES") == b'{"a": 1}'
    with pytest.raises(UntrustedError, match=r"more than 7 bytes \(JSON_BYTES\)"):
        read_json(path, max_bytes=7)
    with path.open("r+b") as file:
        file.truncate(10**12)  # sparse: no disk, but a terabyte to whoever reads it whole
    with pytest.raises(UntrustedError, match="JSON_BYTES"):
        read_json(path)


def _fifo(path):
    os.mkfifo(path)


def _socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


READERS = {
    "json": read_json,
    "image": open_image,
    "npz": ArrayArchive,
    "gzip": read_gzip,
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_fifo, "is a FIFO, not a file"),
        (_socket, "is a socket, not a file"),
        (lambda path: path.mkdir(), "is a folder, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_only_regular_files_are_opened(tmp_path, monkeypatch, reader, make, message):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make(Path("it.png"))
    with pytest.raises(OtherError, match=rf"^it\.png:? {message}$"):
        READERS[reader](Path("it.png"), error=OtherError)


@pytest.mark.timeout(10)
def test_a_file_that_becomes_a_pipe_between_question_and_opening(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "it")
    (tmp_path / "file").touch()
    regular = os.stat(tmp_path / "file")
    with monkeypatch.context() as patch:
        patch.setattr("fpd_core.untrusted.files.os.stat", lambda path, **options: regular)
        with pytest.raises(UntrustedError, match="it is a FIFO, not a file"):
            open_regular(tmp_path / "it")


def test_a_path_that_is_none():
    with pytest.raises(UntrustedError, match="is no path: embedded null byte"):
        read_json(Path("a\0b"))


@pytest.mark.parametrize("error", [ValueError, OtherError])
def test_the_source_is_named_whatever_is_raised(error):
    with pytest.raises(error, match=r"^a.x00b is no path"):
        read_json(Path("a\0b"), error=error)
    with pytest.raises(error, match=r"^sample 7 has 9000 x 9000 pixels"):
        open_image(png(9000, 9000), source="sample 7", error=error)
    with pytest.raises(error, match=r"^shard x holds more than 100 bytes"):
        list(tar_members(io.BytesIO(tar(SMALL)), source="shard x", limit=100, error=error))


def test_outside_text_stays_on_one_line():
    assert shown("\x1b[31mred\nblue") == "\\x1b[31mred\\nblue"
    assert len(shown("a" * 10**6)) == 203


def png(width, height, *, bits=8, colour=2, rows=b""):
    """A PNG whose header may promise more than it holds."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encoded(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no PNG, JPEG, WEBP or BMP file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n", "no PNG, JPEG, WEBP or BMP file"),
        (encoded(PIXELS, "gif"), "no PNG"),
        (encoded(PIXELS, "tiff"), "no PNG"),
        (encoded(PIXELS, "ppm"), "no PNG"),
        (png(20_000, 20_000), r"more than the 67108864 that are read \(IMAGE_PIXELS\)"),
        (png(9_000, 9_000), r"has 9000 x 9000 pixels, more than the 67108864 that are read \(IMAGE_PIXELS\)"),
        (png(2**31 - 1, 2**31 - 1), "IMAGE_PIXELS"),
        (png(4, 4), "cannot be decoded: image file is truncated"),
        (encoded(PIXELS, "png")[:100], "cannot be decoded"),
        (encoded(PIXELS, "jpeg")[:300], "cannot be decoded"),
        (encoded(PIXELS, "webp")[:60], "cannot be decoded"),
    ],
)
def test_hostile_images(tmp_path, recwarn, content, message):
    path = tmp_path / "it.png"
    path.write_bytes(content)
    with pytest.raises(OtherError, match=rf"it\.png .*{message}"):
        open_image(path, error=OtherError)
    with pytest.raises(OtherError, match=rf"sample 7 .*{message}"):
        open_image(content, source="sample 7", error=OtherError)
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["png", "bmp", "webp"])
def test_images_keep_their_pixels(kind):
    image = open_image(encoded(PIXELS, kind))
    assert image.mode == "RGB"
    if kind != "webp":  # lossy
        assert np.array_equal(np.asarray(image), PIXELS)


def test_modes_stay_as_they_are():
    for mode in ("L", "RGBA", "P", "LA", "1"):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).convert(mode).save(buffer, format="png")
        assert open_image(buffer.getvalue()).mode == mode


def test_sixteen_bit_grey_is_scaled_to_the_nearest_level():
    """Every 16-bit value, against the nearest of 256 levels computed in floating point."""
    values = np.arange(65_536, dtype=np.uint16)
    grey = open_image(encoded(values.reshape(256, 256), "png"))
    assert grey.mode == "L"
    nearest = np.abs(values[:, None] / 65_535 - np.arange(256)[None] / 255).argmin(1)
    assert np.array_equal(np.asarray(grey).ravel(), nearest)
    assert np.asarray(grey).ravel()[30_000] == 117


def test_sixteen_bit_grey_does_not_depend_on_who_opened_it():
    for mode, dtype in (("I", np.int32), ("I;16", "<u2"), ("I;16B", ">u2")):
        values = np.array([[0, 128, 129, 30_000, 65_535]], dtype=dtype)
        image = Image.frombytes(mode, (5, 1), values.tobytes())
        assert np.asarray(_eight_bit(image)).tolist() == [[0, 0, 1, 117, 255]]


def tar(members, kind=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


SMALL = [("a.txt", b"one"), ("dir/b.txt", b"two" * 400), ("c.txt", b"")]


@pytest.mark.parametrize("kind", ["", "gz"])
def test_a_tar_gives_its_members(kind):
    assert list(tar_members(io.BytesIO(tar(SMALL, kind)), source="x")) == SMALL


def test_a_tar_gives_regular_files_only():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("it")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert list(tar_members(io.BytesIO(buffer.getvalue()), source="x")) == []


def _claims(size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo("it.txt")
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read: empty file"),
        (b"no tar at all" * 100, "cannot be read"),
        (tar(SMALL)[:1700], "cannot be read: unexpected end of data"),
        (tar(SMALL, "gz")[:90], "cannot be read: Compressed file ended"),
        (gzip.compress(tar(SMALL, "gz")), "cannot be read"),  # gzipped twice: the inner one is not a tar
        (tar(SMALL, "bz2"), "cannot be read"),
        (_claims(10**12), "ARCHIVE_BYTES"),
        (_claims(10**15, tarfile.XHDTYPE), "ARCHIVE_BYTES|cannot be read"),
        (gzip.compress(tar([("a.txt", bytes(5_000_000))])), r"more than 1000000 bytes .* \(ARCHIVE_BYTES\)"),
        (gzip.compress(tar([(f"{i}.txt", bytes(400_000)) for i in range(3)])), "ARCHIVE_BYTES"),
    ],
)
def test_hostile_tars(content, message):
    tracemalloc.start()
    with pytest.raises(OtherError, match=f"^shard x .*({message})"):
        list(tar_members(io.BytesIO(content), source="shard x", limit=1_000_000, error=OtherError))
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_a_sparse_member_is_not_made_of_nothing():
    header = bytearray(_claims(512, tarfile.GNUTYPE_SPARSE))
    header[386:410] = b"%011o\0%011o\0" % (10**9, 512)  # the only data at an offset of a gigabyte
    header[483:495] = b"%011o\0" % (10**9 + 512)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header[:512])
    with pytest.raises(UntrustedError, match="is a sparse file"):
        list(tar_members(io.BytesIO(bytes(header) + bytes(1536)), source="x"))


def test_a_bomb_of_four_gibibytes_stays_small():
    """8 MB gzipped, 4.3 GiB of zeros: refused by the size that its header claims, before anything is decompressed."""
    claimed = int(4.3 * 2**30)
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1) as file:
        file.write(_claims(claimed))
        file.write(bytes(8_000_000))
    tracemalloc.start()
    with pytest.raises(UntrustedError, match=rf"more than {limits.ARCHIVE_BYTES} bytes .*ARCHIVE_BYTES"):
        list(tar_members(io.BytesIO(bomb.getvalue()), source="shard x"))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(bytes(10**6)), r"more than 1000 bytes .* \(ARCHIVE_BYTES\)"),
        (gzip.compress(b"abc")[:-9], "damaged or not gzipped"),
        (b"plain", "damaged or not gzipped"),
        (gzip.compress(os.urandom(500))[:-8] + bytes(8), "damaged or not gzipped: CRC check failed"),
    ],
)
def test_hostile_gzip(tmp_path, content, message):
    (tmp_path / "it.gz").write_bytes(content)
    with pytest.raises(OtherError, match=rf"it\.gz .*{message}"):
        read_gzip(tmp_path / "it.gz", limit=1000, error=OtherError)


def npz(path, header, data=b"", method=zipfile.ZIP_STORED):
    text = header.encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("arr_0.npy", content)


def head(shape="(2,)", descr="'<f8'"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("header", "message"),
    [
        (head("(1000000000000,)"), r"its shape \[1000000000000\] needs 8000000000000: damaged"),
        (head("(10, 10**9)"), "cannot be read"),
        (head("(-1,)"), "no array has shape"),
        (head("(1000000000000,)", "'|V0'"), "no array has shape"),
        (head("(2,)", "'|O'"), "holds Python objects, which are not unpickled"),
        (head("(2,)", "'<x9'"), "cannot be read"),
        (head("__import__('os').system('true')"), "cannot be read"),
        (head("(" * 5000), "cannot be read"),
        (head("-" * 5000 + "1"), "cannot be read"),
        ("{}", "cannot be read"),
        ("[" * 9000, "cannot be read"),
    ],
)
def test_hostile_arrays(tmp_path, header, message):
    npz(tmp_path / "it.npz", header)
    with ArrayArchive(tmp_path / "it.npz", error=OtherError) as archive:
        assert archive.names == ("arr_0",)
        with pytest.raises(OtherError, match=rf"it\.npz: array arr_0 .*{message}"):
            archive.read("arr_0")


def test_arrays_come_back_as_they_were_saved(tmp_path):
    saved = {"mu": np.arange(4.0), "fortran": np.asfortranarray(np.ones((2, 3))), "empty": np.zeros((0, 5), np.uint8)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "it.npz", **saved)
        with ArrayArchive(tmp_path / "it.npz") as archive:
            assert archive.names == tuple(saved)
            for name, array in saved.items():
                assert np.array_equal(archive.read(name), array)
            header, stream = archive.stream("mu")
            assert header.shape == (4,)
            assert np.frombuffer(stream.read(16), header.dtype).tolist() == [0.0, 1.0]
            with pytest.raises(UntrustedError, match="array nope cannot be read"):
                archive.read("nope")


def test_an_array_that_inflates_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("fpd_core.untrusted.arrays.ARRAY_BYTES", 1000)
    np.savez_compressed(tmp_path / "it.npz", a=np.zeros(10_000))
    with ArrayArchive(tmp_path / "it.npz") as archive, pytest.raises(UntrustedError, match=r"80000 bytes.*ARRAY_BYTES"):
        archive.read("a")


def test_too_many_arrays(tmp_path):
    np.savez(tmp_path / "it.npz", **{f"a{n}": np.zeros(1) for n in range(limits.ARRAYS_PER_FILE + 1)})
    with pytest.raises(UntrustedError, match="65 arrays, more than 64"):
        ArrayArchive(tmp_path / "it.npz")


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "grey16", "palette", "tar", "tar.gz", "npz", "json"])
def test_damage_is_a_sentence_whatever_it_is(tmp_path, kind, cases, damaged):
    """Random damage either goes unnoticed by the format or is refused; no other exception leaves the boundary."""
    path, rng = tmp_path / "it", random.Random(kind)
    buffer = io.BytesIO()
    match kind:
        case "grey16":
            buffer.write(encoded(PIXELS[:, :, 0].astype(np.uint16) * 257, "png"))
        case "palette":
            Image.fromarray(PIXELS).convert("P").save(buffer, format="png")
        case "tar" | "tar.gz":
            buffer.write(tar(SMALL, kind[4:]))
        case "npz":
            np.savez(buffer, mu=np.arange(4.0), cov=np.eye(2))
        case "json":
            buffer.write(b'{"a": [1, 2.5e3, "text \\u00e4"], "b": {"c": true, "d": null}}')
        case _:
            buffer.write(encoded(PIXELS, kind))

    def read(content):
        path.write_bytes(content)
        if kind == "json":
            return read_json(path)
        if kind == "npz":
            with ArrayArchive(path) as archive:
                return [archive.read(name) for name in archive.names]
        if kind.startswith("tar"):
            return list(tar_members(io.BytesIO(content), source="x"))
        return open_image(path).convert("RGB")

    read(buffer.getvalue())
    messages = []
    for _ in range(cases(1500)):
        try:
            read(damaged(buffer.getvalue(), rng))
        except UntrustedError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


def test_the_security_notes_name_every_limit():
    text = (REPO / "SECURITY.md").read_text()
    for name in vars(limits):
        if name.isupper() and name != "MIB":
            assert f"`{name}`" in text
