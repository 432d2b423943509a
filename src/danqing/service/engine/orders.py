"""The messages between callers that order pictures and the scheduler."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from danqing.errors import DanqingError
from danqing.options import Verb

Pixels = NDArray[np.uint8]
"""`[n, h, w, c]`, c from 1 to 4."""
Painting = NDArray[np.uint8] | NDArray[np.uint16]
"""Pictures from the worker, `[n, h, w, c]`; 16 bits only for edits of files that have them."""


WHOLE: tuple[Verb, ...] = ("translate", "relabel", "stylize")
"""The verbs that edit a whole picture, without a mask."""
NO_BORDERS = (0, 0, 0, 0)
"""The borders of a picture that is not expanded."""
SOURCE_LABEL = "source_label"
"""The option of `relabel` that says what the picture shows."""
ADAPTERS = "adapters"
"""The option that says with which adapters a model paints, such as "cats:0.8,gold:0.4"."""

Ability = Literal["classify", "detect", "segment", "embed", "search", "attribute", "judge"]
"""What a model does with a picture or a text; `judge` is what filters ask a classifier."""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One picture to paint.

    Its pixels depend only on it and the options of its order.

    mix: seeds with their shares, as `randomness.SeedMix` takes them, instead of `seed`.
    moves: directions of the model by their numbers, each with a distance.
    """

    seed: int
    label: str | int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    attributes: Mapping[str, Any] | None = None
    mix: tuple[tuple[int, float], ...] = ()
    moves: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class WholeImage:
    """A picture of any size that is edited at its own size.

    It stays encoded while its order waits: a small file may decode to many pixels.

    content: the file. size: (width, height), upright.
    mask: where to fill, as `pack` returns it; None for other verbs.
    keeps_file: whether depth and colour space stay those of the file, or become 8 bits and sRGB.
    is_fine: whether the model sees the picture at its own resolution, in parts, or whole and resized.
    expand: pixels to add at the left, top, right and bottom, which are filled.
    feather: pixels over which new pixels become visible, from the edge of the mask inwards.
    """

    content: bytes
    size: tuple[int, int]
    mask: bytes | None = None
    keeps_file: bool = False
    is_fine: bool = False
    expand: tuple[int, int, int, int] = NO_BORDERS
    feather: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """What is recognized: an encoded picture, or a text in UTF-8.

    What is judged is packed by `pack_pixels` instead.
    """

    content: bytes
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What a recognizer or an index finds for one query.

    values: for JSON. content: the mask as a PNG file, the maps of an attribution as one PNG file after the
    other, or the vector as float32 in little-endian order.
    """

    values: Mapping[str, Any]
    content: bytes = b""


def pack(mask: NDArray[np.bool_]) -> bytes:
    """Pack a mask, bool `[h, w]`, in few bytes."""
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def unpack(packed: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask that `pack` compressed, for a (width, height)."""
    width, height = size
    bits = np.frombuffer(zlib.decompress(packed), np.uint8)
    return np.unpackbits(bits, count=width * height).reshape(height, width).astype(np.bool_)


def pack_pixels(pixels: Pixels) -> bytes:
    """Pack one RGB picture `[h, w, 3]` without encoding it."""
    return np.asarray(pixels.shape[:2], "<u4").tobytes() + pixels.tobytes()


def unpack_pixels(packed: bytes) -> Pixels:
    """Return the picture that `pack_pixels` packed, as `[1, h, w, 3]`."""
    height, width = np.frombuffer(packed[:8], "<u4").tolist()
    return np.frombuffer(packed, np.uint8, offset=8).reshape(1, height, width, 3).copy()


class Priority(IntEnum):
    """Who goes first: a client that waits, or a job."""

    INTERACTIVE = 0
    JOB = 1


@dataclass(frozen=True, slots=True)
class Order:
    """Pictures that are ordered together, or queries.

    images: uint8 `[n, h, w, c]`, one per row, at the model's size; for `fill` and `vary`.
    masks: bool `[n, h, w]`, true where to paint; for `fill`.
    whole: the picture that all rows edit at its own size, instead of `images` and `masks`.
    queries: what is recognized, one per row; for recognizers and indexes.
    previews: the number of requested intermediate pictures.
    owner: who placed the order, for fairness.
    seconds: until it expires, from now or, for a job, from when its painting begins.
    """

    model: str
    rows: tuple[ImageRow, ...]
    verb: Verb | Ability = "sample"
    options: Mapping[str, Any] = field(default_factory=dict)
    images: Pixels | None = None
    masks: NDArray[np.bool_] | None = None
    whole: WholeImage | None = None
    queries: tuple[Query, ...] = ()
    previews: int = 0
    owner: str = ""
    priority: Priority = Priority.INTERACTIVE
    seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Steps done, and all steps, of the whole order."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Preview:
    """Intermediate pictures of all rows, number `index` of the order's `previews`."""

    index: int
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Painted:
    """The pictures of all rows.

    With the seconds that they were queued and computed.
    """

    pixels: Painting
    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class Recognized:
    """The findings for all rows.

    With the seconds that they were queued and computed.
    """

    findings: tuple[Finding, ...]
    queue_seconds: float
    compute_seconds: float


Outcome = Painted | Recognized
Event = StepProgress | Preview | Outcome


class OverloadedError(DanqingError):
    """The queue is full; `retry_after`: seconds until there should be room."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelUnavailableError(DanqingError):
    """The model is served here, but cannot be loaded at present."""


class DeadlinePassedError(DanqingError):
    """An order expired before it was painted."""


class PaintingFailedError(DanqingError):
    """The worker failed to paint the order, or died twice.

    The order was valid.
    """


class OrderCancelledError(DanqingError):
    """The order was cancelled, or the scheduler stops."""


def rows_of(
    seeds: Sequence[int], mixes: Sequence[tuple[tuple[int, float], ...]] | None = None, **of_all: Any
) -> tuple[ImageRow, ...]:
    """Return one row per seed and mix, otherwise equal."""
    pairs = zip(seeds, mixes or [()] * len(seeds), strict=True)
    return tuple(ImageRow(seed=seed, mix=mix, **of_all) for seed, mix in pairs)
