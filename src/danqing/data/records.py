"""The contract of a source of images: records, a count, and a key that changes with it."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from danqing.data.augment import Augment
from danqing.data.buckets import Size, decode_to_nearest, nearest
from danqing.data.consent import Consent
from danqing.data.raw_targets import RawTargets
from danqing.data.survey import Skipped, Survey
from danqing.errors import ConfigError, DataError
from danqing.image_files import Deep, DeepPixels, Frame, Range, convert
from danqing.image_files.levels import is_range
from danqing.images import Alpha, Pixels, parse_background
from danqing.sizes import Fit

TARGETS = ("Label sets", "Boxes", "Masks")
"""The topics of `Survey.understood` about targets."""
Loaded = bytes | Path | Frame | Pixels | Image.Image | Deep
"""The result of `Record.load`: an encoded file, its path, one image of a file, or decoded pixels."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The size (width, height), channels, range and depth of images.

    None and 0 leave it to the data.

    range: the (low, high) that become black and white, for values of more than 8 bits. depth: the bits
    that are kept, 8 or 16.
    buckets: the sizes that images are brought to, each to the one whose aspect ratio is nearest; the first
    is `size`. True chooses sizes of about the area of `size`; empty is `size` alone.
    ignore_reservations: whether images are kept although their owners reserve training on them.
    """

    size: tuple[int, int] | None = None
    channels: int = 0
    alpha: Alpha = "flatten"
    background: str = "#ffffff"
    fit: Fit = "crop"
    range: Range | None = None
    depth: int = 0
    buckets: tuple[Size, ...] | Literal[True] = ()
    ignore_reservations: bool = False

    def __post_init__(self) -> None:
        for size in (*self.chosen_buckets, *([self.size] if self.size is not None else [])):
            if not _is_size(size):
                raise ConfigError(f"A size is (width, height) in pixels, such as (32, 32), not {size!r}.")
            width, height = size
            if not (1 <= width <= 4096 and 1 <= height <= 4096):
                raise ConfigError(f"The size {width}x{height} is out of range: use 1 to 4096 a side.")
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
        """Return the options as plain values.

        Without range and depth if these are left to the data, and without other options that have no effect.
        """
        optional = ("range", "depth", "buckets", "ignore_reservations")
        left_open = {name for name in optional if not getattr(self, name)}
        return {name: value for name, value in asdict(self).items() if name not in left_open}

    def decode_options(self) -> dict[str, Any]:
        """Return the options of `buckets.decode_to_nearest` that give such images."""
        options = {**asdict(self), "depth": self.depth or 8}
        del options["ignore_reservations"]
        return options

    def prepared(self, image: Loaded) -> Pixels | DeepPixels:
        """Convert an image to this form: uint8 or uint16 `[h, w, c]`; raise DataError."""
        options = self.decode_options()
        if isinstance(image, bytes | Path | Frame):
            return decode_to_nearest(image, **options)
        if buckets := options.pop("buckets"):
            options["size"] = buckets[nearest(_size_of(image), buckets)]
        return convert(image, **options)

    @property
    def chosen_buckets(self) -> tuple[Size, ...]:
        """Return the buckets, empty if none are chosen yet."""
        return self.buckets if isinstance(self.buckets, tuple) else ()

    @property
    def bytes_per_image(self) -> int:
        """Return the bytes of one image.

        With buckets, of the largest. The size, channels and depth must be known.
        """
        assert self.size is not None
        pixels = max(width * height for width, height in (self.size, *self.chosen_buckets))
        return pixels * self.channels * self.depth // 8


Load = Callable[[], Loaded]


def _is_size(size: Any) -> bool:
    """Return whether a value is a pair of whole numbers."""
    is_pair = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2
    return is_pair and all(isinstance(side, Integral) for side in size)


def _size_of(image: Pixels | Image.Image | Deep) -> Size:
    if isinstance(image, Image.Image):
        return image.size
    height, width = (image.values if isinstance(image, Deep) else image).shape[:2]
    return width, height


class Record(NamedTuple):
    """One image of a source, not yet read; `load` raises DataError.

    source: loads the source image, if the data holds pairs. attributes: the values of the declared columns.
    targets: what a learner predicts of the image besides its label, if the data has it.
    """

    name: str
    load: Load
    label: str | None = None
    text: str | None = None
    source: Load | None = None
    attributes: tuple[Any, ...] = ()
    targets: RawTargets | None = None


class About(NamedTuple):
    """The description of a source."""

    name: str
    licence: str = "unknown"
    citation: str = ""
    augment: Augment = Augment(flip=True)


class Natural(NamedTuple):
    """Properties of a source's images that are known without reading them."""

    size: tuple[int, int]
    colour: bool
    transparent: bool
    depth: int = 8


