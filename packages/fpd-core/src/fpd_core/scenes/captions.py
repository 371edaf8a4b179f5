"""Records in GenEval's form for the objects of this world: prompt and the clauses that a judge checks.

A record is held out where training never sees its prompt: `held_out` is the one rule for both sides.
"""

from collections.abc import Iterator
from itertools import permutations
from typing import Any

from fpd_core.scenes.vocabulary import (
    COLORS,
    NUMBER_WORDS,
    OBJECTS,
    OFFICIAL_COLORS,
    OFFICIAL_COUNTS,
    OFFICIAL_PAIRS,
    RELATIONS,
    TINTED,
)

Record = dict[str, Any]


def single_object(name: str) -> Record:
    return _record("single_object", [_clause(name)], f"a photo of {_with_article(name)}")


def two_object(a: str, b: str) -> Record:
    return _record("two_object", [_clause(a), _clause(b)], f"a photo of {_with_article(a)} and {_with_article(b)}")


def counting(name: str, count: int) -> Record:
    record = _record("counting", [_clause(name, count)], f"a photo of {NUMBER_WORDS[count]} {_plural(name)}")
    return record | {"exclude": [_clause(name, count + 1)]}


def colors(name: str, color: str) -> Record:
    return _record("colors", [_clause(name, color=color)], f"a photo of {_with_article(color)} {name}")


def position(a: str, relation: str, b: str) -> Record:
    prompt = f"a photo of {_with_article(a)} {relation} {_with_article(b)}"
    return _record("position", [_clause(b), _clause(a, position=[relation, 0])], prompt)


def color_attr(a: str, first: str | None, b: str, second: str | None) -> Record:
    """Two coloured objects; None leaves one in its natural colours, which GenEval itself never asks for."""
    clauses = [_clause(name, color=color) if color else _clause(name) for name, color in ((a, first), (b, second))]
    phrases = [_with_article(f"{color} {name}" if color else name) for name, color in ((a, first), (b, second))]
    return _record("color_attr", clauses, f"a photo of {phrases[0]} and {phrases[1]}")


def all_records(task: str) -> Iterator[Record]:
    """Every record of a task, in a fixed order."""
    if task == "single_object":
        yield from map(single_object, OBJECTS)
    elif task == "two_object":
        yield from (two_object(a, b) for a, b in permutations(OBJECTS, 2))
    elif task == "counting":
        yield from (counting(name, count) for name in OBJECTS for count in NUMBER_WORDS)
    elif task == "colors":
        yield from (colors(name, color) for name in TINTED for color in COLORS)
    elif task == "position":
        yield from (position(a, relation, b) for a, b in permutations(OBJECTS, 2) for relation in RELATIONS)
    else:
        pairs = permutations(TINTED, 2)
        yield from (color_attr(a, first, b, second) for a, b in pairs for first, second in permutations(COLORS, 2))


def held_out(record: Record) -> bool:
    """Whether training leaves this record out; the official prompts of these objects are held out but for single ones.

    * two objects (`two_object`, `position`, `color_attr`): the pair of kinds, in either order, where their places in
      `OBJECTS` add up to a multiple of 5;
    * `counting`: kind and number, where place plus number is a multiple of 4;
    * `colors`: kind and colour, where the places in `TINTED` and `COLORS` add up to a multiple of 5. Such an object is
      still seen beside another one, in captions of `color_attr`: without that its look would be unknown;
    * `single_object`: none, every kind must have been seen.
    """
    names = [clause["class"] for clause in record["include"]]
    if record["tag"] == "single_object":
        return False
    if record["tag"] == "counting":
        count = record["include"][0]["count"]
        return (OBJECTS.index(names[0]) + count) % 4 == 0 or (names[0], count) in OFFICIAL_COUNTS
    if record["tag"] == "colors":
        color = record["include"][0]["color"]
        return (TINTED.index(names[0]) + COLORS.index(color)) % 5 == 0 or (names[0], color) in OFFICIAL_COLORS
    a, b = names
    return sum(map(OBJECTS.index, names)) % 5 == 0 or (a, b) in OFFICIAL_PAIRS or (b, a) in OFFICIAL_PAIRS


def _record(tag: str, include: list[dict[str, Any]], prompt: str) -> Record:
    return {"tag": tag, "include": include, "prompt": prompt}


def _clause(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": count, **more}


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plural(name: str) -> str:
    return name + ("es" if name.endswith("s") else "s")
