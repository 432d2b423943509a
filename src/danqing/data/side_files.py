"""Files beside an image that describe it: `cat.txt` holds the captions of `cat.png`, `cat.cls` its label."""

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from danqing.data import tables
from danqing.errors import DataError
from danqing.names import normalized

KINDS = {".txt": "caption", ".text": "caption", ".caption": "caption", ".cls": "label", ".json": "json"}
_SAMPLE = 50
_NUMBERS = re.compile(r"[-+0-9.eE\s,;]+")

Read = Callable[[str], bytes]


class Beside(NamedTuple):
    """The names of one image's side files; None if there is none."""

    caption: str | None = None
    label: str | None = None
    json: str | None = None


class Words(NamedTuple):
    """The values of an image in its side files."""

    label: str | None = None
    caption: str | None = None
    values: Mapping[str, Any] = MappingProxyType({})

    def value(self, name: str) -> Any:
        """Return the value of a declared attribute, or None."""
        return self.values.get(tables.find_header(self.values, name) or "")

    def label_set(self, name: str) -> Any:
        """Return the labels of an image that may have several.

        name: of a value, or "auto" for the one that is known to be a label.
        """
        if name != "auto":
            return self.value(name)
        column = tables.find_columns(self.values).label
        return self.values.get(column or "", self.label)


def find_beside(images: Sequence[str], others: Iterable[str]) -> dict[str, Beside]:
    """Return the side files of the images that have some.

    They share its path, up to the last dot, or to an earlier one: `a.png.txt` belongs to `a.png`, and `a.txt`
    to both `a.left.png` and `a.right.png`. But `2023-07-14 12.30.01.png` is a name with dots in it.
    """
    by_stem: dict[str, dict[str, str]] = {}
    for name in others:
        stem, ending = posixpath.splitext(name)
        kind = KINDS.get(ending.lower())
        if kind == "caption" and stem.lower().endswith(".cls"):  # WebDataset's `.cls.txt`
            stem, kind = stem[:-4], "label"
        if kind is not None:
            by_stem.setdefault(stem, {}).setdefault(kind, name)
    if not by_stem:
        return {}
    found = {}
    for image in images:
        kinds: dict[str, str] = {}
        for stem in _stems(image):
            kinds = by_stem.get(stem, {}) | kinds
        if kinds:
            found[image] = Beside(**kinds)
    return found


def say_something(files: Sequence[Beside], read: Read) -> tuple[bool, bool]:
    """Decide from a sample whether side files hold labels, and captions: (labels, captions).

    Text files that hold only numbers are boxes of a detector (YOLO), not captions.
    """
    step = max(1, len(files) // _SAMPLE)
    words = [read_beside(one, read) for one in files[::step][: 2 * _SAMPLE]]
    captions = [one.caption for one in words if one.caption]
    are_words = any(not _NUMBERS.fullmatch(caption) for caption in captions)
    return any(one.label is not None for one in words), are_words


def read_beside(files: Beside, read: Read) -> Words:
    """Read the side files of an image.

    Raises DataError if one cannot be read.
    """
    values: Mapping[str, Any] = MappingProxyType({})
    label = caption = None
    if files.json is not None:
        try:
            found = json.loads(read(files.json))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{files.json} is not JSON ({error}).") from error
        if isinstance(found, dict):
            values = found
            columns = tables.find_columns(found, lambda header: not tables.is_missing(found[header]))
            (label,) = tables.label_texts([found.get(columns.label or "")])
            caption = tables.caption_text(found.get(columns.caption or ""))
    if files.label is not None:
        text = normalized(tables.decoded_text(files.label, read(files.label)))
        label = None if tables.is_missing(text) else text
    if files.caption is not None:
        caption = tables.caption_text(tables.decoded_text(files.caption, read(files.caption))) or caption
    return Words(label, caption, values)


def _stems(image: str) -> Iterable[str]:
    """Yield an image's path, without its suffix, then cut at each earlier dot of its name."""
    yield image
    stem = posixpath.splitext(image)[0]
    start = len(stem) - len(posixpath.basename(stem))
    while stem[start:]:
        yield stem
        dot = stem.rfind(".", start + 1)
        if dot < 0:
            return
        stem = stem[:dot]
