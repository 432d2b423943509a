"""The built-in data sets: one small file each, with licence and citation.

A module here has `ABOUT`, `SUMMARY` (one line), `fetch(on_progress)` (which downloads what is
missing and returns the folder, or None if a package has the data), and
`open(split, part, on_progress)`, which returns a source and the labels that are still to be selected from it.
"""

import importlib
import re
from pathlib import Path
from typing import Protocol, cast

from danqing.data.records import About, Source
from danqing.errors import DataError, MissingSplitError
from danqing.progress import ProgressCallback

MODULES = {
    "shapes": "shapes",
    "emoji": "emoji",
    "streets": "streets",
    "cells": "cells",
    "digits": "digits",
    "mnist": "mnist",
    "fashion-mnist": "fashion_mnist",
    "cifar10": "cifar10",
}


class Builtin(Protocol):
    """The contract of a module in this folder."""

    ABOUT: About
    SUMMARY: str

    def fetch(self, on_progress: ProgressCallback | None = None) -> Path | None: ...
    def open(
        self, split: str, part: tuple[str, ...], on_progress: ProgressCallback | None
    ) -> tuple[Source, tuple[str, ...]]: ...


def names() -> tuple[str, ...]:
    """Return the names that `open_dataset` accepts."""
    return tuple(MODULES)


def load(name: str) -> Builtin:
    """Return the module of a built-in set; raise DataError."""
    if name not in MODULES:
        raise DataError(f"There is no built-in data set called {name!r}: choose one of {', '.join(MODULES)}.")
    return cast(Builtin, importlib.import_module(f"{__name__}.{MODULES[name]}"))


def find(
    text: str, split: str, on_progress: ProgressCallback | None
) -> tuple[Source, tuple[str, ...]] | None:
    """Return the set that `name`, `name:part,part` or `name/part,part` means.

    None if it is not built in.
    """
    name, *rest = re.split("[:/]", text, maxsplit=1)  # only the first: a label may hold a slash
    if name not in MODULES:
        return None
    chosen = tuple(word.strip() for word in "".join(rest).split(",") if word.strip())
    return load(name).open(split, chosen, on_progress)


def only_train(name: str, split: str) -> None:
    """Raise DataError unless a split is `train` or `all`."""
    if split not in ("train", "all"):
        raise MissingSplitError(f"{name} has no {split} split: all of it is training data.")
