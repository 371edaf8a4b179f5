"""ReDi's pairs as shards: balanced, readable, and the same whether or not the command was killed between shards."""

import dataclasses

import pytest
import torch

from fpd_core.generator import GenerationConfig, Generator
from fpd_core.teachers import load_teacher
from fpd_train.config_tree import synthetic_overrides
from fpd_train.data import write_pairs as module
from fpd_train.data.noise import NoiseCaptionedPairs, NoiseCaptions
from fpd_train.data.pair_shards import CaptionedPairShards, PairShards
from fpd_train.data.scenes import Scenes
from fpd_train.data.uniform_labels import UniformLabels
from fpd_train.data.write_pairs import PairsConfig, write_pairs
from fpd_train.errors import DataError

SETTINGS = PairsConfig(
    model="tiny", count=14, per_shard=6, steps=4, guidance_scale=2, mask_share=0.3, ranking_noise=4.5, rule="v1", seed=1
)


@pytest.fixture
def generator(teacher_folder):
    return Generator(load_teacher({"name": "fashion", "path": str(teacher_folder)}), GenerationConfig(), {})


def read(folder, count):
    source = PairShards(folder=str(folder), num_classes=3, codebook_size=12, seq_len=64)
    return next(source.open(batch_size=count, seed=0, rank=0, world=1, start=0))


def test_pairs_are_balanced_tokens_of_both_ends(generator, tmp_path):
    assert list(write_pairs(generator, SETTINGS, tmp_path)) == [(6, 14), (12, 14), (14, 14)]
    batch = read(tmp_path, 14)
    assert batch.condition.labels.bincount().tolist() == [5, 5, 4]
    assert batch.pairs.target.max() < 12
    assert (batch.pairs.source == 12).float().mean().item() == pytest.approx(0.3, abs=0.06)


def test_a_killed_command_goes_on_with_the_shard_it_lacks(generator, tmp_path, monkeypatch):
    list(write_pairs(generator, SETTINGS, tmp_path / "straight"))
    killed = write_pairs(generator, SETTINGS, tmp_path / "killed")
    next(killed)
    killed.close()
    with pytest.raises(DataError, match=r"sizes\.json does not exist"):
        read(tmp_path / "killed", 6)
    drawn, real = [], module._write_shard
    monkeypatch.setattr(module, "_write_shard", lambda *given: drawn.append(given[2]) or real(*given))
    list(write_pairs(generator, SETTINGS, tmp_path / "killed"))
    assert drawn == [1, 2]
    one, two = read(tmp_path / "straight", 14), read(tmp_path / "killed", 14)
    assert all(torch.equal(a, b) for a, b in zip(*(dataclasses.astuple(x.pairs) for x in (one, two)), strict=True))


def test_pairs_of_other_settings_are_never_mixed(generator, tmp_path):
    next(write_pairs(generator, SETTINGS, tmp_path))
    with pytest.raises(DataError, match=r"holds pairs of other settings \(guidance_scale\)"):
        next(write_pairs(generator, SETTINGS.model_copy(update={"guidance_scale": 9}), tmp_path))


@pytest.fixture(scope="module")
def reader():
    """A student that reads text: the bundled scenes' teacher."""
    return Generator(load_teacher({"name": "scenes"}), GenerationConfig(), {})


def captioned(folder, count):
    source = CaptionedPairShards(folder=str(folder), codebook_size=1024, seq_len=64)
    return next(source.open(batch_size=count, seed=0, rank=0, world=1, start=0))


def test_pairs_of_captions_are_those_of_the_source_each_with_its_own_tokens(reader, tmp_path, monkeypatch):
    source, given, draw = Scenes(has_images=False), [], module.draw
    settings = SETTINGS.model_copy(update={"captions": source.model_dump(mode="json")})
    monkeypatch.setattr(module, "draw", lambda *asked: given.append((asked[2], draw(*asked))) or given[-1][1])
    list(write_pairs(reader, settings, tmp_path, source))
    wanted = next(source.open(batch_size=14, seed=SETTINGS.seed, rank=0, world=1, start=0)).condition.prompts
    batch = captioned(tmp_path, 14)
    assert sorted(batch.condition.prompts) == sorted(wanted)
    pooled = torch.cat([condition.pooled for condition, _ in given])
    drawn = [torch.cat([tokens[side] for _, tokens in given]) for side in (0, 1)]
    for prompt, x0, x1 in zip(batch.condition.prompts, batch.pairs.source, batch.pairs.target, strict=True):
        (row,) = ((drawn[0] == x0).all(1)).nonzero()[0]
        assert torch.equal(drawn[1][row], x1)
        torch.testing.assert_close(pooled[row], reader.model.condition([prompt]).pooled[0])


def test_students_and_captions_must_fit(reader, generator, tmp_path):
    with pytest.raises(DataError, match=r"reads text: name a config whose data has captions \(--config\)"):
        next(write_pairs(reader, SETTINGS, tmp_path / "one"))
    with pytest.raises(DataError, match=r"draws classes: no config \(--config\)"):
        next(write_pairs(generator, SETTINGS, tmp_path / "two", Scenes(has_images=False)))
    with pytest.raises(DataError, match=r"data\.name 'uniform_labels' has none"):
        next(write_pairs(reader, SETTINGS, tmp_path / "three", UniformLabels(num_classes=3)))


def test_synthetic_weights_stand_in_for_everything_a_run_opens():
    tree = {
        "method": {"name": "redi", "start": "runs/redi0/student"},
        "data": {"name": "pair_shards", "folder": "data/redi1", "num_classes": 10, "codebook_size": 7, "seq_len": 9},
    }
    assert synthetic_overrides(tree) == [
        'method.teacher.weights="synthetic"',
        "method.start=null",
        'data={"name": "noise_pairs", "num_classes": 10, "codebook_size": 7, "seq_len": 9}',
    ]


def test_synthetic_pairs_of_captions():
    tree = {"data": {"name": "captioned_pair_shards", "folder": "data/redi1", "codebook_size": 7, "seq_len": 9}}
    assert 'data={"name": "noise_captioned_pairs", "codebook_size": 7, "seq_len": 9}' in synthetic_overrides(tree)
    source = NoiseCaptionedPairs(codebook_size=7, seq_len=9)
    streams = [source.open(batch_size=4, seed=1, rank=0, world=1, start=start) for start in (0, 1)]
    first = [next(streams[0]) for _ in range(2)]
    again = next(streams[1])
    assert first[1].condition == again.condition != first[0].condition
    assert torch.equal(first[1].pairs.source, again.pairs.source)
    assert first[0].pairs.source.max() == 7
    assert first[0].pairs.target.max() == 6


def test_synthetic_captions_are_words_that_a_position_decides():
    assert synthetic_overrides({"method": {"name": "fpd"}, "data": {"name": "caption_shards", "folder": "x"}}) == [
        'method.teacher.weights="synthetic"',
        'method.lift.backbone.weights="synthetic"',
        'data={"name": "noise_captions"}',
    ]
    streams = [NoiseCaptions(words=3).open(batch_size=4, seed=1, rank=0, world=1, start=start) for start in (0, 1)]
    first = [next(streams[0]).condition.prompts for _ in range(2)]
    assert first[0] != first[1] == next(streams[1]).condition.prompts
    assert [len(prompt.split()) for prompt in first[0]] == [3] * 4
