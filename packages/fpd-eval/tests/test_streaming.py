"""Ranks, kills and saved images change no number: everything depends on the index of an image and the seed alone."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_eval.bench.features import features
from fpd_eval.cli import main
from fpd_eval.extractors import EXTRACTORS
from fpd_eval.images.image_files import folder_images, saved_images
from fpd_eval.images.plan import ClassPlan as Plan
from fpd_eval.runtime.cache import Cache
from fpd_eval.runtime.progress import silent
from fpd_eval.runtime.ranks import ALONE, Ranks

METRICS = ("metrics", "--protocol", "small", "--ckpt", "runs/tiny/student", "--num-images", "70", "--json")
OPTIONS = (*METRICS, "--generate-batch", "10", "--only", "fd_classifier", "--only", "is", "--only", "prc")
SLOW = """
import sys, time
from pathlib import Path
from fpd_eval.systems import student as systems

make = systems.StudentSystem.images

def slow(self, condition, *, seed):
    time.sleep(0.4)
    images = make(self, condition, seed=seed)
    with Path("made").open("a") as log:
        log.write(f"{seed}\\n")
    return images

systems.StudentSystem.images = slow
from fpd_eval.cli import main
main(sys.argv[1:])
"""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def numbers(output):
    return {key: value for key, value in json.loads(output).items() if key != "machine"}


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def python(world, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=world, capture_output=True, text=True, timeout=200, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return numbers(done.stdout)


@pytest.fixture(scope="module")
def alone(world):
    """The numbers of one process that nobody disturbs."""
    return python(world, "-m", "fpd_eval", *OPTIONS, "--cache-dir", "alone")


@pytest.mark.distributed
def test_two_ranks_give_the_numbers_of_one(world, alone):
    assert python(world, *TORCHRUN, "-m", "fpd_eval", *OPTIONS, "--cache-dir", "together") == alone
    assert set(alone["values"]) >= {"fd_classifier", "inception_score", "precision", "recall", "density", "coverage"}
    assert not list((world / "together").glob("piece-*"))


@pytest.mark.distributed
def test_a_killed_run_continues_on_two_ranks_to_the_same_numbers(world, alone, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    made = world / "made"
    command = (*OPTIONS, "--cache-dir", "killed")
    process = subprocess.Popen(
        [sys.executable, str(script), *command], cwd=world, env=environment(), stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while not (made.exists() and len(made.read_text().splitlines()) >= 3):
        assert process.poll() is None, "finished before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = made.read_text().splitlines()
    assert python(world, *TORCHRUN, str(script), *command) == alone
    seeds = made.read_text().splitlines()
    assert 3 <= len(before) < 7
    assert len(set(seeds)) == 7
    # The batch whose features were not yet written is made again, the others are not.
    assert len(seeds) <= 7 + 1


@pytest.mark.distributed
def test_the_small_protocol_has_the_numbers_of_compare(world, alone, monkeypatch, capsys):
    monkeypatch.chdir(world)
    # The classifier stands in for EfficientNet: distances in 1280 dimensions take seconds.
    monkeypatch.setitem(EXTRACTORS, "efficientnet_lite0", EXTRACTORS["classifier"])
    arguments = ("compare", "--ckpt", "runs/tiny/student", "--num-images", "70", "--batch-size", "10", "--steps", "1")
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--cache-dir", "compare", "--json"])
    assert ended.value.code == 0
    row = next(row for row in json.loads(capsys.readouterr().out)["rows"] if row["role"] == "student")
    assert {name: row["values"][name] for name in alone["values"]} == alone["values"]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_all_batches_and_none_twice(world_size):
    shares = [list(Ranks(rank, world_size).share(range(0, 70, 10))) for rank in range(world_size)]
    assert sorted(start for share in shares for start in share) == list(range(0, 70, 10))


def plan(**changes):
    return Plan(**{"num_images": 24, "num_classes": 3, "batch_size": 10, **changes})


def test_a_batch_of_features_survives_a_crash(small_world):
    """The second batch fails once; the first is not made again."""
    system = small_world.system()
    images = system.image_set(plan())
    extractor = small_world.extractors["classifier"]

    class Crashing:
        fingerprint = extractor.fingerprint

        def __call__(self, pixels):
            if extractor.calls == 1:
                raise RuntimeError("crash")
            return extractor(pixels)

    with pytest.raises(RuntimeError, match="crash"):
        features(images, {"classifier": Crashing()}, small_world.cache, silent)
    found = features(images, {"classifier": extractor}, small_world.cache, silent)
    assert [labels[0] for labels, _ in system.calls] == [0, 1, 1, 2]
    expected = [extractor(batch)["features"] for batch in small_world.system().image_set(plan()).batches()]
    assert torch.equal(found["classifier"]["features"], torch.cat(expected))


def test_features_do_not_depend_on_the_extractors_batch(small_world, tmp_path):
    images = small_world.system().image_set(plan())
    one, other = (
        features(images, small_world.extractors, Cache(tmp_path / str(size)), silent, batch_size=size)
        for size in (None, 3)
    )
    assert torch.equal(one["classifier"]["features"], other["classifier"]["features"])


def test_batches_are_halved_until_they_fit(small_world):
    extractor = small_world.extractors["classifier"]
    sizes = []

    class Small:
        fingerprint = "small"

        def __call__(self, pixels):
            sizes.append(len(pixels))
            if len(pixels) > 3:
                raise torch.OutOfMemoryError("full")
            return extractor(pixels)

    images = small_world.system().image_set(plan(num_images=6, batch_size=6))
    found = features(images, {"one": Small()}, small_world.cache, silent)
    assert sizes == [6, 3, 3]
    assert found["one"]["features"].shape == (6, 4)


def test_a_piece_that_another_rank_kept_elsewhere_is_missed(small_world, monkeypatch):
    """The second of two ranks writes into a folder that the first does not see."""
    images = small_world.system().image_set(plan())
    monkeypatch.setattr(Ranks, "barrier", lambda self: None)
    monkeypatch.setattr(Ranks, "from_main", lambda self, value: value)
    with pytest.raises(ValueError, match=r"images 10 and on .* --cache-dir that all ranks share"):
        features(images, small_world.extractors, small_world.cache, silent, ranks=Ranks(0, 2))


def test_nan_features_name_extractor_and_image(small_world):
    class Broken:
        fingerprint = "broken"

        def __call__(self, pixels):
            values = torch.zeros(len(pixels), 4)
            values[3, 1] = torch.nan
            return {"features": values}

    images = small_world.system().image_set(plan())
    with pytest.raises(ValueError, match="extractor 'broken' gave NaN or infinity for image 3 of noise, 1 step"):
        features(images, {"broken": Broken()}, small_world.cache, silent)
    assert not list(small_world.cache.folder.glob("*"))


def test_saved_images_are_the_generated_ones(small_world, tmp_path):
    images = small_world.system().image_set(plan())
    saved = saved_images(images, tmp_path / "png", silent, ALONE)
    expected = torch.cat(list(images.batches()))
    assert torch.equal(torch.cat(list(saved.batches())), expected)
    assert saved.identity == images.identity
    assert torch.equal(torch.cat(list(folder_images(tmp_path / "png", 7).batches())), expected)
    picture = np.asarray(Image.open(tmp_path / "png" / "000013.png"))
    assert np.array_equal(picture.transpose(2, 0, 1), expected[13].numpy())


def test_saving_continues_and_makes_only_what_is_missing(small_world, tmp_path):
    saved_images(small_world.system().image_set(plan()), tmp_path, silent, ALONE)
    (tmp_path / "000012.png").unlink()
    system = small_world.system()
    saved_images(system.image_set(plan()), tmp_path, silent, ALONE)
    assert [labels[0] for labels, _ in system.calls] == [10 % 3]
    assert (tmp_path / "000012.png").exists()


def test_images_of_another_run_are_not_overwritten(small_world, tmp_path):
    saved_images(small_world.system().image_set(plan()), tmp_path, silent, ALONE)
    with pytest.raises(ValueError, match="holds images of another system, seed or plan"):
        saved_images(small_world.system().image_set(plan(seed=1)), tmp_path, silent, ALONE)
    (tmp_path / "images.json").unlink()
    with pytest.raises(ValueError, match="holds images of unknown origin"):
        saved_images(small_world.system().image_set(plan()), tmp_path, silent, ALONE)
