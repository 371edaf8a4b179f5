"""`fpd-eval compare --systems`: files of every kind in one table, and what does not fit said in one sentence."""

import json

import numpy as np
import pytest
from PIL import Image

from fpd_eval.protocols import PROTOCOLS

SMALL = ("--num-images", "20", "--batch-size", "10")


@pytest.fixture(scope="module")
def files(tmp_path_factory, world):
    """System files by name; `folder` holds 20 real-looking images in the reference's size."""
    place = tmp_path_factory.mktemp("systems")
    images, wide = place / "images", place / "wide"
    random = np.random.default_rng(1)
    for folder, size in ((images, (32, 32)), (wide, (16, 32))):
        folder.mkdir()
        for number in range(20):
            Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    base = {"repo": "nobody/nothing"}
    sections = {
        "t2": {"kind": "teacher", "name": "Halton", "teacher": "fashion", "steps": 2, "sampler": "halton"},
        "t4": {"kind": "teacher", "name": "Halton", "teacher": "fashion", "steps": 4, "sampler": "halton"},
        "student": {"kind": "student", "name": "ours", "folder": "runs/tiny/student", "note": "A tiny one."},
        "folder": {"kind": "folder", "name": "theirs", "folder": str(images), "steps": 4, "published_as": "MaskGit"},
        "wide": {"kind": "folder", "name": "wide", "folder": str(wide)},
        "painter": {
            "kind": "diffusers",
            "name": "painter",
            "published_as": "SDXL",
            "pipeline": "StableDiffusionXLPipeline",
            "base": base,
            "steps": 50,
            "guidance_scale": 5,
        },
    }
    for name, section in sections.items():
        (place / f"{name}.json").write_text(json.dumps(section))
    return {name: str(place / f"{name}.json") for name in sections}


def test_files_of_several_kinds_stand_in_one_table(run, world, files):
    wanted = [files[name] for name in ("t4", "t2", "student", "folder")]
    code, out, err = run("compare", "--systems", *wanted, *SMALL, "--out", str(world / "systems"), "--json")
    assert code == 0, err
    rows = {(row["name"], row["steps"]): row for row in json.loads(out)["rows"]}
    assert {name: row["role"] for name, row in rows.items()} == {
        ("Halton", 2): "teacher",
        ("Halton", 4): "teacher",
        ("ours", 1): "student",
        ("theirs", 4): "external",
    }
    assert rows["theirs", 4]["ms_per_image"] is None
    assert rows["ours", 1]["note"] == "A tiny one."
    [fpd, *_] = rows["theirs", 4]["published"]["inception_score"]
    assert (fpd["value"], fpd["source"]) == (192, "FPD, table 2")
    assert fpd["difference"] == "measured by protocol “dimo”, ours by “small”"
    assert rows["Halton", 4]["published"] == {}


def test_a_system_file_has_the_numbers_of_its_checkpoint(run, files):
    code, out, err = run(
        "compare", "--ckpt", "runs/tiny/student", "--steps", "2", "--systems", files["student"], *SMALL, "--json"
    )
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert list(rows) == ["teacher", "untrained", "student", "ours"]
    assert rows["ours"]["values"] == rows["student"]["values"]


def test_the_terminal_has_a_published_column(run, world, files):
    code, out, err = run("compare", "--systems", files["folder"], *SMALL, "--out", str(world / "folder"))
    assert code == 0, err
    assert "published" in out
    assert "not comparable as it stands" in out
    assert max(len(line) for line in out.splitlines()[:-1]) <= 80


def test_a_named_protocol_gives_the_numbers_of_metrics(run, files, monkeypatch):
    small = PROTOCOLS["small"].without_classes()
    toy = small.model_copy(update={"name": "toy", "metrics": ("fd_classifier", "is", "prc")})
    monkeypatch.setitem(PROTOCOLS, "toy", toy)
    common = ("--protocol", "toy", "--num-images", "20")
    code, out, err = run("compare", *common, "--systems", files["student"], files["folder"], "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["protocol"]["name"], found["reference"]) == ("toy", None)
    code, out, err = run("metrics", *common, "--system", files["student"], "--json")
    assert code == 0, err
    assert found["rows"][0]["values"] == json.loads(out)["values"]
    assert found["rows"][1]["published"]["precision"][0]["difference"] == "measured by protocol “dimo”, ours by “toy”"


def test_a_named_protocol_needs_its_reference(run, files):
    code, _, err = run("compare", "--protocol", "fdd", "--systems", files["student"])
    assert code == 2
    assert "name one with --reference" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("painter",), "painter makes images of prompts, the protocol shows classes; score it with fpd-eval geneval"),
        (("wide",), "holds images of (32, 16) pixels, the real images have (32, 32)"),
        (("t2", "t2"), "two systems are called 'Halton'"),
        (("folder", "--steps", "3"), "--steps, --teacher, --sampler and --guidance-scale belong to the teacher"),
        (("folder", "--reference", "x.npz"), "protocol 'small' has its own reference"),
        (("folder", "--protocol", "dymo"), "did you mean 'dimo'"),
        (("folder", "--geneval", "painter"), "--geneval is NAME=FILE"),
        (("folder", "--geneval", "painter=nothing.jsonl"), "nothing.jsonl: No such file"),
        (("nothing.json",), "nothing.json: No such file"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(run, files, arguments, message):
    code, out, err = run("compare", "--systems", *(files.get(one, one) for one in arguments), *SMALL)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_a_folder_with_too_few_images_is_refused(run, files):
    code, _, err = run("compare", "--systems", files["folder"], "--num-images", "30", "--batch-size", "10")
    assert code == 2
    assert "holds 20 images, the protocol needs 30" in err


def test_nothing_to_compare_is_said(run):
    code, _, err = run("compare")
    assert code == 2
    assert "--ckpt, --systems or --geneval" in err
