"""Masks of images of any size by an exported model: at the image's own size, and in tiles."""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from danqing.compress.runtime.graphs import Array
from danqing.compress.runtime.recognizer import RuntimeRecognizer
from danqing.editing.windows import kept_parts
from danqing.errors import ConfigError
from danqing.image_files import decode, inspect
from danqing.images import floats_of_pixels
from danqing.model.reading import seen_size

TILE = 1024
"""The side of a tile in pixels, as of `danqing.recognition.segment`."""


def mask_of(
    recognizer: RuntimeRecognizer,
    content: bytes,
    *,
    scale: str = "model",
    tile: int = TILE,
    look: Callable[[], None] = lambda: None,
) -> NDArray[np.uint8]:
    """Return the class of each pixel of an encoded image, `[h, w]`, at its own size.

    scale: whether the model sees the image at the scale of its training images ("model") or as it is ("own").
    look: called before each tile.
    Raises DataError, and ConfigError for a size that the export does not take.
    """
    natural = inspect(content).size
    reading = recognizer.reading()
    reading |= {"size": seen_size(reading, natural) if scale == "model" else None, "fit": "stretch"}
    pixels = decode(content, depth=16, **reading)
    half = 127.5 if pixels.dtype == np.uint8 else 32767.5
    logits = _in_tiles(recognizer, floats_of_pixels(pixels[None], half), tile, look)
    if logits.shape[:0:-1] == natural:
        return np.asarray(logits.argmax(0), np.uint8)
    return _enlarged_argmax(logits, natural)


def _in_tiles(
    recognizer: RuntimeRecognizer, images: Array, tile: int, look: Callable[[], None]
) -> NDArray[np.float32]:
    """Compute the logits of an image `[1, c, h, w]`, as `danqing.editing.tiles` does; returns `[k, h, w]`."""
    height, width = images.shape[2:]
    multiple = recognizer.manifest.sizes.multiple
    if not multiple:
        if (width, height) != recognizer.size:
            own = "x".join(map(str, recognizer.size))
            raise ConfigError(f"This export segments images of {own} alone: send one of this size.")
        look()
        return np.asarray(recognizer.mask_logits(images)[0])
    side = max(tile // multiple, 2) * multiple
    overlap = min(2 * recognizer.loop.reach, side // 2)
    missing = ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple))
    padded = np.pad(images, missing, mode="edge")
    sides = (min(side, padded.shape[2]), min(side, padded.shape[3]))
    rows = kept_parts(padded.shape[2], sides[0], overlap, multiple)
    columns = kept_parts(padded.shape[3], sides[1], overlap, multiple)
    whole: NDArray[np.float32] | None = None
    for (top, first_row, end_row), (left, first, end) in itertools.product(rows, columns):
        look()
        found = recognizer.mask_logits(padded[:, :, top : top + sides[0], left : left + sides[1]])[0]
        if whole is None:
            whole = np.empty((len(found), *padded.shape[2:]), np.float32)
        part = found[:, first_row - top : end_row - top, first - left : end - left]
        whole[:, first_row:end_row, first:end] = part
    assert whole is not None
    return whole[:, :height, :width]


def _enlarged_argmax(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Interpolate logits `[k, h, w]` to a (width, height) and return the largest; one class at a time."""
    rows, columns = _between(logits.shape[1], size[1]), _between(logits.shape[2], size[0])
    best, mask = None, np.zeros(size[::-1], np.uint8)
    for number, values in enumerate(logits):
        larger = _interpolated(_interpolated(values.T, columns).T, rows)
        if best is None:
            best = larger
            continue
        mask[larger > best] = number
        best = np.maximum(best, larger)
    return mask


_Between = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def _between(length: int, wanted: int) -> _Between:
    """Return between which places each of some new ones lies, and how near it is to the second.

    The ends of both axes lie on each other, as `align_corners=False` of `torch.nn.functional.interpolate`.
    """
    scale = np.float32(length / wanted)
    at = np.maximum((np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    before = at.astype(np.int64)
    return before, np.minimum(before + 1, length - 1), at - before.astype(np.float32)


def _interpolated(values: NDArray[np.float32], between: _Between) -> NDArray[np.float32]:
    """Interpolate along the first axis."""
    before, after, share = between
    return (1 - share)[:, None] * values[before] + share[:, None] * values[after]
