"""Scenes as a data source and as shards."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from fpd_core.scenes.vocabulary import OBJECTS
from fpd_train.cli import app
from fpd_train.data.caption_shards import CaptionShards
from fpd_train.data.scene_shards import scene_samples
from fpd_train.data.scene_sprites import CODE_POINTS, write_sheet
from fpd_train.data.scenes import SceneCloseups, Scenes
from fpd_train.data.write_shards import write_shards
from fpd_train.errors import DataError

SPRITES = Path(__file__).resolve().parents[3] / "assets/scenes/sprites"


def take(config, batches, **place):
    stream = config.open(**({"batch_size": 4, "seed": 0, "rank": 0, "world": 1, "start": 0} | place))
    return [next(stream) for _ in range(batches)]


def test_two_ranks_share_what_one_rank_sees():
    config = Scenes(sprites=SPRITES)
    (alone,) = take(config, 1, batch_size=6)
    parts = [take(config, 1, batch_size=3, rank=rank, world=2)[0] for rank in range(2)]
    assert parts[0].scenes + parts[1].scenes == alone.scenes[0::2] + alone.scenes[1::2]
    assert torch.equal(parts[1].images, alone.images[1::2])


def test_a_stream_starts_anywhere():
    config = Scenes(sprites=SPRITES, has_images=False)
    assert take(config, 3)[2].scenes == take(config, 1, start=2)[0].scenes


def test_captions_belong_to_the_pictures():
    (batch,) = take(Scenes(sprites=SPRITES, task_weights={"single_object": 1.0}), 1, batch_size=16)
    for prompt, scene in zip(batch.condition.prompts, batch.scenes, strict=True):
        assert prompt.endswith(scene.objects[0].name)


def test_task_weights_are_checked():
    with pytest.raises(ValidationError, match="task_weights needs weights"):
        Scenes(task_weights={"colours": 1.0})


def test_closeups_show_one_whole_sprite():
    (batch,) = take(SceneCloseups(sprites=SPRITES), 1, batch_size=32)
    assert batch.images.shape == (32, 3, 32, 32)
    # Rows are flat where only background shows: a whole sprite of 24 pixels leaves at most 8 rows of that.
    flat = (batch.images.std(-1).mean(1) < 1e-6).sum(1)
    assert int(flat.max()) <= 32 - 12


def test_shards_hold_caption_boxes_and_picture(tmp_path):
    write_shards(scene_samples(Scenes(sprites=SPRITES), 12, seed=1), tmp_path / "shards", per_shard=5)
    (batch,) = take(CaptionShards(folder=tmp_path / "shards"), 1)
    assert len(batch.condition) == 4
    scenes = take(Scenes(sprites=SPRITES), 1, batch_size=5, seed=1)[0]
    samples = list(wds.WebDataset(str(tmp_path / "shards/shard-00000.tar"), shardshuffle=False))
    for sample, scene, image in zip(samples, scenes.scenes, scenes.images, strict=True):
        assert sample["txt"].decode() == scene.record["prompt"]
        boxes = [entry["box"] for entry in json.loads(sample["json"])["objects"]]
        assert boxes == [list(placed.box) for placed in scene.objects]
        stored = np.asarray(Image.open(io.BytesIO(sample["png"])), dtype=np.float32) / 255
        assert np.abs(stored - image.numpy().transpose(1, 2, 0)).max() <= 0.5 / 255 + 1e-6


@pytest.fixture
def blind_shards(tmp_path):
    """Shards of scenes as the command writes them, the bytes of every picture overwritten."""
    folder = tmp_path / "shards"
    write_shards(scene_samples(Scenes(sprites=SPRITES), 12, seed=1), folder, per_shard=5)
    for shard in folder.glob("*.tar"):
        with tarfile.open(shard) as archive, shard.open("r+b") as file:
            for member in archive:
                if member.name.endswith(".png"):
                    file.seek(member.offset_data)
                    file.write(b"?" * member.size)
    return folder


def test_captions_are_streamed_without_a_look_at_the_pictures(blind_shards, tmp_path):
    """The same captions in the same order as with whole pictures, for an epoch and more."""
    write_shards(scene_samples(Scenes(sprites=SPRITES), 12, seed=1), tmp_path / "whole", per_shard=5)
    blind, whole = (take(CaptionShards(folder=folder), 5) for folder in (blind_shards, tmp_path / "whole"))
    assert [batch.condition for batch in blind] == [batch.condition for batch in whole]
    assert all(batch.images is None for batch in blind)
    sample = next(iter(wds.WebDataset(str(blind_shards / "shard-00000.tar"), shardshuffle=False)))
    with pytest.raises(OSError, match="cannot identify image"):
        Image.open(io.BytesIO(sample["png"]))


def test_captions_alone_distil_the_scenes_teacher(launch, blind_shards, tmp_path):
    """Two steps through the trainer, captions kept, g a function of r."""
    method = {
        "name": "fpd",
        "teacher": {"name": "scenes", "path": str(SPRITES.parent / "teacher"), "caption_cache": 64},
        "lift": {"space": "pixel"},
        "drafts_per_condition": 2,
        "objective": {"guidance_scale": {"at_zero": 1.5, "at_one": 3}},
    }
    data = {"name": "caption_shards", "folder": str(blind_shards)}
    code, output = launch(method=method, data=data, output=str(tmp_path / "run"), steps=2, micro_batch=4)
    assert code == 0, output
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in lines)


def test_the_sheet_is_drawn_from_pictures_without_bleeding(tmp_path):
    """Invisible green must not tint the edge of a red disc; the flat middle keeps its colour."""
    pixels = np.zeros((64, 64, 4), dtype=np.uint8)
    pixels[..., 1] = 255
    rows, columns = np.mgrid[:64, :64]
    pixels[(rows - 31.5) ** 2 + (columns - 31.5) ** 2 < 20**2] = (200, 0, 0, 255)
    for code in CODE_POINTS.values():
        Image.fromarray(pixels).save(tmp_path / f"{code}.png")
    write_sheet(tmp_path, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (96, 120, 4)
    assert sheet[12, 12].tolist() == [200, 0, 0, 255]
    assert sheet[..., 1][sheet[..., 3] > 0].max() <= 1


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(DataError, match=r"1f697\.png"):
        write_sheet(tmp_path, tmp_path / "sheet.png")


def test_every_object_has_a_picture():
    assert len(set(CODE_POINTS.values())) == len(OBJECTS) == 20


def test_the_command_writes_shards(tmp_path, monkeypatch):
    monkeypatch.chdir(SPRITES.parents[2])
    arguments = ["--out", str(tmp_path / "out"), "--count", "3", "--seed", "5"]
    result = CliRunner().invoke(app, ["shards", "scenes", *arguments])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out/sizes.json").read_text()) == {"shard-00000.tar": 3}
