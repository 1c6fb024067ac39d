"""Stand-ins for packages that a library imports but does not need for what is measured; standard library only.

A worker names them before it imports its library. Any module below such a name can then be imported, and has any
attribute that is asked for; using one does nothing useful.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Anything(type):
    """Makes classes that can be a base class, a decorator, an annotation or a value, as an importing module needs."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(name)

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__


def _stand_in(name: str) -> Any:
    return _Anything(name, (), {"__class_getitem__": classmethod(lambda cls, item: cls)})


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _stand_in(name)
        setattr(self, name, value)
        return value


class _Finder(MetaPathFinder, Loader):
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in self._names):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


def stand_in_for(*names: str) -> None:
    """Let modules of these names, and all below them, be imported without being there."""
    sys.meta_path.insert(0, _Finder(names))


def without_init(name: str) -> None:
    """Make the modules of an installed package importable without running its `__init__`, which imports them all."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"{name} is not installed")
    package = _Module(name)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package
