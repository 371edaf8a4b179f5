"""Files from strangers: each is answered by one sentence in a moment, runs nothing, and no number comes out wrong."""

import json
import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_core.config import ConfigError
from fpd_eval.bench.references import open_reference
from fpd_eval.bench.rows import read_results
from fpd_eval.geneval.detection_folder import DetectionFolder
from fpd_eval.geneval.layout import Sample
from fpd_eval.images.image_files import folder_images, npz_images
from fpd_eval.images.paired_files import open_rgb
from fpd_eval.images.pairs import captioned_files
from fpd_eval.images.prompts import read_prompts
from fpd_eval.protocols import PROTOCOLS
from fpd_eval.report.tables import csv_table
from fpd_eval.runtime.cache import Cache
from fpd_eval.runtime.progress import silent
from fpd_eval.systems import read_system

CPU = torch.device("cpu")


def png(width, height, depth=8, colour=2):
    """A PNG of the given header with no pixels to speak of."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def fifo(path):
    os.mkfifo(path)


def eps(path):
    """PostScript that would leave a file behind if Ghostscript ran it."""
    done = path.with_suffix(".done")
    path.write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n"
        f"({done}) (w) file closefile\nshowpage\n%%EOF\n"
    )  # fmt: skip


def bomb(path):
    path.write_bytes(png(20_000, 20_000))


def no_device(path):
    path.symlink_to("/dev/zero")


HOSTILE = {"fifo": fifo, "eps": eps, "bomb": bomb, "device": no_device}
READERS = {
    "metrics --images": lambda folder: list(folder_images(folder, 4).batches()),
    "folder system": lambda folder: read_folder_system(folder),
    "clip-score": lambda folder: list(
        captioned_files({"": ([folder / "0.png"], ["a"])}, title="", batch_size=1, track=silent).batches()
    ),
    "geneval": lambda folder: Sample(folder / "0.png", {}).open(),
}


def read_folder_system(folder):
    (folder.parent / "system.json").write_text(json.dumps({"kind": "folder", "name": "x", "folder": str(folder)}))
    images = read_system(folder.parent / "system.json").load(CPU)
    plan = PROTOCOLS["small"].model_copy(update={"num_images": 1}).plan(1)
    return list(images.image_set(plan).batches())


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
def test_files_that_only_look_like_pictures_are_refused(tmp_path, kind, reader):
    folder = tmp_path / "images"
    folder.mkdir()
    HOSTILE[kind](folder / "0.png")
    with pytest.raises(ValueError, match=r"0\.png") as refusal:
        READERS[reader](folder)
    assert len(str(refusal.value).splitlines()) == 1
    assert not list(folder.glob("*.done"))


def test_sixteen_bits_of_grey_keep_their_brightness(tmp_path):
    """30000 of 65535 is 116.7 of 255; Pillow's own conversion would give 255."""
    levels = np.array([[0, 257], [30000, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "0.png")
    expected = [[round(level * 255 / 65535) for level in row] for row in levels.tolist()]
    assert np.asarray(open_rgb(tmp_path / "0.png"))[..., 1].tolist() == expected == [[0, 1], [117, 255]]
    with pytest.warns(UserWarning, match="are grey"):
        [batch] = folder_images(tmp_path, 4).batches()
    assert batch[0, 2].tolist() == expected


def npy(shape, data=b"", dtype="|u1"):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    "members",
    [
        {"arr_0": npy((10**12, 1, 1, 3))},
        {"arr_0": npy((1, 10**6, 10**6, 3))},
        {"mu": npy((10**12,), dtype="<f8"), "sigma": npy((10**12, 10**12), dtype="<f8")},
        {"mu": npy((2,), b"\0" * 16, "<U2"), "sigma": npy((2, 2), b"\0" * 32, "<f8")},
        {"mu": npy((1,), b"\0" * 8, "|O"), "sigma": npy((1, 1), b"\0" * 8, "<f8")},
        {"mu": npy((-1,), b"\0" * 8, "<f8"), "sigma": npy((1, 1), b"\0" * 8, "<f8")},
        {"mu": b"no array", "sigma": b""},
        {f"array_{number}": b"" for number in range(100)},
    ],
    ids=["images", "one image", "statistics", "text", "objects", "negative", "no arrays", "many"],
)
def test_arrays_that_promise_too_much_are_refused_before_they_are_allocated(tmp_path, members):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    for opened in (lambda: open_reference([tmp_path / "a.npz"], 4), lambda: npz_images(tmp_path / "a.npz", 4)):
        with pytest.raises(ValueError, match=r"a\.npz"):
            opened()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [10**6, 10**6], "counts": [10**12]}, "more than 67108864"),
        ({"size": [2, 2], "counts": [5]}, "cover 5 pixels"),
        ({"size": [2, 2], "counts": [-1, 5]}, "greater than or equal to 0"),
        ({"size": [2], "counts": []}, "size"),
    ],
)
def test_masks_are_bounded(tmp_path, mask, message):
    (tmp_path / "00000").mkdir()
    record = {"detections": {"dog": [{"box": [0, 0, 1, 1], "score": 0.9, "mask": mask}]}}
    (tmp_path / "00000" / "00000.json").write_text(json.dumps(record))
    sample = Sample(Path("images/00000/samples/00000.png"), {})
    with pytest.raises(ValueError, match=message):
        DetectionFolder(tmp_path).read(sample)


