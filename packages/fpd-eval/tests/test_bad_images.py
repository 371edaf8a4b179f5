"""Images that a metric cannot take are refused in one sentence that names the file, before any network runs."""

import json

import numpy as np
import pytest
from PIL import Image

from fpd_eval.images.image_files import open_images


def picture(size=(8, 8), mode="RGB", seed=0):
    random = np.random.default_rng(seed)
    channels = {"RGB": (3,), "RGBA": (4,), "L": (), "LA": (2,)}[mode]
    return Image.fromarray(random.integers(0, 256, size=(size[1], size[0], *channels), dtype=np.uint8), mode)


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        picture(seed=i).save(tmp_path / f"{i}.png")
    return tmp_path


def refused(folder, message):
    with pytest.raises(ValueError, match=message) as error:
        for _ in open_images(folder, 2).batches():
            pass
    assert "\n" not in str(error.value)


def test_good_images_are_read_in_order_of_names(folder):
    (folder / "notes.txt").write_text("no image")
    batches = list(open_images(folder, 2).batches())
    assert [len(batch) for batch in batches] == [2, 1]
    assert np.array_equal(batches[1][0].permute(1, 2, 0).numpy(), np.asarray(picture(seed=2)))


def test_an_image_that_is_not_square(folder):
    picture((8, 6)).save(folder / "1.png")
    refused(folder, r"1\.png is 8 x 6 pixels, not square")


def test_an_image_of_another_size(folder):
    picture((9, 9)).save(folder / "2.png")
    refused(folder, r"2\.png is 9 x 9 pixels, most images of its folder are 8 x 8")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency(folder, mode):
    picture(mode=mode).save(folder / "1.png")
    refused(folder, rf"1\.png has transparency \({mode}\); flatten it")


def test_grey_images_count_as_rgb_with_a_warning(folder):
    picture(mode="L").save(folder / "1.png")
    with pytest.warns(UserWarning, match=r"1 images of .* are grey \(1\.png first\) and count as RGB"):
        batch = next(open_images(folder, 3).batches())
    assert np.array_equal(batch[1, 0].numpy(), np.asarray(picture(mode="L")))
    assert np.array_equal(batch[1, 0].numpy(), batch[1, 2].numpy())


@pytest.mark.parametrize("keep", [0, 20, 150])
def test_a_truncated_image(folder, keep):
    data = (folder / "1.png").read_bytes()
    assert len(data) > 160
    (folder / "1.png").write_bytes(data[:keep])
    refused(folder, r"1\.png cannot be decoded")


def test_an_empty_or_absent_folder(tmp_path):
    refused(tmp_path, r"holds no image \(\.png, \.jpg")
    refused(tmp_path / "absent", "neither a folder of images nor an .npz file")
    (tmp_path / "file.png").write_bytes(b"")
    refused(tmp_path / "file.png", "neither a folder of images nor an .npz file")


def test_a_folder_that_lacks_images_of_its_manifest(folder):
    (folder / "images.json").write_text(json.dumps({"count": 4}))
    refused(folder, r"holds 3 images, its images\.json says 4; generate it again")
    (folder / "images.json").write_text("{")
    refused(folder, r"images\.json is not valid JSON")
