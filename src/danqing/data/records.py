"""What every source of images offers: records, a count, and a key that tells whether it has changed."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from danqing.data.augment import Augment
from danqing.errors import ConfigError, DataError
from danqing.image_files import DeepPixels, Frame, Range, convert, decode
from danqing.image_files.levels import is_range
from danqing.images import Alpha, Fit, Pixels, parse_background

Loaded = bytes | Path | Frame | Pixels | Image.Image
"""What `Record.load` returns: an encoded file, its path, one image of a file, or decoded pixels."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The size (width, height), channels, range and depth of images; the data decides None and 0.

    range: the (low, high) that become black and white where values have more than 8 bits. depth: the bits
    that are kept, 8 or 16.
    """

    size: tuple[int, int] | None = None
    channels: int = 0
    alpha: Alpha = "flatten"
    background: str = "#ffffff"
    fit: Fit = "crop"
    range: Range | None = None
    depth: int = 0

    def __post_init__(self) -> None:
        if self.size is not None and not all(1 <= side <= 4096 for side in self.size):
            raise ConfigError(
                f"The size {self.size[0]}x{self.size[1]} is out of range: use 1 to 4096 a side."
            )
        for value, choices, name in (
            (self.channels, (0, 1, 2, 3, 4), "channels"),
            (self.alpha, ("flatten", "keep"), "alpha"),
            (self.fit, ("crop", "pad", "stretch"), "fit"),
            (self.depth, (0, 8, 16), "depth"),
        ):
            if value not in choices:
                raise ConfigError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}.")
        parse_background(self.background)
        if self.range is not None and not is_range(self.range):
            raise ConfigError(f"The range {self.range} is not valid: give two numbers, the lower one first.")

    def asked(self) -> dict[str, Any]:
        """Return the options as plain values, without a range and depth that are left to the data."""
        left_open = {name for name in ("range", "depth") if not getattr(self, name)}
        return {name: value for name, value in asdict(self).items() if name not in left_open}

    def decode_options(self) -> dict[str, Any]:
        """Return the options of `danqing.image_files.decode` that give such images."""
        return {**asdict(self), "depth": self.depth or 8}

    def prepared(self, image: Loaded) -> Pixels | DeepPixels:
        """Bring an image to this form: uint8 or uint16 `[h, w, c]`; raises DataError."""
        if isinstance(image, bytes | Path | Frame):
            return decode(image, **self.decode_options())
        return convert(image, **self.decode_options())


class Record(NamedTuple):
    """One image of a source, not yet read; `load` raises DataError."""

    name: str
    load: Callable[[], Loaded]
    label: str | None = None
    text: str | None = None


class About(NamedTuple):
    """What a source says of itself."""

    name: str
    licence: str = "unknown"
    citation: str = ""
    augment: Augment = Augment(flip=True)


class Natural(NamedTuple):
    """The size, colour, transparency and depth of a source's images, where it knows them unseen."""

    size: tuple[int, int]
    colour: bool
    transparent: bool
    depth: int = 8


class Source(Protocol):
    """Images from somewhere, in an order that never changes while its `key` stays the same."""

    about: About
    label_names: tuple[str, ...]
    """The order of the labels; empty where they are simply sorted."""
    natural: Natural | None

    def key(self) -> str:
        """A short text that changes when the source does; must be quick, however large the source is."""
        ...

    def count(self) -> int:
        """How many records there are."""
        ...

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        """The records from number `start` on; `spec` is what the images will be brought to."""
        ...

    def notes(self) -> list[str]:
        """Sentences for the report: what was left out, and why."""
        ...


class Skipped(BaseModel):
    """A file that could not be used."""

    model_config = ConfigDict(frozen=True)

    name: str
    reason: str


class DataReport(BaseModel):
    """What was found when the data was read: kept as `report.json` beside the cache.

    records: images the source names. images: those that could be read. skipped: the others, of which the
    first hundred are named. duplicates: images whose pixels equal those of an earlier one.
    """

    model_config = ConfigDict(frozen=True)

    records: int = 0
    images: int = 0
    skipped: int = 0
    skipped_files: tuple[Skipped, ...] = ()
    duplicates: int = 0
    notes: tuple[str, ...] = ()


class DatasetInfo(BaseModel):
    """Where a data set comes from, under which licence, and how it should be augmented.

    range: the (low, high) that became black and white in images of more than 8 bits, None where there are
    none.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    licence: str = "unknown"
    citation: str = ""
    augment: Augment = Augment()
    report: DataReport = DataReport()
    range: Range | None = None


def text_of(value: Any) -> str | None:
    """The text of an image from what its metadata gives: a string, or a list of strings, one caption to a
    line; None where there is none.
    """
    if isinstance(value, list | tuple):
        value = "\n".join(" ".join(str(one).split()) for one in value if one is not None)
    return None if value is None or value == "" else str(value)


def digest(*parts: str | bytes) -> str:
    """The sha256, in hexadecimal, of some parts, each told from the next."""
    hasher = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(content).to_bytes(8, "big") + content)
    return hasher.hexdigest()


def file_key(path: Path) -> str:
    """Size, time and both ends of one file: constant time, and a rewritten archive changes its end.

    Raises DataError where the file cannot be read.
    """
    try:
        status = path.stat()
        with open(path, "rb") as file:
            head = file.read(65536)
            file.seek(max(0, status.st_size - 65536))
            tail = file.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    return digest(str(status.st_size), str(status.st_mtime_ns), head, tail)


def grey(pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> Pixels:
    """A grey picture `[h, w]` with its channel axis."""
    return pixels[:, :, None]
