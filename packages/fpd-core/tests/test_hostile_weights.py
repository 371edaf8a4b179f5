"""Weight folders and files that mean harm or lay on a bad disk: one sentence that names the file."""

import io
import json
import pickle
import random
import re
import struct
import time
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from fpd_core import load_generator
from fpd_core.checkpoints import CheckpointError, save_folder
from fpd_core.config import ConfigError
from fpd_core.containers import read_public
from fpd_core.generator import GenerationConfig, save_generator
from fpd_core.networks.classifier import load_classifier
from fpd_core.networks.vq_tokenizer import load_tokenizer
from fpd_core.teachers import load_teacher

MARK = "fpd-was-here"


@pytest.fixture
def student(teacher, tmp_path):
    save_generator(tmp_path / "it", teacher, teacher.network, GenerationConfig(), {"name": "fashion"}, "# card")
    return tmp_path / "it"


def put(*path, value):
    """A change of `config.json`: the value at a path of keys."""

    def change(config):
        node = config
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


def drop(*path):
    def change(config):
        node = config
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]

    return change


NETWORK = ("architecture", "network")
VARIANTS = [
    (put(*NETWORK, "depth", value=2**40), "depth"),
    (put(*NETWORK, "depth", value=-1), "depth"),
    (put(*NETWORK, "depth", value=0), "depth"),
    (put(*NETWORK, "depth", value=255), "does not fit FashionTeacher"),
    (put(*NETWORK, "depth", value=True), "depth"),
    (put(*NETWORK, "depth", value="1"), "depth"),
    (put(*NETWORK, "depth", value=1.0), "depth"),
    (put(*NETWORK, "width", value=-8), "width"),
    (put(*NETWORK, "width", value=10**9), "width"),
    (put(*NETWORK, "width", value=65_536), "does not fit FashionTeacher"),
    (put(*NETWORK, "num_heads", value=5), "num_heads 5 does not divide the width 24"),
    (put(*NETWORK, "num_heads", value=0), "num_heads"),
    (put(*NETWORK, "mlp_width", value=None), "mlp_width"),
    (put(*NETWORK, "mlp_width", value=65_536), "does not fit"),
    (put(*NETWORK, "seq_len", value=63), r"seq_len must be 64"),
    (put(*NETWORK, "codebook_size", value=13), "scores 13 codes, the tokenizer holds 12"),
    (put(*NETWORK, "codebook_size", value=2**20), "codes"),
    (put(*NETWORK, "num_classes", value=2**20), "does not fit"),
    (put(*NETWORK, "dropout", value=2), "dropout"),
    (put(*NETWORK, "extra", value=1), "unknown key 'extra'"),
    (put(*NETWORK, value=[]), "network"),
    (put(*NETWORK, value="x" * 10**6), "network"),
    (drop(*NETWORK), "network"),
    (drop("architecture", "tokenizer"), "tokenizer"),
    (put("architecture", "tokenizer", "widths", value=[8, 8]), "widths"),
    (put("architecture", "tokenizer", "widths", value=[9, 8, 8]), "widths"),
    (put("architecture", "tokenizer", "code_dim", value=0), "code_dim"),
    (put("architecture", "name", value="../fashion"), "unknown teacher"),
    (put("architecture", "name", value=["fashion"]), "unknown teacher"),
    (put("architecture", "name", value="maskgit"), "maskgit|unknown key|tokenizer"),
    (put("architecture", value=[]), "architecture"),
    (put("architecture", value=None), "architecture"),
    (put("generation", value=[]), "generation"),
    (put("generation", value=None), "generation"),
    (put("generation", "temperature", value=0), "temperature"),
    (put("generation", "temperature", value=1e300), "temperature"),
    (put("generation", "init_mask_ratio", value=-1), "init_mask_ratio"),
    (put("generation", "init_mask_ratio", value=1e-320), "init_mask_ratio"),
    (put("generation", "embedding_noise", value="0"), "embedding_noise"),
    (put("generation", "extra", value=0), "unknown key 'extra'"),
    (put("teacher", value=3), "teacher"),
    (put("format_version", value=2), "was written by a newer fpd: its format_version is 2, this one reads up to 1"),
    (put("format_version", value=10**30), "newer fpd"),
    (put("format_version", value=0), "format_version"),
    (put("format_version", value=-1), "format_version"),
    (put("format_version", value="1"), "format_version must be a whole number"),
    (put("format_version", value=True), "format_version must be a whole number"),
    (put("format_version", value=1.0), "format_version must be a whole number"),
    (put("format_version", value=None), "format_version must be a whole number"),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("change", "message"), VARIANTS)
