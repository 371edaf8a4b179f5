"""Registries that other packages add to: what fpd brings along, and entry points of whatever is installed beside it.

A package declares in its `pyproject.toml`

    [project.entry-points."fpd.teachers"]
    toy = "own_teacher:TOY"

and `toy` is a teacher. Names are read from the packages' metadata; the code behind one is imported when that name is
asked for, so a broken package breaks nothing but its own names.
"""

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, ItemsView, Iterator, Mapping, MutableMapping, ValuesView
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from typing import Any, NoReturn, TypeVar

from fpd_core.config import ConfigError, nearest
from fpd_core.untrusted import printable, shown

T = TypeVar("T")
OURS = "fpd itself"
# Every group and the registry that reads it; nothing here is imported before a package adds to it.
REGISTRIES = {
    "fpd.teachers": "fpd_core.teachers:TEACHERS",
    "fpd.backbones": "fpd_core.backbones:BACKBONES",
    "fpd.distances": "fpd_core.distances:DISTANCES",
    "fpd.discriminator_branches": "fpd_core.discriminator.features:BRANCHES",
    "fpd.weights": "fpd_core.weight_files:WEIGHT_FILES",
    "fpd.methods": "fpd_train.methods:METHODS",
    "fpd.data": "fpd_train.data:SOURCES",
    "fpd.systems": "fpd_eval.systems:SYSTEMS",
    "fpd.extractors": "fpd_eval.extractors:EXTRACTORS",
    "fpd.eval_weights": "fpd_eval.extractors.weights:EVAL_WEIGHTS",
    "fpd.metrics": "fpd_eval.bench.registry:METRICS",
    "fpd.columns": "fpd_eval.report.columns:COLUMNS",
    "fpd.protocols": "fpd_eval.protocols:PROTOCOLS",
    "fpd.suites": "fpd_eval.geneval.suites:SUITES",
}


class PluginError(ConfigError):
    """A package that adds to fpd cannot be used; one sentence names it."""


@functools.lru_cache(maxsize=8)
def _found(path: tuple[str, ...], read: Callable[..., Any]) -> dict[str, list[EntryPoint]]:
    """Entry points of fpd's groups. Whoever changes `sys.path` sees other packages."""
    points = read()
    return {group: list(points.select(group=group)) for group in points.groups if group.startswith("fpd.")}


def _points(group: str) -> list[EntryPoint]:
    return _found(tuple(sys.path), importlib.metadata.entry_points).get(group, [])


def names(group: str) -> list[str]:
    """Names that packages add to a group, without importing them."""
    return [point.name for point in _points(group)]


def _package(point: EntryPoint) -> str:
    dist = point.dist
    return printable("a package without a name" if dist is None else f"{dist.metadata['Name']} {dist.version}")


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


@dataclass(frozen=True)
class Plugin:
    """One name that a package adds. `problem` is None where it works."""

    group: str
    name: str
    package: str
    problem: str | None


class Registry(MutableMapping[str, T]):
    """Things by name: `own`, and what packages add under the entry point group `group`.

    `registry[name] = thing` adds one in this process alone, from a notebook or a test.

    Args:
        group: a key of `REGISTRIES`.
        what: one of them in a sentence, such as "teacher".
        own: what fpd brings along; "module:attribute" is imported when it is asked for.
        wrong: why an object of a package is none of these, or None where it is one.
    """

    def __init__(
        self, group: str, what: str, own: Mapping[str, T | str], wrong: Callable[[str, Any], str | None] | None = None
    ) -> None:
        self.group, self.what, self.own, self._wrong = group, what, dict(own), wrong

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.own, *names(self.group)]))

    def __len__(self) -> int:
        return len(set(self))

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in names(self.group)

    def __setitem__(self, name: str, thing: T) -> None:
        self.own[name] = thing

    def __delitem__(self, name: str) -> None:
        del self.own[name]

    def __getitem__(self, name: str) -> T:
        """What is called `name`.

        Raises:
            PluginError: two packages claim it, or its package cannot be imported or brings something else.
            KeyError: nobody brings it; `find` answers with a sentence.
        """
        points = [point for point in _points(self.group) if point.name == name]
        claims = [OURS] * (name in self.own) + [_package(point) for point in points]
        if len(claims) > 1:
            raise PluginError(
                f"the {self.what} {shown(name)!r} comes from {' and from '.join(claims)}: uninstall all but one"
            )
        return self._load(points[0]) if points else self.brought(name)

    def brought(self, name: str) -> T:
        """What fpd itself calls `name`, whoever else does. Raises KeyError: it has none."""
        found = self.own[name]
        return _imported(found) if isinstance(found, str) else found

    def working(self) -> dict[str, T]:
        """All that can be used; what a broken package brings is left out, and `plugins` says so."""
        found = {}
        for name in self:
            try:
                found[name] = self[name]
            except PluginError:
                continue
        return found

    def items(self) -> ItemsView[str, T]:
        """Of `working`."""
        return self.working().items()

    def values(self) -> ValuesView[T]:
        """Of `working`."""
        return self.working().values()

    def __or__(self, other: Mapping[str, T]) -> dict[str, T]:
        return self.working() | dict(other)

    def find(self, name: str) -> T:
        """As `[name]`. Raises ConfigError: nobody brings it; the message holds the known names and the nearest."""
        if name not in self:
            raise nearest(name, list(self), self.what)
        return self[name]

    def plugins(self) -> list[Plugin]:
        """What packages add, each tried."""
        return [Plugin(self.group, point.name, _package(point), self._problem(point)) for point in _points(self.group)]

    def _problem(self, point: EntryPoint) -> str | None:
        try:
            self[point.name]
        except PluginError as error:
            return str(error)
        return None

    def _load(self, point: EntryPoint) -> T:
        try:
            found: T = point.load()
        except (Exception, SystemExit) as error:  # a stranger's import may raise anything
            self._refuse(point, f"{type(error).__name__}: {printable(error)}".strip().splitlines()[0])
        if self._wrong is not None and (reason := self._wrong(point.name, found)):
            self._refuse(point, reason)
        return found

    def _refuse(self, point: EntryPoint, reason: str) -> NoReturn:
        raise PluginError(
            f"the {self.what} {point.name!r} of the package {_package(point)} cannot be used: {reason}"
        ) from None


def installed() -> list[Plugin]:
    """What other packages add to fpd, each tried, by group and name; nothing of a part of fpd that is absent."""
    found = []
    for group in sorted(_found(tuple(sys.path), importlib.metadata.entry_points)):
        if group not in REGISTRIES:
            problem = str(nearest(group, list(REGISTRIES), "group of entry points"))
            found += [Plugin(group, point.name, _package(point), problem) for point in _points(group)]
        elif find_spec(REGISTRIES[group].partition(".")[0]) is not None:
            registry: Registry[Any] = _imported(REGISTRIES[group])
            found += sorted(registry.plugins(), key=lambda plugin: plugin.name)
    return found


def summary() -> str:
    """`installed` in lines for people; empty where no package adds anything."""
    return "".join(
        f"{plugin.group}: {plugin.name!r} of {plugin.package} "
        + ("is ready" if plugin.problem is None else f"is broken: {plugin.problem}")
        + "\n"
        for plugin in installed()
    )


def records() -> list[dict[str, object]]:
    """`installed` for programs, in the form of what else a doctor lists."""
    return [
        {
            "family": "plug-in",
            "group": plugin.group,
            "name": plugin.name,
            "package": plugin.package,
            "present": plugin.problem is None,
            "note": plugin.problem or "",
        }
        for plugin in installed()
    ]
