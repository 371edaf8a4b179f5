"""Text features as shards: a run on them is a run on the captions to the bit, and never on another tower's."""

import json
import tarfile

import pytest
import torch
from safetensors.torch import save
from shard_writing import img2dataset_folder, write_tar
from typer.testing import CliRunner

from fpd_core.conditioning import EncodedCaptions, TextCondition
from fpd_core.teachers import load_teacher
from fpd_core.teachers.text_conditional import CaptionCache
from fpd_train.cli import app
from fpd_train.data.bad_samples import BadSample
from fpd_train.data.caption_shards import CaptionShards
from fpd_train.data.encoded_shards import EncodedCaptionShards, EncodedImageShards, batch_of, packed, unpacked
from fpd_train.data.image_shards import CaptionedImageShards
from fpd_train.data.write_encoded import write_encoded
from fpd_train.errors import DataError

NOUNS = ("dog", "cat", "apple", "clock", "chair")
COLORS = ("red", "green", "black", "blue")


def caption(number):
    return f"a photo of a {COLORS[number % 4]} {NOUNS[number % 5]}"


@pytest.fixture(scope="module")
def teacher():
    teacher = load_teacher({"name": "scenes"})
    teacher.captions = CaptionCache(100)
    return teacher


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    img2dataset_folder(folder, shards=3, per_shard=8, change=lambda n: {"caption": caption(n)})
    return folder


def writing(source, teacher, out):
    return write_encoded(source, teacher, out, *source.indexed())


def encoded(source, teacher, out):
    entries, tally = source.indexed()
    assert sum(done for done, is_new in write_encoded(source, teacher, out, entries, tally) if is_new)
    return tally


def batches(source, count, *, world=1, rank=0, position=0, size=5):
    stream = source.stream(size, seed=4, rank=rank, world=world, position=position)
    return [next(stream) for _ in range(count)]


def equal(one, two):
    return all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))


@pytest.mark.parametrize("captions", ["txt", "parquet"])
def test_every_position_has_the_features_of_the_caption_there(shards, teacher, tmp_path, captions):
    source = CaptionShards(folder=shards, captions=captions)
    encoded(source, teacher, tmp_path / "encoded")
    features = EncodedCaptionShards(folder=tmp_path / "encoded")
    for world, rank, position in ((1, 0, 0), (2, 1, 10), (1, 0, 17)):
        for read, kept in zip(
            *(batches(one, 6, world=world, rank=rank, position=position) for one in (source, features)), strict=True
        ):
            assert isinstance(kept.condition, EncodedCaptions)
            assert len(kept.condition) == 5
            assert equal(teacher.condition(read.condition), teacher.condition(kept.condition))
            doubled = kept.condition[:2].repeat_interleave(2)
            assert equal(teacher.condition(read.condition[:2].repeat_interleave(2)), teacher.condition(doubled))


def test_images_come_along_as_they_are(shards, teacher, tmp_path):
    source = CaptionedImageShards(folder=shards, image_size=16)
    encoded(source, teacher, tmp_path / "encoded")
    features = EncodedImageShards(folder=tmp_path / "encoded", image_size=16)
    for read, kept in zip(batches(source, 5), batches(features, 5), strict=True):
        assert torch.equal(read.images, kept.images)
        assert equal(teacher.condition(read.condition), teacher.condition(kept.condition))
    with tarfile.open(tmp_path / "encoded" / "shard-00000.tar") as tar:
        assert {name.partition(".")[2] for name in tar.getnames()} == {"jpg", "txt", "features"}


def test_a_killed_command_goes_on_with_the_shard_it_lacks(shards, teacher, tmp_path):
    source = CaptionShards(folder=shards)
    encoded(source, teacher, tmp_path / "straight")
    killed = writing(source, teacher, tmp_path / "killed")
    for _ in range(8 + 3):  # the first shard and three captions of the second
        next(killed)
    killed.close()
    with pytest.raises(DataError, match=r"sizes\.json does not exist: `fpd-train encode` has not finished"):
        batches(EncodedCaptionShards(folder=tmp_path / "killed"), 1)
    first = (tmp_path / "killed" / "shard-00000.tar").stat()
    assert list(writing(source, teacher, tmp_path / "killed")) == [(8, False), *[(1, True)] * 16]
    assert (tmp_path / "killed" / "shard-00000.tar").stat() == first
    pair = (EncodedCaptionShards(folder=tmp_path / name) for name in ("straight", "killed"))
    for one, two in zip(*(batches(source, 5) for source in pair), strict=True):
        assert equal(one.condition.features, two.condition.features)
    with pytest.raises(DataError, match=r"holds features of other settings \(data\)"):
        next(writing(CaptionShards(folder=shards, captions="parquet"), teacher, tmp_path / "killed"))


def test_features_of_another_tower_are_refused(shards, teacher, tmp_path):
    encoded(CaptionShards(folder=shards), teacher, tmp_path / "encoded")
    found = batches(EncodedCaptionShards(folder=tmp_path / "encoded"), 1)[0].condition
    other = load_teacher({"name": "scenes"})
    assert other.tower == teacher.tower
    other = load_teacher({"name": "scenes"})
    with torch.no_grad():
        next(other.text.parameters()).mul_(1.001)
    with pytest.raises(ValueError, match=r"text features are of the tower .*; write them anew with `fpd-train encode`"):
        other.condition(found)
    with pytest.raises(DataError, match=r"features of other settings \(tower\)"):
        next(writing(CaptionShards(folder=shards), other, tmp_path / "encoded"))