def test_hostile_configs_of_a_student(student, change, message):
    config = json.loads((student / "config.json").read_text())
    change(config)
    (student / "config.json").write_text(json.dumps(config))
    began = time.process_time()
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        load_generator(student)
    assert time.process_time() - began < 5
    assert str(student) in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "found a list"),
        (b"null", "found null"),
        (b"3", "found a number"),
        (b"[" * 100_000, "JSON_DEPTH"),
        (b'{"format_version": 1, "format_version": 1}', "twice"),
        (b'{"generation": {"temperature": NaN}}', "nan"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "not valid JSON"),
        (b"{}", "lacks architecture, generation, teacher"),
    ],
)
def test_config_files_that_hold_no_student(student, content, message):
    (student / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(student)
    assert str(student) in str(caught.value)


@pytest.mark.parametrize(
    "load", [load_classifier, load_tokenizer, lambda f: load_teacher({"name": "fashion", "path": f})]
)
def test_a_folder_of_another_kind(tmp_path, load):
    save_folder(tmp_path / "it", {"something": {}}, {"a": torch.zeros(1)}, "")
    with pytest.raises(CheckpointError, match=r"it is of another kind: config\.json holds no section"):
        load(tmp_path / "it")


@pytest.mark.parametrize("load", [load_generator, load_classifier, load_tokenizer])
@pytest.mark.parametrize("target", ["/dev/zero", "/"])
def test_weights_that_are_no_file(student, load, target):
    sections = {key: {} for key in ("architecture", "generation", "teacher", "classifier", "tokenizer")}
    (student / "config.json").write_text(json.dumps(sections))
    for name in ("model.safetensors", "config.json"):
        (student / name).unlink()
        (student / name).symlink_to(target)
        with pytest.raises(CheckpointError, match=rf"{name} is a (device|folder), not a file"):
            load(student)


def test_equal_students_are_equal_bytes(tmp_path):
    """Twenty times, because the order of entries in a file's metadata is that of a hash map."""
    for run in range(20):
        save_folder(tmp_path / str(run), {"a": {}}, {name: torch.ones(3) for name in "cab"}, "card")
    for name in ("model.safetensors", "config.json", "README.md"):
        assert len({(tmp_path / str(run) / name).read_bytes() for run in range(20)}) == 1


def test_students_with_the_earlier_metadata_still_load(student):
    tensors = load_file(student / "model.safetensors")
    save_file(tensors, student / "model.safetensors", metadata={"format": "pt", "format_version": "1"})
    assert load_generator(student).generate(0).shape == (1, 3, 32, 32)


def test_nothing_is_left_of_a_save_that_fails(student, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def held():
        return {path: path.read_bytes() for path in student.rglob("*") if path.is_file()}

    before = held()
    monkeypatch.setattr("fpd_core.checkpoints.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_folder(student, {}, {"a": torch.zeros(1)}, "")
    assert held() == before


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


STATE = {"a.weight": torch.arange(12.0).view(4, 3), "b": torch.arange(5), "c": torch.nn.Parameter(torch.ones(2))}


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", [lambda x: x, lambda x: {**STATE, "x": x}, lambda x: {"state_dict": STATE, "x": [x]}])
def test_pickles_run_nothing(tmp_path, legacy, place):
    mark = tmp_path / MARK
    content = saved(place(Attack(mark)), _use_new_zipfile_serialization=not legacy)
    (tmp_path / "it.pt").write_bytes(content)
    try:
        state = read_public(tmp_path / "it.pt")
    except CheckpointError as error:
        assert "it.pt" in str(error)  # noqa: PT017  (some places leave a usable state dict, others do not)
    else:
        assert state.keys() == STATE.keys()
    assert not mark.exists()
    pickle.loads(pickle.dumps(Attack(mark)))  # the attack is one
    assert mark.exists()


def rezipped(content, method=zipfile.ZIP_STORED, change=lambda name, data: data):
    """A torch file's records in a new archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no weight file that fpd knows"),
        (b"PK\x03\x04", "is damaged"),
        (saved(STATE)[:400], "is damaged"),
        (rezipped(saved(STATE), zipfile.ZIP_DEFLATED), "holds compressed records"),
        (saved([STATE]), "holds no state dict"),
        (saved({}), "holds no state dict"),
        (saved({1: torch.zeros(1), ("a",) * 3: 2}), "a int as key, a tuple as key: not tensors"),
        (struct.pack("<Q", 2**62) + b"{}", "is damaged"),
        (struct.pack("<Q", 2) + b"{" * 100, "is damaged"),
        (struct.pack("<Q", 60_000) + b'{"a":' * 12_000, "is damaged"),
        (save(STATE)[:-1], "is damaged"),
    ],
)
def test_hostile_weight_files(tmp_path, content, message):
    (tmp_path / "it.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"it\.pt.*{message}") as caught:
        read_public(tmp_path / "it.pt")
    assert len(str(caught.value)) < 700


FILES = {
    "zip": saved(STATE),
    "lightning": saved({"state_dict": STATE, "hyper": random.Random(0), "steps": {"lr": [1, 2]}}),
    "legacy": saved(STATE, _use_new_zipfile_serialization=False),
    "safetensors": save(STATE),
}


@pytest.mark.fuzz
@pytest.mark.parametrize("inside", [False, True], ids=["file", "pickle"])
@pytest.mark.parametrize("kind", FILES)
def test_damaged_weight_files(tmp_path, kind, inside, cases, damaged):
    """Random damage to the file, or to the pickle inside an intact archive: a state dict or a CheckpointError."""
    path, rng, messages = tmp_path / "it.pt", random.Random(f"{kind} {inside}"), []
    for _ in range(cases(150)):
        if inside and kind in ("zip", "lightning"):
            content = rezipped(FILES[kind], change=lambda n, data: damaged(data, rng) if n.endswith(".pkl") else data)
        else:
            content = damaged(FILES[kind], rng)
        path.write_bytes(content)
        try:
            read_public(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert messages
    assert all("it.pt" in message and "\n" not in message for message in messages)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_students(student, name, cases, damaged):
    """Bit flips and cuts in a student's files: it loads or it is refused by a sentence that names the folder."""
    whole, rng, messages = (student / name).read_bytes(), random.Random(name), []
    for _ in range(cases(150)):
        content = damaged(whole, rng) if name == "config.json" else damaged(whole[:2000], rng) + whole[2000:]
        (student / name).write_bytes(content)
        try:
            load_generator(student)
        except (CheckpointError, ConfigError) as error:
            messages.append(str(error))
    assert messages
    assert all(re.search("it", message) and str(student) in message for message in messages)


NUMBERS = [0, -1, 1, 2, 7, 2**40, 10**30, 1e-320, 1e308, 0.5]
HOSTILE = [*NUMBERS, True, None, "", "x" * 5000, "fashion", [], {}, [1, 2, 3], {"a": 1}]


def paths_of(tree, path=()):
    yield path
    if isinstance(tree, dict):
        for key, child in tree.items():
            yield from paths_of(child, (*path, key))
    if isinstance(tree, list):
        for index, child in enumerate(tree):
            yield from paths_of(child, (*path, index))


@pytest.mark.fuzz
@pytest.mark.timeout(600)
def test_changed_configs_of_a_student(student, cases):
    """Any value at any place of `config.json`."""
    base, rng, messages, slowest = json.loads((student / "config.json").read_text()), random.Random(0), [], 0.0
    places = [path for path in paths_of(base) if path]
    for _ in range(cases(400)):
        config = json.loads(json.dumps(base))
        place = rng.choice(places)
        node = config
        for key in place[:-1]:
            node = node[key]
        node[place[-1] if rng.random() < 0.9 or isinstance(node, list) else "extra"] = rng.choice(HOSTILE)
        (student / "config.json").write_text(json.dumps(config))
        began = time.process_time()
        try:
            load_generator(student)
        except (CheckpointError, ConfigError) as error:
            messages.append(str(error))
        slowest = max(slowest, time.process_time() - began)
    assert messages
    assert all(str(student) in message for message in messages)
    assert slowest < 2
