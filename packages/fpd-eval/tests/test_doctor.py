"""`fpd-eval doctor` and the mistakes of `fpd-eval metrics`."""

import json
import re
from pathlib import Path

import pytest

from fpd_core.checkpoints import CheckpointError
from fpd_core.config import ConfigError
from fpd_core.containers import read_public
from fpd_eval.cli import main
from fpd_eval.extractors.weights import EVAL_WEIGHTS, locate

BUNDLED = {name for name, weight in EVAL_WEIGHTS.items() if weight.local.parts[0] == "assets"}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def test_doctor_tells_what_is_missing_and_where_it_goes(run, tmp_path):
    code, out, _ = run("doctor")
    assert code == 0
    assert re.findall(r"ready +(.*)", out) == [
        "compare; small: all",
        "geneval --suite scenes",
    ]  # the bundled world is found from anywhere
    for name, weight in EVAL_WEIGHTS.items():
        assert name in BUNDLED or weight.published in out
        assert str(weight.local) in out
    place = EVAL_WEIGHTS["dinov2_vitl14"].local
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    _, out, _ = run("doctor")
    assert re.search(r"ready +fdd", out)
    assert f"{len(BUNDLED) + 1} of {len(EVAL_WEIGHTS)} weight files are here" in out


def test_doctor_as_json_is_one_record_per_file(run):
    code, out, _ = run("doctor", "--json")
    records = json.loads(out)
    assert code == 0
    assert [record["name"] for record in records] == list(EVAL_WEIGHTS)
    assert {record["name"] for record in records if record["present"]} == BUNDLED


def test_no_two_files_share_a_place():
    places = [weight.local for weight in EVAL_WEIGHTS.values()]
    assert len(set(places)) == len(places)


def test_overrides_are_looked_at_instead(tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"")
    assert locate("dinov2_vitl14", tmp_path / "mine.pth") == tmp_path / "mine.pth"
    with pytest.raises(CheckpointError, match=r"gone\.pth does not exist; get DINOv2 ViT-L/14"):
        locate("dinov2_vitl14", tmp_path / "gone.pth")
    with pytest.raises(ConfigError, match="did you mean 'dinov2_vitl14'"):
        locate("dinov2_vitl", None)


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02K\x01."])
def test_files_that_are_no_weights_are_named(tmp_path, content):
    path = Path(tmp_path / "odd.pth")
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"odd\.pth"):
        read_public(path)


SMALL = ("metrics", "--protocol", "small", "--num-images", "20")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("metrics", "--protocol", "dimmo", "--images", "x"), "did you mean 'dimo'"),
        ((*SMALL, "--only", "fd_classifier", "--images", "x"), "x is neither a folder of images nor an .npz file"),
        (("metrics", "--protocol", "dimo", "--images", "x"), "x is neither a folder of images nor an .npz file"),
        (("metrics", "--protocol", "dimo"), "exactly one of --ckpt, --teacher, --system and --images"),
        (("metrics", "--protocol", "dimo", "--images", "x", "--ckpt", "y"), "exactly one of"),
        (("metrics", "--protocol", "dimo", "--images", "x", "--steps", "4"), "belong to --teacher"),
        (("metrics", "--protocol", "dimo", "--teacher", "fashion"), "steps"),
        (("metrics", "--protocol", "dimo", "--images", "x", "--only", "fdi"), "'fid'"),
        (("metrics", "--protocol", "dimo", "--images", "x", "--only", "prc"), "prc needs reference images"),
        (("metrics", "--protocol", "fdd", "--images", "x"), "fdd needs reference statistics or images"),
        (("metrics", "--protocol", "dimo", "--images", "x", "--batch-size", "many"), "auto or a positive number"),
        (("metrics", "--protocol", "dimo", "--images", "x", "--weights", "a"), "EXTRACTOR=PATH"),
        (("metrics", "--protocol", "dimo", "--images", "x", "--weights", "inception=a"), "unknown extractor"),
        (("metrics", "--protocol", "dimo", "--images", "x", "--device", "abacus"), "unknown device"),
        (("metrics", "--protocol", "dimo", "--images", "x", "--reference", "none.npz"), "none.npz does not exist"),
    ],
)
def test_mistakes_end_in_one_sentence(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert out == ""
