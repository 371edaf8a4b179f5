"""Students by `owner/name`, against a hub of our own on localhost: down, up, and one sentence for every refusal."""

import runpy
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard, constants
from local_hub import LocalHub, point_client_at

from fpd_core import load_generator
from fpd_core.checkpoints import CheckpointError
from fpd_core.generator import GenerationConfig, Generator, save_generator
from fpd_core.hub import is_repository

NAME = "someone/fashion-student"


@pytest.fixture
def student(teacher, tmp_path):
    save_generator(tmp_path / "made", teacher, teacher.network, GenerationConfig(), {"name": "fashion"}, "# card")
    return tmp_path / "made"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with LocalHub() as hub:
        point_client_at(hub.url, monkeypatch, tmp_path / "cache")
        monkeypatch.chdir(tmp_path)
        yield hub


def test_a_repository_draws_what_its_folder_draws_and_its_code_is_never_fetched(hub, student):
    hub.commit_folder(NAME, student)
    expected = load_generator(student).generate([0, 2], seed=3)
    assert torch.equal(load_generator(NAME).generate([0, 2], seed=3), expected)
    fetched = {path.rpartition("/")[2] for method, path in hub.requests if method == "GET" and "/resolve/" in path}
    assert fetched == {"config.json", "model.safetensors", "README.md"}


def test_a_revision_is_a_branch_or_a_commit(hub, student, teacher, tmp_path):
    first = hub.commit_folder(NAME, student)
    hot = GenerationConfig(temperature=7.0)
    save_generator(tmp_path / "hot", teacher, teacher.network, hot, {"name": "fashion"}, "# card")
    hub.commit_folder(NAME, tmp_path / "hot", branch="hot")
    hub.commit_folder(NAME, tmp_path / "hot")
    assert load_generator(NAME).generation.temperature == 7
    assert load_generator(NAME, revision="hot").generation.temperature == 7
    assert load_generator(NAME, revision=first).generation.temperature == 1


def test_what_was_fetched_opens_without_a_network(hub, student, monkeypatch):
    hub.commit_folder(NAME, student)
    load_generator(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert load_generator(NAME).generate(0).shape == (1, 3, 32, 32)
    assert hub.requests == []


def test_a_folder_of_that_name_comes_first(hub, student, tmp_path):
    student.parent.joinpath("someone").mkdir()
    student.rename(tmp_path / NAME)
    load_generator(NAME)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("absent", "no such folder here and no public repository"),
        ("gated", "licence has to be accepted: open http"),
        ("revision", "has no revision 'v9'"),
        ("offline", "no connection, and it was not fetched before"),
        ("other", "is no exported student: it holds no config.json"),
    ],
)
def test_every_refusal_is_one_sentence(hub, student, tmp_path, monkeypatch, case, said):
    if case == "other":
        hub.commit(NAME, {"README.md": b"# a data set"})
    elif case != "absent":
        hub.commit_folder(NAME, student)
    if case == "gated":
        hub.gated.add(NAME)
    if case == "offline":
        point_client_at("http://127.0.0.1:1", monkeypatch, tmp_path / "cache")
    with pytest.raises(CheckpointError, match=said) as refusal:
        load_generator(NAME, revision="v9" if case == "revision" else None)
    assert NAME in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_path_is_never_asked_for_on_the_hub(hub, tmp_path):
    (tmp_path / "runs").mkdir()
    for wanted in (tmp_path / "absent", "absent", "runs/studnet", "a/b/c", "./a/b", "../a"):
        assert not is_repository(wanted)
        with pytest.raises(CheckpointError, match="not a weight folder"):
            load_generator(wanted)
    with pytest.raises(ValueError, match="revision 'v1' is of a repository on the hub"):
        load_generator(tmp_path / "absent", revision="v1")
    assert hub.requests == []


def test_pushed_is_what_was_opened_and_the_card_comes_along(hub, student):
    address = load_generator(student).push_to_hub("me/pushed", private=True)
    assert address == f"{hub.url}/me/pushed"
    pushed = hub.files("me/pushed")
    for name in ("config.json", "model.safetensors", "README.md", "pipeline.py", "model_index.json"):
        assert pushed[name] == (student / name).read_bytes()
    assert torch.equal(load_generator("me/pushed").generate(1, seed=4), load_generator(student).generate(1, seed=4))


def test_what_was_changed_in_memory_is_pushed_changed_and_in_full_precision(hub, student, teacher):
    load_generator(student).sampled(temperature=3.0).push_to_hub("me/warm", revision="warm")
    assert load_generator("me/warm", revision="warm").generation.temperature == 3
    untrained = Generator.untrained(teacher, GenerationConfig())  # weights that float16 does not hold
    untrained.push_to_hub("me/untrained")
    assert torch.equal(load_generator("me/untrained").generate(1), untrained.generate(1))
    assert ModelCard(hub.files("me/untrained")["README.md"].decode()).data.license == "other"


def test_pushing_without_a_network_is_one_sentence(hub, student, tmp_path, monkeypatch):
    point_client_at("http://127.0.0.1:1", monkeypatch, tmp_path / "cache")
    with pytest.raises(CheckpointError, match="cannot push to me/x of the hub: no connection"):
        load_generator(student).push_to_hub("me/x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_draw_float32_images(student, dtype):
    generator = load_generator(student, device="cpu", dtype=dtype)
    assert {value.dtype for value in generator.model.state_dict().values() if value.is_floating_point()} == {dtype}
    images = generator.generate([0, 1], seed=2)
    assert images.dtype == torch.float32
    assert images.isfinite().all()


def test_other_dtypes_are_refused(student):
    with pytest.raises(ValueError, match=r"dtype must be one of torch\.float32"):
        load_generator(student, dtype=torch.int8)


def test_loading_runs_no_code_of_the_folder(student, tmp_path):
    mark = tmp_path / "ran"
    for name in ("pipeline", "__init__", "scheduler/scheduler_code", "student/student_code", "sitecustomize", "config"):
        (student / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    load_generator(student).generate(0)
    assert not mark.exists()
    runpy.run_path(str(student / "pipeline.py"))  # so the trap is a trap
    assert mark.exists()


def test_the_command_takes_a_name(hub, student, tmp_path):
    hub.commit_folder(NAME, student)
    program = "from fpd_core.generate_cli import main; main()"
    arguments = ("--ckpt", NAME, "--class", "1", "--n", "2", "--out", str(tmp_path / "out"))
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "PATH": "",
        "PYTHONPATH": ":".join(sys.path),
    }
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2


def test_diffusers_opens_a_repository_by_its_name(hub, student):
    hub.commit_folder(NAME, student)
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        NAME, custom_pipeline=NAME, trust_remote_code=True, cache_dir=constants.HF_HUB_CACHE
    )
    drawn = pipe(class_labels=[0, 2], generator=torch.Generator().manual_seed(3), output_type="pt").images
    assert torch.equal(drawn, load_generator(student).generate([0, 2], seed=3))
