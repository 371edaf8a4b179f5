"""Kept caption features: the same bits as without, read once, bounded."""

from pathlib import Path

import pytest
import torch

from fpd_core.conditioning import TextCondition
from fpd_core.teachers import load_teacher
from fpd_core.teachers.text_conditional import CaptionCache

TEACHER = Path(__file__).resolve().parents[3] / "assets/scenes/teacher"
DOG, CAT, CAR = "a photo of a dog", "a photo of three cats", "a photo of a red car"
FIELDS = ("tokens", "pooled", "decoder")


@pytest.fixture(scope="module")
def plain():
    return load_teacher({"name": "scenes", "path": TEACHER})


@pytest.fixture
def teacher():
    """Of two captions' cache; `asked` lists what its text tower was given."""
    teacher = load_teacher({"name": "scenes", "path": TEACHER, "caption_cache": 2})
    teacher.asked, tokenize = [], teacher.text.tokenize
    teacher.text.tokenize = lambda prompts: teacher.asked.append(list(prompts)) or tokenize(prompts)
    return teacher


def equal(first, second):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def test_kept_features_are_the_encoders_to_the_last_bit(teacher, plain):
    alone = TextCondition.cat([plain.encode([prompt]) for prompt in (CAT, DOG, CAT)])
    for _ in range(2):
        assert equal(teacher.condition([CAT, DOG, CAT]), alone)
    assert equal(teacher.condition(DOG), plain.condition(DOG))


def test_features_do_not_depend_on_who_was_read_before(teacher):
    early = teacher.condition([DOG])
    assert equal(teacher.condition([CAR, CAT, DOG])[2:], early)
    teacher.condition([CAR, CAT])
    assert equal(teacher.condition([CAT, DOG])[1:], early)  # read again, in other company


def test_a_caption_is_read_once_and_the_longest_unused_leaves(teacher):
    teacher.condition([DOG, CAT, DOG])
    teacher.condition([CAT])
    assert teacher.asked == [[DOG], [CAT]]
    teacher.condition([DOG])
    teacher.condition([CAR])  # CAT is the longest unused
    assert teacher.asked == [[DOG], [CAT], [CAR]]
    teacher.condition([DOG])
    teacher.condition([CAT])
    assert teacher.asked == [[DOG], [CAT], [CAR], [CAT]]


def test_a_batch_larger_than_the_cache_is_whole(teacher, plain):
    assert equal(teacher.condition([DOG, CAT, CAR]), TextCondition.cat([plain.encode([p]) for p in (DOG, CAT, CAR)]))
    assert len(teacher.captions._kept) == 2


def test_the_empty_caption_is_read_once_whatever_the_size(plain, monkeypatch):
    read = []
    encode = plain.encode
    monkeypatch.setattr(plain, "encode", lambda prompts: read.append(prompts) or encode(prompts))
    monkeypatch.setattr(plain, "_null", None)
    for _ in range(3):
        plain.null_condition(plain.condition([DOG, CAT]))
    assert read.count([""]) == 1


def test_what_is_kept_cannot_be_changed_from_outside(teacher):
    teacher.condition(DOG).tokens.zero_()
    assert bool(teacher.condition(DOG).tokens.any())


def test_a_refused_caption_leaves_the_cache_in_order(teacher):
    with pytest.raises(ValueError, match="giraffe"):
        teacher.condition([DOG, "a photo of a giraffe"])
    assert len(teacher.condition([DOG, CAT])) == 2


def test_features_of_another_device_are_not_taken():
    made = []

    def encode(prompts):
        made.append(prompts)
        return TextCondition(torch.zeros(1, 2, 3), torch.zeros(1, 3), torch.zeros(1, 2, 3))

    cache = CaptionCache(4)
    for device in ("cpu", "meta", "cpu"):
        cache([DOG], torch.device(device), encode)
    assert made == [[DOG], [DOG]]
