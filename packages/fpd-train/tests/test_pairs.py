"""ReDi's pairs as shards: balanced, readable, and the same whether or not the command was killed between shards."""

import dataclasses

import pytest
import torch

from fpd_core.generator import GenerationConfig, Generator
from fpd_core.teachers import load_teacher
from fpd_train.config_tree import synthetic_overrides
from fpd_train.data import write_pairs as module
from fpd_train.data.noise import NoiseCaptions
from fpd_train.data.pair_shards import PairShards
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
