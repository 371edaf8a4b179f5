"""Where the objects of a caption stand: a lattice of 8x8 cells, sprites of 3x3 cells that never overlap."""

from dataclasses import dataclass

import numpy as np

from fpd_core.scenes.captions import (
    Record,
    color_attr,
    colors,
    counting,
    held_out,
    position,
    single_object,
    two_object,
)
from fpd_core.scenes.vocabulary import COLORS, NUMBER_WORDS, OBJECTS, RELATIONS, TINTED

CELL, GRID, SPRITE_CELLS = 8, 8, 3
IMAGE_SIZE, SPRITE_SIZE = CELL * GRID, CELL * SPRITE_CELLS
NUM_BACKGROUNDS = 3
NATURAL_SHARE = 0.3  # of the second or first object of a coloured pair

Corner = tuple[int, int]


@dataclass(frozen=True)
class Placed:
    """An object by kind and colour (None: natural) with its upper left cell."""

    name: str
    color: str | None
    x: int
    y: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels."""
        return (self.x * CELL, self.y * CELL, self.x * CELL + SPRITE_SIZE, self.y * CELL + SPRITE_SIZE)


@dataclass(frozen=True)
class Scene:
    """A caption's record, what is drawn for it, and on which background."""

    record: Record
    objects: tuple[Placed, ...]
    background: int


def draw_scene(random: np.random.Generator, task: str) -> Scene:
    """A random scene of one of the six tasks whose prompt is not held out."""
    record = _draw_record(random, task)
    while held_out(record):
        record = _draw_record(random, task)
    return place(random, record)


def place(random: np.random.Generator, record: Record) -> Scene:
    """A random layout that shows what a record asks for."""
    clauses = record["include"]
    first = clauses[0]
    if record["tag"] == "counting":
        corners = _group(random, first["count"])
        wanted = [(first["class"], None)] * first["count"]
    else:
        wanted = [(clause["class"], clause.get("color")) for clause in clauses]
        corners = [_middle(random)] if len(clauses) == 1 else _pair(random, clauses[1].get("position"))
    objects = tuple(Placed(*what, *corner) for what, corner in zip(wanted, corners, strict=True))
    return Scene(record, objects, int(random.integers(NUM_BACKGROUNDS)))


def _draw_record(random: np.random.Generator, task: str) -> Record:
    if task == "single_object":
        return single_object(_one(random, OBJECTS))
    if task == "two_object":
        return two_object(*_two(random, OBJECTS))
    if task == "counting":
        return counting(_one(random, OBJECTS), int(random.choice(list(NUMBER_WORDS))))
    if task == "colors":
        return colors(_one(random, TINTED), _one(random, COLORS))
    if task == "position":
        a, b = _two(random, OBJECTS)
        return position(a, _one(random, RELATIONS), b)
    return _draw_color_attr(random)


def _draw_color_attr(random: np.random.Generator) -> Record:
    first, second = _two(random, COLORS)
    if random.random() >= NATURAL_SHARE:
        a, b = _two(random, TINTED)
        return color_attr(a, first, b, second)
    a = _one(random, TINTED)
    b = _one(random, tuple(name for name in OBJECTS if name != a))
    return color_attr(a, first, b, None) if random.random() < 0.5 else color_attr(b, None, a, first)


def _middle(random: np.random.Generator) -> Corner:
    x, y = random.integers(1, 5, size=2)
    return int(x), int(y)


def _pair(random: np.random.Generator, wanted: tuple[str, int] | None) -> list[Corner]:
    """Opposite halves. `wanted` is where the second object stands seen from the first; without it, to the right."""
    relation = wanted[0] if wanted else "right of"
    near, far, across = int(random.integers(2)), int(random.integers(4, 6)), int(random.integers(1, 5))
    shifted = int(np.clip(across + random.integers(-1, 2), 0, 5))
    places = [(near, across), (far, shifted)]
    if relation in ("above", "below"):
        places = [(y, x) for x, y in places]
    # The second object has the smaller coordinate where it is left of or above the first.
    return places[::-1] if relation in ("left of", "above") else places


def _group(random: np.random.Generator, count: int) -> list[Corner]:
    """Two side by side, three in a triangle, four in the corners, moved by up to one cell each."""
    anchors = {2: [(0, 2), (4, 2)], 3: [(2, 0), (0, 4), (4, 4)], 4: [(0, 0), (4, 0), (0, 4), (4, 4)]}[count]
    moves = random.integers(0, 2, size=(count, 2)).tolist()
    return [(x + dx, y + dy) for (x, y), (dx, dy) in zip(anchors, moves, strict=True)]


def _one(random: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(random.integers(len(names)))]


def _two(random: np.random.Generator, names: tuple[str, ...]) -> tuple[str, str]:
    first, second = random.choice(len(names), size=2, replace=False)
    return names[first], names[second]
