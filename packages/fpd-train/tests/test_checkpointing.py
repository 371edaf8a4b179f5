"""The checkpoint folder: which checkpoint is taken, which are kept, what a damaged or foreign file does."""

import hashlib
import json
import os
import pickle
import shutil

import pytest
import torch
from torch import distributed as dist
from torch import nn

from fpd_train.checkpointing import Checkpoints, Layout
from fpd_train.ema import Ema, EmaConfig
from fpd_train.engine import _TensorFiles


@pytest.fixture(scope="module", autouse=True)
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class PlainEngine:
    """An engine without DeepSpeed that keeps one number in the file format of the real one."""

    def __init__(self):
        self.value, self._files = 0.0, _TensorFiles()

    def save(self, folder):
        folder.mkdir()
        self._files.create(None)
        self._files.save({"value": torch.tensor(self.value)}, str(folder / "states.pt"))
        if self._files.error:
            raise self._files.error
        return self._files.written

    def read(self, folder):
        self._files.read(folder / "states.pt")

    def load(self, folder):
        self.value = float(self._files.load(str(folder / "states.pt"))["value"])


@pytest.fixture
def run(tmp_path):
    """`run(keep)` is a checkpoint folder with an engine and an average whose numbers are set before each save."""

    class Run:
        def __init__(self, keep=2):
            self.folder = tmp_path / "checkpoints"
            self.checkpoints = Checkpoints(self.folder, keep, Layout(1, 1, 8))
            self.engines, self.emas = {"student": PlainEngine()}, {"student": Ema(nn.Linear(3, 2), EmaConfig())}

        def save(self, *steps):
            for step in steps:
                self.engines["student"].value = float(step)
                self.emas["student"].module.weight.data.fill_(step)
                state = {"student": step}, self.engines, self.emas
                remarks = self.checkpoints.save(step, *state, images_seen=8 * step)
            return remarks

        def resume(self, named=None):
            """What a new process takes: step, remarks."""
            fresh = Run()
            step, remarks = fresh.checkpoints.choose(named)
            if step is not None:
                state, remark = fresh.checkpoints.restore(step, fresh.engines, fresh.emas)
                assert (state.updates, state.images_seen, remark) == ({"student": step}, 8 * step, None)
                assert fresh.engines["student"].value == step
                assert bool((fresh.emas["student"].module.weight == step).all())
            return step, " | ".join(remarks)

        def names(self):
            return sorted(path.name for path in self.folder.iterdir())

    return Run


def test_steps_are_ordered_as_numbers(run):
    million = run(keep=2)
    million.save(999_998, 999_999, 1_000_000, 1_000_001)
    assert million.names() == ["latest", "step_1000000", "step_1000001"]
    assert million.resume() == (1_000_001, "")


@pytest.mark.parametrize("keep", [1, 2])
def test_a_leftover_ahead_of_the_run_is_removed_aloud_and_the_new_checkpoint_stays(run, keep):
    ahead = run(keep)
    ahead.save(7, 900)
    shutil.copytree(ahead.folder / "step_000900", ahead.folder / "step_10000000")
    remarks = ahead.save(8)
    assert f"step_{8:06d}" in ahead.names()
    assert "step_10000000" not in ahead.names()
    assert any("step_10000000, which was ahead of step 8" in remark for remark in remarks)
    assert ahead.resume()[0] == 8


def test_an_empty_folder_starts_from_the_beginning(run):
    assert run().checkpoints.choose(None) == (None, [])


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


FILES = ["state.json", "student.ema.safetensors", "student/states.pt", "manifest.json"]


