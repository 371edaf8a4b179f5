"""Shards from folders of pictures and tables of captions, and what `fpd-train shards check` sees."""

import json

import numpy as np
import pytest
from PIL import Image
from shard_writing import img2dataset_folder, jpeg, write_tar
from typer.testing import CliRunner

from fpd_train.cli import app
from fpd_train.data.caption_shards import CaptionShards
from fpd_train.data.check_shards import has_white_borders
from fpd_train.data.image_shards import CaptionedImageShards, ImageShards
from fpd_train.errors import DataError


def shards(*words):
    result = CliRunner().invoke(app, ["shards", *map(str, words)])
    if isinstance(result.exception, ValueError):
        raise result.exception
    return result


def first(source, batch):
    return next(source.open(batch_size=batch, seed=0, rank=0, world=1, start=0))


def test_folders_of_pictures_become_square_images_with_labels(tmp_path):
    """Pictures of one colour; the middle third of a wide one is red, and only that is kept."""
    root = tmp_path / "train"
    for label, (name, colour) in enumerate((("n01", (0, 0, 200)), ("n02", (0, 200, 0)))):
        (root / name).mkdir(parents=True)
        for number in range(label + 1):
            Image.new("RGB", (40, 60), colour).save(root / name / f"{number}.JPEG")
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (200, 0, 0)
    (root / "n03").mkdir()
    Image.fromarray(wide).save(root / "n03/wide.png")
    (root / "n03/broken.jpg").write_bytes(jpeg(0)[:200])
    result = shards("folders", root, "--out", tmp_path / "out", "--size", 16, "--kind", "png")
    assert "4 samples in 1 shards" in result.output
    assert "num_classes 3" in result.output
    batch = first(ImageShards(folder=tmp_path / "out", num_classes=3, image_size=16), 4)
    assert sorted(batch.condition.labels.tolist()) == [0, 1, 1, 2]
    for label, image in zip(batch.condition.labels.tolist(), batch.images * 255, strict=True):
        wanted = ([0, 0, 200], [0, 200, 0], [200, 0, 0])[label]
        assert np.allclose(image.mean((1, 2)), wanted, atol=30)
        assert np.allclose(image[:, 8, 8], wanted, atol=3)


def test_a_root_without_classes_is_refused(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg(0))
    with pytest.raises(DataError, match=r"holds no folders of pictures \(png, jpg"):
        shards("folders", tmp_path, "--out", tmp_path / "out")


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_tables_of_captions(tmp_path, ending):
    rows = ["a, b", "naïve\nline", None, "  ", "last"]
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.table({"id": [1, 2, 3, 4, 5], "TEXT": rows}), path)
    else:
        mark = "," if ending == "csv" else "\t"
        lines = [f'{number}{mark}"{text or ""}"' for number, text in enumerate(rows)]
        path.write_text("\n".join([f"id{mark}TEXT", *lines]))
    shards("captions", path, "--column", "TEXT", "--out", tmp_path / "out")
    assert sorted(first(CaptionShards(folder=tmp_path / "out"), 3).condition.prompts) == ["a, b", "last", "naïve line"]
    with pytest.raises(DataError, match="no column 'caption'; there are id, TEXT"):
        shards("captions", path, "--out", tmp_path / "more")


def test_check_counts_bad_samples_and_white_borders(tmp_path):
    content = []
    for number in range(10):
        key = f"{number:04d}"
        image = jpeg(number, 32)
        if number == 4:
            image = image[:300]
        elif number in (5, 6):
            framed = np.full((32, 32, 3), 255, np.uint8)
            framed[6:26] = 90
            Image.fromarray(framed if number == 5 else framed.transpose(1, 0, 2)).save(tmp_path / "f.jpg")
            image = (tmp_path / "f.jpg").read_bytes()
        content.append((f"{key}.jpg", image))
        if number != 7:
            content.append((f"{key}.txt", b"\xff" if number == 8 else b"a caption"))
    (tmp_path / "s").mkdir()
    write_tar(tmp_path / "s/0.tar", content)
    result = shards("check", tmp_path / "s", "--part", "captions", "--part", "images")
    assert result.exit_code == 2
    assert "10 samples, 7 good, 3 bad" in result.output
    assert all(f"1 {kind}" in result.output for kind in ("missing txt", "undecodable image", "not UTF-8"))
    assert "7 images: 32x32 (7); 2 (28.6%) with uniform white borders" in result.output
    assert f"sample 0007 of {tmp_path}/s/0.tar: missing txt" in result.output


def test_check_is_content_with_good_shards(tmp_path):
    img2dataset_folder(tmp_path / "s")
    result = shards("check", tmp_path / "s", "--part", "images")
    assert result.exit_code == 0
    assert "60 samples, 60 good, 0 bad" in result.output


def test_a_white_picture_and_one_white_side_are_no_borders():
    image = np.full((20, 20, 3), 100, np.uint8)
    assert not has_white_borders(image)
    image[:3] = 255
    assert not has_white_borders(image)
    image[-3:] = 250
    assert has_white_borders(image)
    assert has_white_borders(image.transpose(1, 0, 2))
    assert not has_white_borders(np.full((20, 20, 3), 255, np.uint8))


def test_images_and_captions_of_a_sample_belong_together(tmp_path):
    folder = tmp_path / "s"
    img2dataset_folder(folder, shards=1, per_shard=12, size=16)
    batch = first(CaptionedImageShards(folder=folder, image_size=16), 12)
    seen = set()
    for caption, image in zip(batch.condition.prompts, batch.images, strict=True):
        number = int(caption.split()[1])
        (tmp_path / "x.jpg").write_bytes(jpeg(number, 16))
        wanted = np.asarray(Image.open(tmp_path / "x.jpg")).transpose(2, 0, 1) / 255
        assert np.allclose(image, wanted, atol=1e-6)
        seen.add(number)
    assert len(seen) == 12
    assert json.dumps(sorted(seen)) == json.dumps(list(range(12)))