TEACHER = {"kind": "teacher", "name": "x", "teacher": "fashion", "steps": 2}


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "null",
        "3",
        "",
        "{",
        "[" * 100_000,
        '{"kind": []}',
        '{"kind": {"a": 1}}',
        '{"kind": null}',
        '{"kind": "teacher", "kind": "student"}',
        json.dumps(TEACHER | {"steps": True}),
        json.dumps(TEACHER | {"steps": "2"}),
        json.dumps(TEACHER | {"steps": 10**30}),
        json.dumps(TEACHER | {"guidance_scale": float("nan")}),
        json.dumps(TEACHER | {"guidance_scale": float("inf")}),
        json.dumps(TEACHER | {"guidance_scale": -5}),
        json.dumps(TEACHER | {"guidance_scale": 1e30}),
        json.dumps({"kind": "folder", "name": "x", "folder": "a\0b"}),
        json.dumps({"kind": "checkpoint", "name": "x", "teacher": [], "weights": "w", "generation": {}}),
    ],
)
def test_hostile_system_files_are_config_errors(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.json|kind"):
        read_system(tmp_path / "a.json")


@pytest.mark.parametrize("content", ["[]", "{}", "[" * 100_000, '{"format_version": 2}', '{"format_version": 1}', "\0"])
def test_hostile_results_are_config_errors(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigError, match=r"results\.json"):
        read_results(tmp_path / "results.json")


def test_a_byte_order_mark_is_no_part_of_the_first_caption(tmp_path):
    (tmp_path / "captions.txt").write_bytes(b"\xef\xbb\xbfa dog\nb\n")
    (tmp_path / "captions.csv").write_bytes(b"\xef\xbb\xbfimage_id,text\n7,a dog\n")
    assert read_prompts(tmp_path / "captions.txt").texts == ("a dog", "b")
    assert read_prompts(tmp_path / "captions.csv").keys == ("7",)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum", "\t=1"])
def test_no_cell_is_a_formula(results, name):
    row = results.rows[0].model_copy(update={"name": name, "values": {"fd_classifier": -2.5}})
    table = csv_table(results.model_copy(update={"rows": (row,)}))
    assert f"'{name}," in table
    assert ",-2.5," in table


def limited(folder, size, program):
    """A program whose files may have at most `size` bytes: what a full disk does, in a place of its own."""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


FULL = """
import signal, sys, torch, typer
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from fpd_eval.commands.usage import user_errors
from fpd_eval.runtime.cache import Cache
try:
    with user_errors():
        Cache(Path("cache")).put_tensors("features-1", {"a": torch.zeros(10**6)})
except typer.Exit as stop:
    sys.exit(stop.exit_code)
"""


def test_a_full_disk_ends_in_one_sentence_and_leaves_no_part_behind(tmp_path):
    done = limited(tmp_path, 100_000, FULL)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: [Errno 27] File too large: 'cache/features-1.safetensors'\n"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_of_another_program_is_computed_again(tmp_path):
    cache = Cache(tmp_path)
    for content in ("[]", "{}", "[" * 100_000, '{"sha256": 1}', "\xff"):
        (tmp_path / "metric-1.json").write_text(content)
        with pytest.warns(UserWarning, match="damaged"):
            assert cache.get_json("metric-1") is None
