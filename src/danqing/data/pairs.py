"""Pairs of a source and a target image, declared as two folders, two halves or a column."""

import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from danqing.data.split_names import split_named
from danqing.errors import ConfigError, DataError
from danqing.image_files import Deep, read

Half = Literal["left", "right"]
HALVES = ("side-by-side", "side-by-side-reversed")


class Folders(NamedTuple):
    """The folders of sources and targets, relative to the data."""

    sources: str
    targets: str


def parse_pairs(text: str) -> Folders | str:
    """Read "A:B" as two folders.

    Return any other text: one of `HALVES`, or a column's name.

    Raises ConfigError.
    """
    if ":" not in text:
        return text
    sources, _, targets = (part.strip().strip("/") for part in text.partition(":"))
    if not sources or not targets or sources == targets or ":" in targets:
        raise ConfigError(
            f"pairs is {text!r}: write SOURCES:TARGETS (outlines:photos), side-by-side or a column's name."
        )
    return Folders(sources, targets)


class Place(NamedTuple):
    """The position of an image.

    Which of the two folders, the path below it, and the split.
    """

    folder: str
    rest: str
    split: str | None


def place_of(path: str, split: str | None, folders: Folders) -> Place | None:
    """Return the place of an image from its path below the top.

    None if it is in neither folder.

    split: that of a folder above the two. Otherwise a folder below them may name one: `photos/train/1.png`.
    """
    if split is not None:
        path = path.partition("/")[2]
    for folder in folders:
        if path.startswith(folder + "/"):
            rest = path[len(folder) + 1 :]
            head, _, below = rest.partition("/")
            if split is None and below and (named := split_named(head)):
                return Place(folder, below, named)
            return Place(folder, rest, split)
    return None


def pair_key(place: Place) -> str:
    """Return the common key of a pair.

    The path without suffix and case, and the split.
    """
    return f"{place.split or ''}/{posixpath.splitext(place.rest)[0].casefold()}"


def half(load: Callable[[], bytes | Path], which: Half) -> Image.Image | Deep:
    """Read one half of an image.

    Raises DataError if its width is odd or it cannot be read.
    """
    image = read(load())
    width = image.width if isinstance(image, Image.Image) else image.values.shape[1]
    if width % 2:
        raise DataError(f"The image is {width} pixels wide and cannot be halved: make the width even.")
    left, right = (0, width // 2) if which == "left" else (width // 2, width)
    if isinstance(image, Image.Image):
        return image.crop((left, 0, right, image.height))
    return image._replace(values=image.values[:, left:right])


def halves_of(pairs: str) -> tuple[Half, Half]:
    """Return the numbers of the source half and the target half."""
    return ("left", "right") if pairs == "side-by-side" else ("right", "left")
