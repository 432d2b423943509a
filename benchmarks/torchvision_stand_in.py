"""Modules by the name of torchvision, for packages that import it and do not use it.

With the CPU build of torch, torchvision does not load. timm imports it for transforms and data sets.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any

from torch import nn


class _Placeholder(type):
    """A class that has every attribute, whose value is its name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _StandIn(types.ModuleType):
    """A module that has every class."""

    __path__: list[str] = []  # noqa: RUF012 - as of a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder(name, (nn.Module,), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Leave the module as it is."""


def install() -> None:
    """Let `import torchvision`, and of anything in it, succeed in this process."""
    sys.meta_path.insert(0, _Finder())
