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

from fpd_core.checkpoints import CheckpointError
from fpd_core.config import ConfigError
from fpd_core.devices import device_called
from fpd_eval.bench.curves import read_curves
from fpd_eval.bench.references import open_reference
from fpd_eval.bench.rows import read_results
from fpd_eval.extractors.weights import locate
from fpd_eval.geneval.colors import cut_out
from fpd_eval.geneval.detection_folder import DetectionFolder
from fpd_eval.geneval.detector import Detection
from fpd_eval.geneval.layout import Sample
from fpd_eval.geneval.results import read_results as read_geneval
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image_id,text\n../../x,a\n", "no name of a file"),
        (b"image_id,text\n/etc/x,a\n", "no name of a file"),
        (b"image_id,text\n" + b"9" * 6000 + b",a\n", "no name of a file"),
        (b"image_id,text\n\x1b[31m,a\n", "no name of a file"),
        (b"image_id,text\n0," + b"a" * 200_000 + b"\n", "field limit"),
        (b'image_id,text\n0,"a\n1,b\n', "unexpected end of data"),
        (b"image_id,text\n0," + b"a" * 70_000 + b"\n", "CAPTION_BYTES"),
        (b"image_id,text\n\xff,a\n", "not UTF-8"),
        (b"image_id,text\n" + b"\n" * (2**21 + 1), "PROMPTS"),
    ],
)
def test_captions_name_files_and_end(tmp_path, content, message):
    (tmp_path / "captions.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"captions\.csv.*{message}"):
        read_prompts(tmp_path / "captions.csv")


def test_captions_keep_their_characters(tmp_path):
    """Only line feeds and carriage returns end a caption; a quoted line break belongs to it."""
    (tmp_path / "captions.txt").write_bytes("a\u2028b\x85c\x0bd\r\ne\rf\n".encode())
    (tmp_path / "captions.csv").write_bytes(b'image_id,text\r\n0,"a\nb"\r\n')
    assert read_prompts(tmp_path / "captions.txt").texts == ("a\u2028b\x85c\x0bd", "e", "f")
    assert read_prompts(tmp_path / "captions.csv").texts == ("a\nb",)


def test_pictures_of_one_batch_share_a_limit(tmp_path):
    for number in range(5):
        Image.new("1", (8192, 8192)).save(tmp_path / f"{number}.png")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", npy((8, 6000, 6000, 3), b"\0" * (8 * 6000 * 6000 * 3)))
    with pytest.raises(ValueError, match="IMAGE_PIXELS"), pytest.warns(UserWarning, match="grey"):
        list(folder_images(tmp_path, 5).batches())
    with pytest.raises(ValueError, match=r"a\.npz.*IMAGE_PIXELS"):
        npz_images(tmp_path / "a.npz", 8)


def test_a_picture_as_thin_as_a_thread_is_refused(tmp_path):
    Image.new("RGB", (3000, 1)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="IMAGE_ASPECT"):
        open_rgb(tmp_path / "0.png")


@pytest.mark.parametrize("box", [[0, 0, 1e9, 1e9], [1e308] * 4, [0, 0, 1, "2"], [0, 0, 1, True]])
def test_boxes_are_bounded(tmp_path, box):
    (tmp_path / "00000").mkdir()
    record = {"detections": {"dog": [{"box": box, "score": 0.9}]}}
    (tmp_path / "00000" / "00000.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"00000\.json.*box"):
        DetectionFolder(tmp_path).read(Sample(Path("images/00000/samples/00000.png"), {}))


@pytest.mark.parametrize("box", [(-1, 0, 2, 2), (0, 0, 9, 2), (1, 1, 1, 2), (0.1, 0, 0.2, 2)])
def test_colours_are_those_of_boxes_inside_the_image(box):
    with pytest.raises(ValueError, match="inside the image"):
        cut_out(Image.new("RGB", (4, 4)), Detection(*box, 0.9, np.ones((4, 4), bool)))


LINE = {"filename": "a.png", "tag": "colors", "prompt": "p", "correct": True, "metadata": "{}"}


@pytest.mark.parametrize("change", [{"correct": "false"}, {"tag": 3}, {"metadata": {}}, {"filename": None}])
def test_results_of_other_types_are_refused(tmp_path, change):
    (tmp_path / "results.jsonl").write_text(json.dumps(LINE | change))
    with pytest.raises(ValueError, match=rf"results\.jsonl:1 .*{next(iter(change))}"):
        read_geneval(tmp_path / "results.jsonl")


def test_logged_nonsense_is_left_out_of_the_curves(tmp_path):
    lines = [f'{{"step": 1, "loss": 1{"0" * 400}}}', f'{{"step": 1{"0" * 400}, "loss": 1}}', '{"step": -1, "loss": 1}']
    lines += ['{"step": true, "loss": 1}', '{"step": 2, "\\u001b/loss": 1}', '{"step": 3, "loss": 2}', "[" * 10**5]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="1 lines"):
        [curve] = read_curves(tmp_path)
    assert (curve.steps, curve.values) == ((3,), (2,))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, **{f"{n}/loss": 1 for n in range(65)}}))
    with pytest.raises(ValueError, match="65 curves"):
        read_curves(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"conditions": []},
        {"reference": {"num_images": 1, "values": {}, "samples": ""}},
        {"curves": [{"panel": "Loss", "name": "loss", "steps": [1], "values": []}]},
        {"rows": [{"name": "\x1b[31m"}]},
        {"rows": [{"name": "x" * 201}]},
        {"rows": [{"steps": 0}]},
        {"rows": [{"steps": True}]},
        {"rows": [{"values": {"fid": 1e300}}]},
        {"rows": [{"values": {"fid": "3"}}]},
    ],
)
def test_results_that_cannot_be_shown_are_config_errors(results, tmp_path, change):
    stored = json.loads(results.model_dump_json())
    stored |= change | {"rows": [stored["rows"][0] | row for row in change.get("rows", [{}])]}
    (tmp_path / "results.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=r"results\.json"):
        read_results(tmp_path / "results.json")


@pytest.mark.parametrize("samples", ["", "AAAA", "!"])
def test_samples_that_are_no_picture_name_their_file(results, tmp_path, run, samples):
    damaged = results.model_copy(update={"rows": (results.rows[0].model_copy(update={"samples": samples}),)})
    (tmp_path / "results.json").write_text(damaged.model_dump_json())
    code, _, err = run("report", "--results", str(tmp_path / "results.json"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "results.json: the image cannot be decoded" in err


@pytest.mark.parametrize("name", ["meta", "mps", "xla", "vulkan", "cuda:-1", "\x1b[31m", "cuda:99999999999999999999"])
def test_devices_are_cpu_and_cuda(name):
    with pytest.raises(ValueError, match="device"):
        device_called(name)


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_weight_folders_hold_files_only(tmp_path, kind):
    HOSTILE[kind](tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is a"):
        locate("clip_vitl14_transformers", tmp_path)


def test_a_folder_called_like_markup_is_measured(tmp_path, run):
    folder = tmp_path / "a[" / "red]"
    folder.mkdir(parents=True)
    for number in range(20):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)).save(
            folder / f"{number}.png"
        )
    code, out, err = run(
        "metrics", "--protocol", "small", "--images", str(folder), "--num-images", "20", "--only", "is"
    )
    assert code == 0, err
    assert "red]" in out


def test_an_ascii_terminal_loses_an_arrow_not_the_table(results, tmp_path):
    (tmp_path / "results.json").write_text(results.model_dump_json())
    command = [sys.executable, "-m", "fpd_eval", "report", "--results", "results.json", "--out", "out"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(command, cwd=tmp_path, env=ascii_only, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "report: out/report.html" in done.stdout