class Source(Protocol):
    """A source of images.

    Their order never changes while its `key` stays the same.
    """

    about: About
    label_names: tuple[str, ...]
    """The order of the labels; empty if they are simply sorted."""
    attributes: tuple[str, ...]
    """The declared columns, in the order of `Record.attributes`."""
    natural: Natural | None

    def key(self) -> str:
        """Return a short text that changes with the source.

        This must be fast, however large the source is.
        """
        ...

    def count(self) -> int:
        """Return the number of records."""
        ...

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        """Yield the records from number `start` on.

        `spec` is the form that the images will get.
        """
        ...

    def survey(self) -> Survey:
        """Return how the source was understood and what it leaves out."""
        ...


class DataReport(BaseModel):
    """The account of all images that were found.

    Stored as `report.json` in the cache.

    found = images + skipped + all of left_out. images: those in use. skipped: those that cannot be read, with
    their number by reason. left_out: those that are not wanted, such as images in another split or not in
    the table, and those whose owners reserve training. skipped_files, left_out_files: the first of each by
    name. records: those that were read. duplicates: images whose pixels equal those of an earlier one.
    contradicted: images whose pixels equal those of one with another label; an earlier version left it at 0.
    understood: how the data was read, by topic. formats: the number of images per file format; empty if they
    were never encoded, or an earlier version read them. source_sizes: the smallest and the largest (width,
    height) before resizing, per side. consent: what the files say of the rights in them and of people.
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
    contradicted: int = 0
    understood: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    formats: dict[str, int] = Field(default_factory=dict)
    source_sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    consent: Consent = Consent()

    def account(self) -> str:
        """Return one line.

        How many images were found, used, skipped and left out, and why.
        """
        parts = [f"{self.images:,} used"]
        if self.skipped:
            reasons = "; ".join(f"{count:,} × {_unended(reason)}" for reason, count in self.reasons.items())
            parts.append(f"{self.skipped:,} skipped ({reasons})")
        parts += [f"{count:,} {reason}" for reason, count in self.left_out.items()]
        return f"{self.found:,} found: {', '.join(parts)}"

    def lines(self) -> list[str]:
        """Return what users should see before they use the data.

        The account, and the notes.
        """
        topics = ("Labels", "Captions", *TARGETS)
        known = [f"{topic}: {self.understood.get(topic, 'none')}" for topic in topics]
        known = [line for line in known if ": none" not in line]
        told = [*self.notes, *self.consent.notes()]
        return [f"Images: {self.account()}.", *(f"{line}." for line in known), *told]


def reason_kind(reason: str) -> str:
    """Return a reason without the details of one file.

    It serves to count files by reason.
    """
    plain = re.sub(r"\s*\([^()]*\)", "", reason)
    return re.sub(r"(?<![A-Za-z0-9])\d[\d.,x]*", "…", plain)


def common_reasons(reasons: Mapping[str, int], files: Sequence[Skipped], most: int = 4) -> str:
    """Return the most common reasons why images cannot be read.

    With counts, and a file as an example.
    """
    parts = []
    for reason, count in Counter(reasons).most_common(most):
        example = next((file.name for file in files if reason_kind(file.reason) == reason), None)
        parts.append(f"{count:,} × {_unended(reason)}" + (f" (such as {example})" if example else ""))
    return "; ".join(parts) or "there are no images"


def _unended(sentence: str) -> str:
    return sentence.rstrip(".")


class DatasetInfo(BaseModel):
    """The origin and licence of a data set, and its default augmentation.

    range: the (low, high) that became black and white in images of more than 8 bits; None without such
    images.
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
    """Return the sha256, in hexadecimal, of several parts, which are kept separate."""
    hasher = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(content).to_bytes(8, "big") + content)
    return hasher.hexdigest()


def file_key(path: Path) -> str:
    """Return the size, time and both ends of a file.

    This is fast, and rewriting an archive changes its end.

    Raises DataError if the file cannot be read.
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
    """Return an image with a channel axis, even a grey one `[h, w]`."""
    return pixels[:, :, None]
