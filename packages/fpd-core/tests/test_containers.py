"""Published files: every container opens, nothing in them runs, and what does not fit is explained."""

import collections
import datetime
import enum
import functools
import os
import pickle
import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fpd_core.checkpoints import CheckpointError
from fpd_core.containers import load_public, read_public
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig

SIZES = MaskGitConfig(codebook_size=7, num_classes=3, seq_len=5, width=8, depth=2, num_heads=2, mlp_width=12)


class Toy(nn.Module):
    """Has integers in its state dict, too."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(4, 3)
        self.norm = nn.BatchNorm1d(3)


class Tied(Toy):
    PUBLIC_ALIASES = {"head.weight": "embeddings.weight"}  # noqa: RUF012


class WithLoss(Toy):
    IGNORED_PREFIXES = ("loss.",)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MaskGit(SIZES)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def save_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


CONTAINERS = {
    "bare.pth": (torch.save, lambda state: state),
    "bare.bin": (torch.save, lambda state: collections.OrderedDict(state)),
    "maskgit.pth": (
        torch.save,
        lambda state: {"iter": 3, "model_state_dict": state, "optimizer_state_dict": {"state": {0: torch.ones(2)}}},
    ),
    "lightning.ckpt": (torch.save, lambda state: {"epoch": 1, "state_dict": state, "callbacks": {}}),
    "ddp.pth": (torch.save, lambda state: {"model_state_dict": {f"module.{k}": v for k, v in state.items()}}),
    "parameters.pth": (torch.save, lambda state: {k: nn.Parameter(v) for k, v in state.items()}),
    "protocol4.pth": (lambda content, path: torch.save(content, path, pickle_protocol=4), lambda state: state),
    "legacy.pth": (save_legacy, lambda state: {"state_dict": state, "epoch": 2}),
    "model.safetensors": (save_file, lambda state: state),
    "renamed.pth": (save_file, lambda state: {f"module.{k}": v for k, v in state.items()}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_back_the_same_tensors(network, tmp_path, name):
    save, wrap = CONTAINERS[name]
    save(wrap(network.state_dict()), tmp_path / name)
    assert equal(read_public(tmp_path / name), network.state_dict())
    torch.manual_seed(1)
    other = MaskGit(SIZES)
    load_public(other, tmp_path / name)
    assert equal(other.state_dict(), network.state_dict())


def test_loaded_weights_do_not_change_with_the_file(network, tmp_path):
    """Zip files are mapped into memory; the network must own its weights."""
    path = tmp_path / "w.pth"
    torch.save(network.state_dict(), path)
    load_public(network, path)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    path.write_bytes(b"\0" * path.stat().st_size)
    assert equal(network.state_dict(), before)


# --- nothing runs ---


class Evil:
    """Runs a shell command when unpickled."""

    def __init__(self, witness):
        self.command = f"touch {witness}"

    def __reduce__(self):
        return os.system, (self.command,)


class EvilState:
    """Unpickles through __setstate__ of an importable class."""

    def __setstate__(self, state):
        raise AssertionError("__setstate__ of a foreign class ran")


def foreign_module():
    """Classes of a package that will not be importable when the file is read."""
    module = types.ModuleType("absent_lightning.callbacks")

    class ModelCheckpoint:
        pass

    class AttributeDict(dict):
        pass

    class Mode(enum.Enum):
        MIN = "min"

    for cls in (ModelCheckpoint, AttributeDict, Mode):
        cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
        setattr(module, cls.__name__, cls)
    return module


@pytest.mark.parametrize("protocol", [2, 4])
def test_classes_that_cannot_be_imported_do_not_matter(network, tmp_path, monkeypatch, protocol):
    module = foreign_module()
    monkeypatch.setitem(sys.modules, "absent_lightning", types.ModuleType("absent_lightning"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    content = {
        "callbacks": {module.ModelCheckpoint: {"best": module.ModelCheckpoint(), "mode": module.Mode.MIN}},
        "hyper_parameters": module.AttributeDict(lr=1e-3, betas=[0.5, 0.9]),
        "stamp": [datetime.datetime(2020, 1, 2), {1, 2}, functools.partial(print, 3), collections.deque([1])],
        "state_dict": network.state_dict(),
    }
    torch.save(content, tmp_path / "old.ckpt", pickle_protocol=protocol)
    monkeypatch.delitem(sys.modules, module.__name__)
    monkeypatch.delitem(sys.modules, "absent_lightning")
    with pytest.raises(ModuleNotFoundError):
        torch.load(tmp_path / "old.ckpt", weights_only=False)
    assert equal(read_public(tmp_path / "old.ckpt"), network.state_dict())
    assert "absent_lightning" not in sys.modules


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_file_runs_nothing(network, tmp_path, protocol):
    witness, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    content = {"callbacks": [Evil(witness)], "state_dict": network.state_dict(), "more": EvilState()}
    content["more"].x = 1
    torch.save(content, path, pickle_protocol=protocol)
    assert equal(read_public(path), network.state_dict())
    assert not witness.exists()
    with pytest.raises(AssertionError, match="foreign class ran"):
        torch.load(path, weights_only=False)
    assert witness.exists()  # the file is as dangerous as it looks


def test_a_malicious_tensor_is_no_tensor(network, tmp_path):
    witness, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"weight": Evil(witness), "bias": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="weight: not tensors"):
        read_public(path)
    assert not witness.exists()


def test_a_malicious_legacy_file_is_refused_and_runs_nothing(network, tmp_path):
    witness, path = tmp_path / "ran", tmp_path / "evil.pth"
    save_legacy({"state_dict": network.state_dict(), "callbacks": Evil(witness)}, path)
    with pytest.raises(CheckpointError, match=r"torch before 1\.6 and holds more than tensors"):
        read_public(path)
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists()


def test_a_bare_pickle_is_refused_and_runs_nothing(tmp_path):
    witness, path = tmp_path / "ran", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Evil(witness)))
    with pytest.raises(CheckpointError, match="no weight file that fpd knows"):
        read_public(path)
    assert not witness.exists()


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.script(nn.Linear(2, 3)).save(str(tmp_path / "clip.pt"))
    with pytest.raises(CheckpointError, match="TorchScript program"):
        read_public(tmp_path / "clip.pt")


# --- damage ---


@pytest.mark.parametrize("name", ["bare.pth", "legacy.pth", "model.safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_download_is_named(network, tmp_path, name, share):
    save, wrap = CONTAINERS[name]
    path = tmp_path / name
    save(wrap(network.state_dict()), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged, probably a truncated download"):
        read_public(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "broken download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"garbage" * 9, "no weight file that fpd knows"),
    ],
)
def test_what_is_no_weight_file(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_public(tmp_path / "w.pth")


@pytest.mark.parametrize(("content", "message"), [([1, 2], "no state dict"), ({"epoch": 3}, "epoch: not tensors")])
def test_files_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        read_public(tmp_path / "w.pth")


def test_absent_files_and_folders(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(CheckpointError, match=path.name):
            read_public(path)


# --- aliases and ignored keys ---


def toy_file(path, **changes):
    """A file of `Toy` with tensors added, changed or, where None, left out."""
    tensors = Toy().state_dict() | changes
    torch.save({key: value for key, value in tensors.items() if value is not None}, path)


@pytest.mark.parametrize("names", ["canonical", "alias", "both"])
def test_a_tied_weight_may_come_under_either_name_or_both(tmp_path, names):
    weight = torch.arange(12.0).view(4, 3)
    stored = {
        "canonical": {"embeddings.weight": weight},
        "alias": {"embeddings.weight": None, "head.weight": weight},
        "both": {"embeddings.weight": weight, "head.weight": weight.clone()},
    }[names]
    toy_file(tmp_path / "w.pth", **stored)
    module = Tied()
    load_public(module, tmp_path / "w.pth")
    assert torch.equal(module.embeddings.weight, weight)


def test_names_of_one_tied_weight_must_agree(tmp_path):
    toy_file(tmp_path / "w.pth", **{"head.weight": torch.zeros(4, 3)})
    with pytest.raises(CheckpointError, match=r"head\.weight and embeddings\.weight are tied .* but differ"):
        load_public(Tied(), tmp_path / "w.pth")


def test_only_what_a_network_ignores_is_ignored(tmp_path):
    toy_file(tmp_path / "w.pth", **{"loss.weight": torch.ones(2)})
    load_public(WithLoss(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(loss\.weight\)"):
        load_public(Toy(), tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm.weight": None}, r"1 missing \(norm\.weight\)"),
        ({"lossless": torch.ones(1)}, r"1 unexpected \(lossless\)"),
        ({"norm.weight": torch.ones(2)}, r"norm\.weight \(2,\) instead of \(3,\)\); .* at another size"),
    ],
)
@pytest.mark.parametrize("kind", [Toy, Tied, WithLoss])
def test_the_rest_is_strict(tmp_path, kind, changes, message):
    toy_file(tmp_path / "w.pth", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_public(kind(), tmp_path / "w.pth")


# --- the likely cause ---

HALTON_V2 = ("cls_emb.weight", "tok_emb.weight", "reg_tokens.weight", "transformer.layers.0.attn.wq.weight")
OTHER_NETWORKS = {
    "a MaskGen transformer": ["embeddings.weight", "cond_pooled_proj.weight", "blocks.0.attn.to_q.weight"],
    "a TA-TiTok tokenizer": ["latent_tokens", "quantize.embedding.weight", "decoder.mask_token"],
    "a VQGAN tokenizer": ["decoder.up.0.block.0.norm1.weight", "quantize.embedding.weight"],
    "a CLIP text tower in open_clip's": ["transformer.resblocks.0.ln_1.weight", "ln_final.weight"],
    "a CLIP text tower in transformers'": ["text_model.embeddings.token_embedding.weight"],
    "a Meissonic transformer": ["single_transformer_blocks.0.attn.to_q.weight"],
    "a DINOv3 backbone in timm's": ["cls_token", "reg_token"],
    "a Halton-MaskGIT v2 transformer, which the teacher `halton` reads": HALTON_V2,
}


@pytest.mark.parametrize("family", OTHER_NETWORKS)
def test_a_file_of_another_family_is_recognised(network, tmp_path, family):
    save_file({key: torch.ones(2, 2) for key in OTHER_NETWORKS[family]}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"does not fit MaskGit.*missing.*unexpected.*the file holds .*{family}"):
        load_public(network, tmp_path / "model.safetensors")


def test_the_512_pixel_file_is_recognised(network, tmp_path):
    large = MaskGit(SIZES.model_copy(update={"seq_len": 1024}))
    torch.save({"model_state_dict": large.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"1025 positions instead of 6.*512-pixel model.*MaskGIT_ImageNet_256"):
        load_public(network, tmp_path / "w.pth")


def test_a_wrong_number_of_heads_leaves_no_trace(network, tmp_path):
    """Why the head count is part of the config and no check on load can replace it."""
    torch.save(network.state_dict(), tmp_path / "w.pth")
    load_public(MaskGit(SIZES.model_copy(update={"num_heads": 4})), tmp_path / "w.pth")