def test_a_caption_that_cannot_be_read_is_left_out_and_counted(teacher, tmp_path):
    members = [(f"{n:03d}.txt", caption(n).encode()) for n in range(20)]
    members[7] = ("007.txt", b"\xff")
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "a.tar", members)
    tally = encoded(CaptionShards(folder=tmp_path / "shards"), teacher, tmp_path / "encoded")
    assert list(tally.seen.values()) == ["not UTF-8"]
    assert tally.example.startswith("sample 7 of")
    assert EncodedCaptionShards(folder=tmp_path / "encoded").shards()[0].expected == 19
    with pytest.raises(DataError, match=r"1 bad samples of 20 .* more than data.max_bad_share 0.01"):
        encoded(CaptionShards(folder=tmp_path / "shards", max_bad_share=0.01), teacher, tmp_path / "strict")
    assert not list((tmp_path / "strict").glob("*.tar"))


def features(**changes):
    tensors = {"tokens": torch.zeros(3, 4), "pooled": torch.zeros(4), "tower": torch.zeros(32, dtype=torch.uint8)}
    return save({name: value for name, value in {**tensors, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        features()[:-1],
        features(pooled=None),
        features(tower=None),
        features(tokens=torch.zeros(3)),
        features(decoder=torch.zeros(1, 3, 4)),
        features(tower=torch.zeros(31, dtype=torch.uint8)),
        features(tower=torch.zeros(32)),
    ],
)
def test_what_holds_no_features_is_a_bad_sample(content):
    with pytest.raises(BadSample):
        unpacked(content)


def test_one_tensor_for_both_readers_is_written_once():
    tokens, pooled = torch.rand(1, 50, 60), torch.rand(1, 8)
    shared = packed(TextCondition(tokens, pooled, tokens), "ab" * 32)
    apart = packed(TextCondition(tokens, pooled, tokens.clone()), "ab" * 32)
    assert len(apart) - len(shared) > 50 * 60 * 4
    assert torch.equal(unpacked(shared).decoder, tokens[0])
    assert unpacked(apart).tower == "ab" * 32


def test_features_of_two_towers_make_no_batch():
    one, two = (unpacked(features(tower=torch.full((32,), n, dtype=torch.uint8))) for n in (1, 2))
    with pytest.raises(DataError, match="mix the features of several text towers"):
        batch_of([one, two])


def test_a_run_on_features_ends_in_the_weights_of_a_run_on_captions(launch, shards, tmp_path, config):
    method = config["method"] | {"teacher": {"name": "scenes", "caption_cache": 100}}
    data = {"name": "caption_shards", "folder": str(shards)}
    changes = {"method": method, "steps": 2, "micro_batch": 4, "sample_every": 2, "save_every": 2}
    assert launch(**changes, data=data, output=str(tmp_path / "captions"))[0] == 0
    given = [
        f"--set=output={tmp_path / 'x'}",
        "--config",
        str(tmp_path / "config.json"),
        "--out",
        str(tmp_path / "enc"),
    ]
    result = CliRunner().invoke(app, ["encode", *given])
    assert result.exit_code == 0, result.output
    assert "24 captions encoded, 3 shards" in result.output
    data = {"name": "encoded_captions", "folder": str(tmp_path / "enc")}
    assert launch(**changes, data=data, output=str(tmp_path / "features"))[0] == 0
    one, two = ((tmp_path / name / "student" / "model.safetensors").read_bytes() for name in ("captions", "features"))
    assert one == two


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"name": "scenes"}},
            "encode reads caption_shards or captioned_image_shards, and data.name is 'scenes'",
        ),
        ({"data.folder": "absent"}, "absent"),
        ({"data.folder": "pipe:cat a.tar", "data.allow": ["pipe"]}, "is read from end to end"),
        (
            {"method.teacher": {"name": "fashion"}},
            "a teacher that reads captions, and method 'fpd' has none",
        ),
        ({"method": {"name": "classifier"}}, "a teacher that reads captions, and method 'classifier' has none"),
    ],
)
def test_what_cannot_be_encoded_is_refused_in_a_sentence(config, shards, tmp_path, changes, message):
    tree = config | {"data": {"name": "caption_shards", "folder": str(shards)}}
    tree["method"] = config["method"] | {"teacher": {"name": "scenes"}}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(tree))
    given = [f"--set={key}={json.dumps(value)}" for key, value in changes.items()]
    result = CliRunner().invoke(app, ["encode", "--config", str(path), "--out", str(tmp_path / "out"), *given])
    assert result.exit_code != 0
    assert message in str(result.exception)


def test_missing_weights_are_those_of_the_teacher_alone(config, shards, tmp_path):
    tree = config | {"data": {"name": "caption_shards", "folder": str(shards)}}
    places = {name: str(tmp_path / f"{name}.safetensors") for name in ("transformer", "tokenizer", "text_encoder")}
    lift = {"backbone": {"name": "dinov3", "path": str(tmp_path / "dinov3.safetensors")}}
    tree["method"] = {"name": "fpd", "teacher": {"name": "maskgen", **places}, "lift": lift}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(tree))
    result = CliRunner().invoke(app, ["encode", "--config", str(path), "--out", str(tmp_path / "out")])
    assert all(place in str(result.exception) for place in places.values())
    assert "dinov3" not in str(result.exception)
