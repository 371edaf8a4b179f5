"""The regenerated prompts are the official file, byte for byte; checksums are those of djghosh13/geneval at af4902f."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from fpd_eval.geneval import make_prompts, prompts
from fpd_eval.geneval.classes import CLASSES


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_prompts_are_the_official_file():
    text = prompts.prompts_jsonl()
    assert len(text.encode()) == 85_209
    assert sha256(text) == "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"


@pytest.mark.parametrize(
    ("separators", "digest"),
    [
        ((", ", ": "), "94bc1c23d27e1ac4aa6d9415ac49a6e72263694e5149eb1d895cf61f9da1c083"),
        ((",", ":"), "c0bf8d5c86ed31a818987bd3ff27036beb602f0f60f80a4c041d8db17f1bd43f"),
    ],
)
def test_records_have_the_official_canonical_form(separators, digest):
    lines = [json.dumps(record, sort_keys=True, separators=separators) for record in make_prompts()]
    assert sha256("\n".join(lines)) == digest


def test_texts_are_the_official_generation_prompts():
    texts = "".join(record["prompt"] + "\n" for record in make_prompts())
    assert sha256(texts) == "55b6e3650e980c13daf30569eb666e000faf19bfc2b7b4cbe999fcdb7aa9d680"


def test_classes_are_the_official_object_names():
    assert sha256("".join(name + "\n" for name in CLASSES)) == (
        "608f6a0e5c8ca1c7a92b818430141fe268c85b7930b50f4160f1d65893b5bacd"
    )


def test_tasks_have_the_published_sizes():
    assert Counter(record["tag"] for record in make_prompts()) == {
        "single_object": 80,
        "two_object": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }


def test_callers_may_change_their_records():
    make_prompts()[0]["include"].clear()
    assert make_prompts()[0]["include"]


def test_another_random_stream_is_refused(monkeypatch):
    draw = np.random.default_rng
    monkeypatch.setattr(prompts.np.random, "default_rng", lambda seed: draw(seed + 1))
    with pytest.raises(RuntimeError, match="does not draw the official GenEval prompts"):
        prompts.prompts_jsonl.__wrapped__()
