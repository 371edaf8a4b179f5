"""Malformed objects, as a masked model's failures show them: what a judge must not find."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fpd_core.scenes import Drawing, Placed, Scene
from fpd_core.scenes.layouts import CELL, GRID, SPRITE_CELLS
from fpd_core.scenes.vocabulary import COLORS, OBJECTS, TINTED

BROKEN, UNTOUCHED = 0.3, 0.03
"""Change above which an object is malformed, and below which it is still whole."""

# Bounds of one die: cells of something else; own cells in other places; rows or columns repeated; cells of many things.
EXCHANGED, SHUFFLED, REPEATED = 0.65, 0.75, 0.85
GHOSTS = 0.35  # of the exchanged
# Bounds of one die: bare ground, the same kind in another colour, the same look moved, another kind moved or in place.
NOTHING, RETINTED, MOVED, OTHER_MOVED = 0.15, 0.35, 0.55, 0.7

Floats = NDArray[np.float32]
T = TypeVar("T")


def damage(random: np.random.Generator, drawing: Drawing, image: Floats, scene: Scene, index: int) -> float:
    """Damage object `index` of a drawn scene in place, cell by cell.

    Cells show something else (bare ground, another look of the same object, the object moved by a cell or two, another
    kind), alone or as a half transparent mixture; or they are shuffled; or rows or columns are repeated and left out;
    or they come from many things.

    Args:
        image: [3, 64, 64], as drawn at least inside the object's box.

    Returns:
        Mean absolute change of the box's pixels against the nearest whole object that they may show, in units of what
        the object itself changes on bare ground.
    """
    x0, y0, x1, y1 = scene.objects[index].box
    view = image[:, y0:y1, x0:x1]
    placed, own, dice = scene.objects[index], _cells(view), random.random()
    others, wholes = [_other(random, placed) for _ in range(1 if dice < EXCHANGED else 3)], [own]
    if dice < EXCHANGED:
        other, there = others[0], _shown(drawing, scene, index, others[0])
        in_place = other is not None and (other.x, other.y) == (placed.x, placed.y)
        # A mixture of two tints is a tint.
        ghost = random.random() < GHOSTS and not (in_place and other is not None and other.name == placed.name)
        broken = _exchange(random, own, there, ghost)
        wholes += [there] if in_place else []
    elif dice < REPEATED:
        broken = _shuffle(random, own) if dice < SHUFFLED else _repeat(random, own)
    else:
        broken = _mix(random, [own, *(_shown(drawing, scene, index, other) for other in others)])
    change = min(float(np.abs(broken - whole).mean()) for whole in wholes)
    contrast = float(np.abs(own - _shown(drawing, scene, index, None)).mean())
    view[:] = broken.reshape(view.shape)
    return change / contrast


def add_object(random: np.random.Generator, scene: Scene) -> Scene:
    """A further object where there is room; the scene as it is if a few places tried are taken."""
    for x, y in random.integers(0, GRID - SPRITE_CELLS + 1, size=(8, 2)).tolist():
        if all(max(abs(x - placed.x), abs(y - placed.y)) >= SPRITE_CELLS for placed in scene.objects):
            return replace(scene, objects=(*scene.objects, _any_look(random, Placed("", None, x, y))))
    return scene


def _shown(drawing: Drawing, scene: Scene, index: int, other: Placed | None) -> Floats:
    """Cells of an object's box with something else drawn in its place."""
    x0, y0, x1, y1 = scene.objects[index].box
    alone = replace(scene, objects=(other,) if other else ())
    return _cells(drawing(alone)[:, y0:y1, x0:x1])


def _other(random: np.random.Generator, placed: Placed) -> Placed | None:
    """What else could show at a place."""
    dice = random.random()
    if dice < NOTHING:
        return None
    if dice < RETINTED and placed.name in TINTED:
        return replace(placed, color=_one(random, [color for color in (None, *COLORS) if color != placed.color]))
    if dice < MOVED:
        return _moved(random, placed)
    return _any_look(random, _moved(random, placed) if dice < OTHER_MOVED else placed)


def _moved(random: np.random.Generator, placed: Placed) -> Placed:
    """By up to two cells, at least by one, inside the picture."""
    last = GRID - SPRITE_CELLS
    near = [range(max(0, place - 2), min(last, place + 2) + 1) for place in (placed.x, placed.y)]
    x, y = _one(random, [corner for corner in product(*near) if corner != (placed.x, placed.y)])
    return replace(placed, x=x, y=y)


def _any_look(random: np.random.Generator, placed: Placed) -> Placed:
    """Another kind, in its natural colours, in the same colour or in any."""
    name = _one(random, [name for name in OBJECTS if name != placed.name])
    return replace(placed, name=name, color=_one(random, [None, placed.color, *COLORS]) if name in TINTED else None)


def _exchange(random: np.random.Generator, own: Floats, other: Floats, ghost: bool) -> Floats:
    """Some cells of the other thing, or a mixture of both."""
    rows, columns = _some(random, 4, 10) if ghost else _some(random, 2, 8)
    share = np.float32(random.uniform(0.3, 0.7) if ghost else 1)
    broken = own.copy()
    broken[:, rows, :, columns] += share * (other - own)[:, rows, :, columns]
    return broken


def _shuffle(random: np.random.Generator, own: Floats) -> Floats:
    rows, columns = _some(random, 3, 10)
    moved = np.roll(np.arange(len(rows)), 1)
    broken = own.copy()
    broken[:, rows, :, columns] = own[:, rows[moved], :, columns[moved]]
    return broken


def _repeat(random: np.random.Generator, own: Floats) -> Floats:
    """Three rows or columns of cells, drawn with repetition."""
    return own.take(random.integers(0, SPRITE_CELLS, SPRITE_CELLS), axis=int(random.choice((1, 3))))


def _mix(random: np.random.Generator, wholes: Sequence[Floats]) -> Floats:
    """Every cell from one of several things, at any of its places."""
    places = range(SPRITE_CELLS)
    broken = wholes[0].copy()
    for row, column in product(places, places):
        broken[:, row, :, column] = _one(random, wholes)[:, _one(random, places), :, _one(random, places)]
    return broken


def _some(random: np.random.Generator, low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of `low` to `high - 1` cells."""
    chosen = random.permutation(SPRITE_CELLS**2)[: int(random.integers(low, high))]
    rows, columns = np.divmod(chosen, SPRITE_CELLS)
    return rows, columns


def _cells(box: Floats) -> Floats:
    """[3, 24, 24] -> [3, 3, 8, 3, 8]: channel, cell row, row, cell column, column."""
    return box.reshape(3, SPRITE_CELLS, CELL, SPRITE_CELLS, CELL)


def _one(random: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(random.integers(len(choices)))]
