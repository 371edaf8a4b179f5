"""References: ADM's `.npz`, statistics alone, folders, the bundled world's IDX. What is wrong is one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_eval.bench.references import open_reference


def covariance(dimensions, seed=0):
    rows = np.random.default_rng(seed).normal(size=(3 * dimensions, dimensions))
    return np.cov(rows, rowvar=False)


def images(count=5, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(count, size, size, 3), dtype=np.uint8)


def virtual(path, **changes):
    """The keys of ADM's VIRTUAL_imagenet256_labeled.npz, small."""
    arrays = {"arr_0": images(), "mu": np.arange(4.0), "sigma": covariance(4)}
    arrays |= {"mu_s": np.arange(3.0), "sigma_s": covariance(3, 1)}
    np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


def test_an_adm_file_gives_images_and_both_statistics(tmp_path):
    reference = open_reference([virtual(tmp_path / "virtual.npz")], 2)
    assert [len(batch) for batch in reference.images.batches()] == [2, 2, 1]
    pixels = torch.cat(list(reference.images.batches()))
    assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), images())
    assert reference.statistics["features"].mean.tolist() == [0, 1, 2, 3]
    assert np.array_equal(reference.statistics["spatial"].covariance.numpy(), covariance(3, 1))
    assert reference.statistics["features"].mean.dtype == torch.float64


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_are_read_in_any_order(tmp_path, save):
    save(tmp_path / "batch.npz", images(7))
    found = open_reference([tmp_path / "batch.npz"], 3).images
    for start in (3, 6, 0, 3):
        assert np.array_equal(found.batch(start).permute(0, 2, 3, 1).numpy(), images(7)[start : start + 3])


def test_statistics_and_images_may_come_from_two_files(tmp_path):
    np.savez(tmp_path / "stats.npz", mu=np.ones(4), sigma=covariance(4, 7))
    reference = open_reference([tmp_path / "stats.npz", virtual(tmp_path / "virtual.npz")], 2)
    assert reference.statistics["features"].mean.tolist() == [1, 1, 1, 1]
    assert reference.images.count == 5
    assert reference.title == "stats.npz, virtual.npz"


def test_identities_follow_the_content_and_not_the_name(tmp_path):
    def identity(name, **changes):
        reference = open_reference([virtual(tmp_path / name, **changes)], 2)
        return reference.identity, reference.images.identity

    one, copy, other = identity("a.npz"), identity("b.npz"), identity("c.npz", mu=np.full(4, 0.5))
    assert one[0] == copy[0]
    assert one[0] != other[0]
    for index, path in enumerate(("x", "y", "z")):
        (tmp_path / path).mkdir()
        Image.fromarray(images(1, seed=index // 2)[0]).save(tmp_path / path / "0.png")
    folders = [open_reference([tmp_path / path], 2).images.identity for path in ("x", "y", "z")]
    assert folders[0] == folders[1] != folders[2]


def test_idx_files_are_padded_grey(tmp_path, write_idx):
    write_idx(tmp_path / "images.gz", np.full((3, 28, 28), 77))
    batch = open_reference([tmp_path / "images.gz"], 2).images.batch(0)
    assert batch.shape == (2, 3, 32, 32)
    assert int(batch[0, 2, 2, 2]) == 77
    assert int(batch[0, 2, 1, 2]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": None}, "mu and sigma come together, one is missing"),
        ({"sigma": np.eye(3)}, r"must be \[D\] and \[D, D\], got \[4\] and \[3, 3\]"),
        ({"mu": np.array([0, np.nan, 0, 0])}, "mu or sigma contains NaN"),
        ({"sigma": np.triu(np.ones((4, 4)))}, "sigma is not symmetric"),
        ({"arr_0": images().astype(np.float32)}, r"arr_0 must be uint8 images \[N, H, W, 3\], got float32"),
        ({"arr_0": images()[:, :6]}, "8 x 6 pixels are not square"),
        ({"arr_0": images()[:0]}, r"got uint8 \[0, 8, 8, 3\]"),
        ({"mu": np.array([{}], dtype=object)}, "holds Python objects"),
    ],
)
def test_unusable_files_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        open_reference([virtual(tmp_path / "virtual.npz", **changes)], 2)
    assert "virtual.npz" in str(error.value)
    assert "\n" not in str(error.value)


def test_absent_empty_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.npz does not exist"):
        open_reference([tmp_path / "none.npz"], 2)
    np.savez(tmp_path / "labels.npz", labels=np.arange(3))
    with pytest.raises(ValueError, match=r"neither images \(arr_0\) nor statistics \(mu, sigma\), only labels"):
        open_reference([tmp_path / "labels.npz"], 2)
    whole = virtual(tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.npz is damaged or not an \.npz file"):
        open_reference([tmp_path / "cut.npz"], 2)