def rewrite_manifest(folder):
    """What an attacker does who knows the format: the manifest and the pointer vouch for the new content."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        content = (folder / entry["path"]).read_bytes()
        entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(manifest)
    (folder / "manifest.json").write_text(text)
    (folder.parent / "latest").write_text(f"{folder.name}\n{hashlib.sha256(text.encode()).hexdigest()}\n")


@pytest.mark.parametrize("file", FILES)
def test_one_flipped_bit_falls_back_to_the_previous_checkpoint_aloud(run, file):
    pair = run(keep=3)
    pair.save(4, 5, 6)
    flip_bit(pair.folder / "step_000006" / file)
    step, remarks = pair.resume()
    assert step == 5
    assert f"step_000006/{file}" in remarks
    assert "step_000005 is taken instead" in remarks


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "student/states.pt").unlink(), "student/states.pt is missing"),
        (lambda folder: (folder / "student/mp_rank_01.pt").touch(), "mp_rank_01.pt is not in the manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json, so nothing vouches"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "its checksum differs"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 10**5), "its checksum differs"),
        (lambda folder: shutil.rmtree(folder), "step_000006"),
        (lambda folder: (folder / "state.json").write_bytes(b""), "state.json is damaged"),
    ],
)
def test_none_whole_is_an_error_and_never_a_start_from_zero(run, damage, message):
    single = run(keep=1)
    single.save(6)
    damage(single.folder / "step_000006")
    with pytest.raises(ValueError, match="is whole") as raised:
        single.resume()
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("pointer", "said"),
    [
        (None, "latest is missing"),
        (b"", "latest is damaged"),
        (b"\xff\xfe\x00", "latest is damaged"),
        (b"../../elsewhere", "latest is damaged: it does not name a checkpoint"),
        (b"step_000009", "step_000009"),
        (b"step_000006 " + b"0" * 64, "manifest.json is not the one that was written"),
    ],
)
def test_a_missing_or_damaged_pointer_is_answered_by_a_search_aloud(run, pointer, said):
    pair = run()
    pair.save(5, 6)
    if pointer is None:
        (pair.folder / "latest").unlink()
    else:
        (pair.folder / "latest").write_bytes(pointer)
    step, remarks = pair.resume()
    assert step == (5 if pointer and b"0000000" in pointer else 6)
    assert said in remarks


def test_a_checkpoint_without_manifest_is_taken_when_named(run):
    pair = run()
    pair.save(5, 6)
    (pair.folder / "step_000005/manifest.json").unlink()
    assert pair.resume("step_000005")[0] == 5
    with pytest.raises(ValueError, match="holds no checkpoint 'step_5'; there are: step_000006, step_000005"):
        pair.resume("step_5")


class Payload:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("named", [None, "step_000006"])
def test_code_in_a_checkpoint_is_not_run_whatever_the_manifest_says(run, tmp_path, named, zipped):
    single = run(keep=1)
    single.save(6)
    content = {"value": torch.tensor(6.0), "more": [Payload(tmp_path / "ran")]}
    folder = single.folder / "step_000006"
    torch.save(content, folder / "student/states.pt", _use_new_zipfile_serialization=zipped)
    rewrite_manifest(folder)
    if named:
        (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"states\.pt cannot be resumed from: .*more than tensors"):
        single.resume(named)
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_is_not_run_either(run, tmp_path):
    single = run(keep=1)
    single.save(6)
    for name in ("student/states.pt", "student.ema.safetensors", "state.json"):
        other = single.folder / "step_000006" / name
        before = other.read_bytes()
        other.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
        rewrite_manifest(single.folder / "step_000006")
        with pytest.raises(ValueError, match=name):
            single.resume()
        other.write_bytes(before)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("path", ["../step_000005/state.json", "/etc/hostname"])
def test_a_manifest_stays_inside_its_folder(run, path):
    single = run(keep=2)
    single.save(5, 6)
    folder = single.folder / "step_000006"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"].append(manifest["files"][0] | {"path": path})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (single.folder / "latest").unlink()
    assert single.resume()[0] == 5


def test_a_link_in_a_checkpoint_is_refused(run, tmp_path):
    pair = run()
    pair.save(5, 6)
    file = pair.folder / "step_000006/student/states.pt"
    file.rename(tmp_path / "elsewhere.pt")
    file.symlink_to(tmp_path / "elsewhere.pt")
    step, remarks = pair.resume()
    assert step == 5
    assert "is not a plain file" in remarks


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_and_keeps_the_old_one(run, monkeypatch):
    pair = run()
    pair.save(5)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fpd_train.checkpointing.safetensors.torch.save", full)
    with pytest.raises(OSError, match="No space left"):
        pair.save(6)
    assert pair.names() == ["latest", "step_000005"]
    assert str(pair.checkpoints) == "the last checkpoint is step 5"
    assert pair.resume() == (5, "")
