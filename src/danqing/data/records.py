"""What every source of images offers: records, a count, and a key that tells whether it has changed."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from danqing.data.augment import Augment
from danqing.data.survey import Skipped, Survey
from danqing.errors import ConfigError, DataError
from danqing.image_files import Deep, DeepPixels, Frame, Range, convert, decode
from danqing.image_files.levels import is_range
from danqing.images import Alpha, Fit, Pixels, parse_background

Loaded = bytes | Path | Frame | Pixels | Image.Image | Deep
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


Load = Callable[[], Loaded]


class Record(NamedTuple):
    """One image of a source, not yet read; `load` raises DataError.

    source: loads the image that this one is made from, where the data holds pairs. attributes: the values of
    the declared columns.
    """

    name: str
    load: Load
    label: str | None = None
    text: str | None = None
    source: Load | None = None
    attributes: tuple[Any, ...] = ()


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
    attributes: tuple[str, ...]
    """The declared columns, in the order of `Record.attributes`."""
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

    def survey(self) -> Survey:
        """How the source was understood, what it leaves out, and why."""
        ...


class DataReport(BaseModel):
    """What was found when the data was read, every image of it; kept as `report.json` beside the cache.

    found = images + skipped + all of left_out. images: those in use. skipped: those that cannot be read, with
    their number by reason. left_out: those that were readable perhaps, and not wanted: in another split, not
    listed in the table. skipped_files, left_out_files: the first of each by name. records: images + skipped.
    duplicates: images whose pixels equal those of an earlier one. understood: how the data was read, by
    topic. formats: how many images came from files of each format; empty where they were never encoded, or an
    earlier version read them. source_sizes: the smallest and the largest (width, height) before resizing,
    each side by itself.
    """

    model_config = ConfigDict(frozen=True)

    found: int = 0
    records: int = 0
    images: int = 0
    skipped: int = 0
    reasons: dict[str, int] = {}
    skipped_files: tuple[Skipped, ...] = ()
    left_out: dict[str, int] = {}
    left_out_files: tuple[Skipped, ...] = ()
    duplicates: int = 0
    understood: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    formats: dict[str, int] = Field(default_factory=dict)
    source_sizes: tuple[tuple[int, int], tuple[int, int]] | None = None

    def account(self) -> str:
        """Say in one line how many images were found, used, skipped and left out, and why."""
        parts = [f"{self.images:,} used"]
        if self.skipped:
            reasons = "; ".join(f"{count:,} × {_unended(reason)}" for reason, count in self.reasons.items())
            parts.append(f"{self.skipped:,} skipped ({reasons})")
        parts += [f"{count:,} {reason}" for reason, count in self.left_out.items()]
        return f"{self.found:,} found: {', '.join(parts)}"

    def lines(self) -> list[str]:
        """Say what anyone who is about to use the data should see: the account, and what to look at."""
        known = [f"{topic}: {self.understood.get(topic, 'none')}" for topic in ("Labels", "Captions")]
        known = [line for line in known if ": none" not in line]
        return [f"Images: {self.account()}.", *(f"{line}." for line in known), *self.notes]


def reason_kind(reason: str) -> str:
    """Return a reason without the numbers and names of one file, so that files can be counted by it."""
    plain = re.sub(r"\s*\([^()]*\)", "", reason)
    return re.sub(r"(?<![A-Za-z0-9])\d[\d.,x]*", "…", plain)


def common_reasons(reasons: Mapping[str, int], files: Sequence[Skipped], most: int = 4) -> str:
    """Say why images cannot be read: the most common reasons, with counts and a file as an example."""
    parts = []
    for reason, count in Counter(reasons).most_common(most):
        example = next((file.name for file in files if reason_kind(file.reason) == reason), None)
        parts.append(f"{count:,} × {_unended(reason)}" + (f" (such as {example})" if example else ""))
    return "; ".join(parts) or "there are no images"


def _unended(sentence: str) -> str:
    return sentence.rstrip(".")


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
