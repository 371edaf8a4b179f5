"""The 553 prompts of GenEval, drawn again from the published recipe instead of copied.

One NumPy stream feeds all tasks in order, so a single call more or less changes every later prompt.
"""

import hashlib
import json
from functools import cache
from typing import Any

import numpy as np

from fpd_eval.geneval.classes import CLASSES, COLORS, RELATIONS

SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of `prompts_jsonl()`: equal to the official `evaluation_metadata.jsonl`."""

SEED, DRAWS = 43, 100
NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}
# `person` is class 0 and never gets a colour.
COLORABLE = CLASSES[1:]

Record = dict[str, Any]


def make_prompts() -> list[Record]:
    """The official records, in order.

    Returns:
        553 dicts with `tag`, `include` (clauses: `class`, `count` and, by task, `color` or `position`), for counting
        `exclude`, and `prompt`.

    Raises:
        RuntimeError: this NumPy draws another stream, so the prompts would not be the official ones.
    """
    return [json.loads(line) for line in prompts_jsonl().splitlines()]


@cache
def prompts_jsonl() -> str:
    """The records as JSON lines, byte for byte the official file. Raises RuntimeError as `make_prompts`."""
    text = "".join(json.dumps(record) + "\n" for record in _distinct(_draw()))
    if hashlib.sha256(text.encode()).hexdigest() != SHA256:
        raise RuntimeError(
            f"NumPy {np.__version__} does not draw the official GenEval prompts; install another version"
        )
    return text


def _draw() -> list[Record]:
    random = np.random.default_rng(SEED)
    records = [_single_object(CLASSES[index]) for index in random.choice(len(CLASSES), len(CLASSES), replace=False)]
    for task in (_two_object, _counting, _colors, _position, _color_attr):
        records += [task(random) for _ in range(DRAWS)]
    return records


def _distinct(records: list[Record]) -> list[Record]:
    """Without later copies of a record: 580 draws leave 553."""
    return list({json.dumps(record): record for record in records}.values())


def _single_object(name: str) -> Record:
    return _record("single_object", [_clause(name)], f"a photo of {_with_article(name)}")


def _two_object(random: np.random.Generator) -> Record:
    a, b = _two(random, CLASSES)
    return _record("two_object", [_clause(a), _clause(b)], f"a photo of {_with_article(a)} and {_with_article(b)}")


def _counting(random: np.random.Generator) -> Record:
    name = CLASSES[random.choice(len(CLASSES))]
    count = int(random.integers(2, 4, endpoint=True))
    return {
        "tag": "counting",
        "include": [_clause(name, count)],
        "exclude": [_clause(name, count + 1)],
        "prompt": f"a photo of {NUMBER_WORDS[count]} {_plural(name)}",
    }


def _colors(random: np.random.Generator) -> Record:
    name = COLORABLE[random.choice(len(COLORABLE))]
    color = COLORS[random.choice(len(COLORS))]
    return _record("colors", [_clause(name, color=color)], f"a photo of {_with_article(color)} {name}")


def _position(random: np.random.Generator) -> Record:
    a, b = _two(random, CLASSES)
    relation = RELATIONS[random.choice(len(RELATIONS))]
    prompt = f"a photo of {_with_article(a)} {relation} {_with_article(b)}"
    return _record("position", [_clause(b), _clause(a, position=[relation, 0])], prompt)


def _color_attr(random: np.random.Generator) -> Record:
    a, b = _two(random, COLORABLE)
    first, second = _two(random, COLORS)
    prompt = f"a photo of {_with_article(first)} {a} and {_with_article(second)} {b}"
    return _record("color_attr", [_clause(a, color=first), _clause(b, color=second)], prompt)


def _two(random: np.random.Generator, names: tuple[str, ...]) -> tuple[str, str]:
    first, second = random.choice(len(names), size=2, replace=False)
    return names[first], names[second]


def _record(tag: str, include: list[dict[str, Any]], prompt: str) -> Record:
    return {"tag": tag, "include": include, "prompt": prompt}


def _clause(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": count, **more}


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plural(name: str) -> str:
    """The official prompts say knifes, benchs and sheeps."""
    return name + ("es" if name.endswith("s") else "s")
