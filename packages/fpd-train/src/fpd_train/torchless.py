"""Reading a config without torch, whose import takes seconds: stand-ins take its place while sections are imported.

Sections stand beside the networks they configure. To read one, its module must be imported, and nothing in it run; so,
as Sphinx does with `autodoc_mock_imports`, names of torch are answered with empty classes. They can be inherited from,
named in annotations and used as decorators; whoever computes with one learns that torch is needed, and gets torch.
"""

import importlib
import sys
from abc import ABCMeta
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points, version
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
# Imported under the stand-ins: all that reads a config and what it needs.
MODULES = ("fpd_train.config", "fpd_train.preflight", "fpd_train.memory")
OURS = ("fpd_core", "fpd_train", "torch")


class TorchNeededError(Exception):
    """Something computes, and torch is not there."""


class _Answers(ABCMeta):
    """The class of stand-ins: attributes are stand-ins; a call while modules are imported is an instance."""

    importing = False

    def __getattr__(cls, name: str) -> "_Answers":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Answers(name, (), {})

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if not _Answers.importing:
            raise TorchNeededError(cls.__name__)
        return (
            super().__call__() if cls is _Decorator or _Decorator in cls.__mro__ else super().__call__(*args, **kwargs)
        )

    def __getitem__(cls, key: Any) -> "_Answers":
        return cls


class _Decorator(metaclass=_Answers):
    """What calling a stand-in gives: `@torch.no_grad()` leaves its function as it is, methods chain."""

    def __call__(self, wrapped: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not _Answers.importing:
            raise TorchNeededError("torch")
        return wrapped if callable(wrapped) else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not _Answers.importing:
            raise AttributeError(name)
        return self


class _StandIn(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return version("torch")
        if name.startswith("__"):
            raise AttributeError(name)
        found = _Answers(name, (_Decorator,), {})
        setattr(self, name, found)  # one class per name, so that it may be inherited from twice
        return found


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torch" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def without_torch(job: Callable[[], T]) -> T:
    """`job()`, without torch where that can be: not where it is imported already, `job` computes with it, or another
    package adds to fpd, whose code nobody here knows."""
    if "torch" in sys.modules or any(group.startswith("fpd.") for group in entry_points().groups):
        return job()
    try:
        with _stand_ins():
            return job()
    except TorchNeededError:
        return job()


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Stand-ins for torch; afterwards no module is left that has seen them."""
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        _Answers.importing = True
        for name in MODULES:
            importlib.import_module(name)
        _Answers.importing = False
        yield
    finally:
        _Answers.importing = False
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in OURS or _has_seen(sys.modules[name]):
                _forget(name)


def _has_seen(module: ModuleType) -> bool:
    return any(isinstance(value, _StandIn | _Answers | _Decorator) for value in list(vars(module).values()))


def _forget(name: str) -> None:
    del sys.modules[name]
    parent, _, last = name.rpartition(".")
    if parent in sys.modules and hasattr(sys.modules[parent], last):
        delattr(sys.modules[parent], last)
