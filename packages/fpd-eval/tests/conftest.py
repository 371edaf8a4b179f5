"""A small world of its own for fpd-eval: fake systems and extractors, real files, no trained weights."""

import base64
import gzip
import io
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_core.checkpoints import save_folder
from fpd_core.generator import GenerationConfig, save_generator
from fpd_core.networks.classifier import Classifier, ClassifierConfig
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.vq_tokenizer import VqTokenizer, VqTokenizerConfig
from fpd_core.teachers.fashion import FashionTeacher
from fpd_eval.bench.curves import Curve
from fpd_eval.bench.rows import Reference, Results, Row
from fpd_eval.cli import main
from fpd_eval.extractors import EXTRACTORS, load_extractor
from fpd_eval.protocols import PROTOCOLS
from fpd_eval.runtime.cache import Cache
from fpd_eval.runtime.machine import this_machine
from fpd_eval.systems.system import GeneratingSystem


@pytest.fixture(scope="session")
def write_idx():
    """Writes a gzipped IDX file of unsigned bytes."""

    def write(path, array):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))

    return write


@pytest.fixture
def protocol(tmp_path, write_idx):
    """Three classes, 24 generated and 30 real images."""
    random = np.random.default_rng(0)
    write_idx(tmp_path / "images.gz", random.integers(0, 256, size=(30, 28, 28)))
    write_idx(tmp_path / "labels.gz", np.arange(30) % 3)
    small = PROTOCOLS["small"]
    return small.model_copy(
        update={
            "metrics": small.compared,
            "num_images": 24,
            "class_names": ("ankle", "bag", "coat"),
            "batch_size": 10,
            "inception_splits": 2,
            "reference": tmp_path / "images.gz",
            "reference_labels": tmp_path / "labels.gz",
            "timing_batch_size": 2,
            "timing_repeats": 1,
        }
    )


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


class NoiseSystem(GeneratingSystem):
    """Images of seeded noise whose brightness tells the class; counts its calls."""

    name, role, steps, network_evaluations, num_classes = "noise", "student", 1, 1, 3

    def __init__(self, fingerprint="noise"):
        self.fingerprint, self.settings, self.calls = fingerprint, {"temperature": 1.0}, []

    def images(self, condition, *, seed):
        self.calls.append((condition.labels.tolist(), seed))
        noise = torch.rand(len(condition), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        return noise * 0.5 + condition.labels.view(-1, 1, 1, 1) / 6


class PoolExtractor:
    """Mean colours as features and a brightness classifier, in place of both networks."""

    def __init__(self, fingerprint):
        self.fingerprint, self.calls = fingerprint, 0

    def __call__(self, pixels):
        self.calls += 1
        features = torch.nn.functional.adaptive_avg_pool2d(pixels[:, :1].float() / 255, 2).flatten(1)
        level = features.mean(1, keepdim=True)
        centres = torch.tensor([[0.25, 0.25 + 1 / 6, 0.25 + 2 / 6]])
        return {"features": features, "logits": -100 * (level - centres).abs()}


@pytest.fixture
def small_world(protocol, cache, monkeypatch):
    """`open_bench` without trained weights: system class, extractors, protocol and cache."""
    extractors = {name: PoolExtractor(name) for name in ("classifier", "efficientnet_lite0")}
    monkeypatch.setattr(
        "fpd_eval.bench.bench.load_extractor", lambda name, *rest: extractors.get(name) or load_extractor(name, *rest)
    )
    return SimpleNamespace(
        system=NoiseSystem, extractors=extractors, protocol=protocol, cache=cache, plan=protocol.plan(3)
    )


def png_strip(columns):
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32 * columns, 3), 90, np.uint8)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def make_row(name, role, steps, fd):
    values = {"fd_classifier": fd, "fd_efficientnet": 2 * fd, "inception_score": 8.0 + 1 / fd, "precision": 0.75}
    values |= {"inception_score_std": 0.1, "recall": 1 / fd, "density": 0.9, "coverage": 0.8, "class_accuracy": 0.954}
    evaluations = 2 * steps if role == "teacher" else 1
    return Row(
        name=name,
        role=role,
        steps=steps,
        network_evaluations=evaluations,
        settings={"temperature": 1.0},
        ms_per_image=1.25 * evaluations,
        values=values,
        samples=png_strip(10),
    )


@pytest.fixture
def results():
    """A finished comparison with a hostile student name."""
    rows = [make_row("teacher", "teacher", steps, 40.5 / steps) for steps in (1, 2, 8)]
    rows += [make_row("untrained", "untrained", 1, 77.25), make_row("<script>alert(1)|*</script>", "student", 1, 6.125)]
    return Results(
        protocol=PROTOCOLS["small"],
        machine=this_machine(torch.device("cpu")),
        reference=Reference(
            num_images=10000, values={"inception_score": 9.5, "class_accuracy": 0.93}, samples=png_strip(10)
        ),
        rows=tuple(rows),
        curves=(Curve(panel="Loss", name="loss", steps=(0, 1, 2), values=(3.0, 2.0, 1.5)),),
    )


def tiny_teacher():
    network = MaskGitConfig(
        codebook_size=12, num_classes=10, seq_len=64, width=16, depth=1, num_heads=2, mlp_width=16, dropout=0.0
    )
    tokenizer = VqTokenizerConfig(codebook_size=12, code_dim=4, widths=(8, 8, 8))
    return FashionTeacher(MaskGit(network), VqTokenizer(tokenizer))


@pytest.fixture(scope="session")
def world(tmp_path_factory, write_idx):
    """A working folder with teacher, student, classifier and 40 reference images, all random."""
    folder = tmp_path_factory.mktemp("world")
    assets = folder / "assets" / "fashion"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = tiny_teacher()
        classifier = Classifier(ClassifierConfig(widths=(4, 4, 4), feature_dim=6))
    save_folder(assets / "teacher", {"architecture": teacher.architecture()}, teacher.state_dict(), "card")
    classes = {"classifier": classifier.config.model_dump()}
    save_folder(assets / "classifier", classes, classifier.state_dict(), "card")
    student = folder / "runs" / "tiny" / "student"
    save_generator(student, teacher, teacher.network, GenerationConfig(), {"name": "fashion"}, "card")
    (student.parent / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    (assets / "data").mkdir()
    random = np.random.default_rng(0)
    write_idx(assets / "data" / "t10k-images-idx3-ubyte.gz", random.integers(0, 256, size=(40, 28, 28)))
    write_idx(assets / "data" / "t10k-labels-idx1-ubyte.gz", np.arange(40) % 10)
    return folder


@pytest.fixture
def run(world, monkeypatch, capsys):
    """Runs `fpd-eval` in the working folder: (exit code, stdout, stderr).

    The classifier stands in for EfficientNet: distances in 1280 dimensions take seconds.
    """
    monkeypatch.chdir(world)
    monkeypatch.setitem(EXTRACTORS, "efficientnet_lite0", EXTRACTORS["classifier"])

    def run(*argv):
        with pytest.raises(SystemExit) as exit_info:
            main(argv)
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run
