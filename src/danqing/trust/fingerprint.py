"""What an image is found again by: a hash of its pixels, and a vector of its coarse structure.

The vector describes the central 80% of an image, so that a copy with cropped edges still shows all of it. It
holds the lowest frequencies of the luminance and the mean colours of a coarse grid, which survive compression
and resizing. Where the centre lies in a cropped copy is not known: a query tries several places.
"""

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.images import eight_bits

Values = NDArray[np.float32]

FREQUENCIES, COLOUR_CELLS = 8, 4
"""A vector has so many frequencies and so many cells of colour along each axis."""
LENGTH = FREQUENCIES**2 + 2 * COLOUR_CELLS**2
_CELLS = 16
_BAND = 1 << 20
"""Pixels that are described at once: a large image needs little memory besides its own."""
_KEPT = 0.8
"""The share of each side that the vector describes."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of ITU-R BT.601, as in JPEG
_CROPS = ((1.0, 1), (0.95, 3), (0.9, 5))
"""The side of a copy as a share of the original, and how many places along each axis it may come from."""


class Query(NamedTuple):
    """Vectors of an image that may be a cropped copy.

    There is one for each crop that is tried.

    luminance: `[crops, FREQUENCIES²]`. colours: `[crops, 2 · COLOUR_CELLS²]`. sparse: the numbers of the
    crops that lie far apart; the others are close to one of them.
    """

    luminance: Values
    colours: Values
    sparse: NDArray[np.int64]


def pixel_digest(pixels: NDArray[Any]) -> str:
    """Compute the SHA-256 of an image's shape and pixels.

    pixels: uint8 or uint16 `[h, w, c]`. The result is hexadecimal, and the same on every machine.
    """
    kind = "<u2" if pixels.dtype == np.uint16 else "u1"
    head = f"{kind} {' '.join(map(str, pixels.shape))}\n".encode()
    digest = hashlib.sha256(head)
    digest.update(np.ravel(np.ascontiguousarray(pixels, kind)).data)
    return digest.hexdigest()


def vector(pixels: NDArray[Any]) -> NDArray[np.int16]:
    """Compute the vector of an image, int16 `[LENGTH]`.

    pixels: uint8 or uint16 `[h, w, c]`. What is transparent counts as white.
    """
    luminance, colours = _described(pixels, ((1.0, 0.0),))
    return np.concatenate([luminance.ravel(), colours.ravel()]).round().astype(np.int16)


def query(pixels: NDArray[Any]) -> Query:
    """Compute the vectors of an image, for each possible crop.

    pixels: as of `vector`.
    """
    spans, pairs, sparse = _crops()
    luminance, colours = _described(pixels, spans)
    down, across = pairs.T
    count = len(pairs)
    return Query(
        luminance[down, across].reshape(count, -1),
        colours[:, down, across].swapaxes(0, 1).reshape(count, -1),
        sparse,
    )


@lru_cache(1)
def _crops() -> tuple[tuple[tuple[float, float], ...], NDArray[np.int64], NDArray[np.int64]]:
    """Return the spans of all crops along an axis, pairs of them, and which pairs are sparse.

    A span is a length and a start, as shares of the original's side.
    """
    spans, pairs, sparse = list[tuple[float, float]](), list[tuple[int, int]](), list[int]()
    for side, places in _CROPS:
        first = len(spans)
        spans += [(side, float(start)) for start in np.linspace(0, 1 - side, places)]
        chosen = {0, places // 2, places - 1} if side == _CROPS[-1][0] else {places // 2}
        for down in range(places):
            for across in range(places):
                if down in chosen and across in chosen:
                    sparse.append(len(pairs))
                pairs.append((first + down, first + across))
    return tuple(spans), np.array(pairs), np.array(sparse)


def _described(pixels: NDArray[Any], spans: tuple[tuple[float, float], ...]) -> tuple[Values, Values]:
    """Describe the centre of the original for each pair of spans that the pixels may be.

    Returns frequencies of the luminance `[down, across, FREQUENCIES, FREQUENCIES]`, and two colours
    `[2, down, across, COLOUR_CELLS, COLOUR_CELLS]`.
    """
    height, width, channels = pixels.shape
    count, size, cells = len(spans), FREQUENCIES, COLOUR_CELLS
    waves = _waves(height, spans), _waves(width, spans).T
    averages = _means(height, spans, cells), _means(width, spans, cells).T
    lumas = np.zeros((count * size, count * size), np.float32)
    differences = np.zeros((2, count * cells, count * cells), np.float32)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        colours, luma = _coloured(pixels[band])
        lumas += waves[0][:, band] @ (luma @ waves[1])
        if channels >= 3:
            both = np.stack([colours[..., 2] - luma, colours[..., 0] - luma])
            differences += averages[0][:, band] @ (both @ averages[1])
    frequencies: Values = lumas.reshape(count, size, count, size).swapaxes(1, 2)
    means: Values = differences.reshape(2, count, cells, count, cells).swapaxes(2, 3)
    return frequencies, means


def _coloured(pixels: NDArray[Any]) -> tuple[Values, Values]:
    """Return the colours `[h, w, 1 or 3]` of pixels on white, and their luminance `[h, w]`."""
    colours: NDArray[Any] = eight_bits(pixels).astype(np.float32)
    if colours.shape[2] in (2, 4):
        opacity = colours[..., -1:] / 255
        colours = colours[..., :-1] * opacity + 255 * (1 - opacity)
    luma: NDArray[Any] = colours @ _LUMA if colours.shape[2] == 3 else colours[..., 0]
    return colours, luma


@lru_cache(64)
def _waves(side: int, spans: tuple[tuple[float, float], ...]) -> Values:
    """Return matrices from `side` pixels to the frequencies of each span, `[spans · FREQUENCIES, side]`.

    They are the lowest frequencies of the orthonormal DCT-II of the cells.
    """
    angles = np.pi * np.arange(FREQUENCIES)[:, None] * (2 * np.arange(_CELLS) + 1) / (2 * _CELLS)
    waves = np.cos(angles)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    cells = _means(side, spans, _CELLS).reshape(len(spans), _CELLS, side)
    return (waves @ cells).reshape(-1, side).astype(np.float32)


@lru_cache(64)
def _means(side: int, spans: tuple[tuple[float, float], ...], cells: int) -> Values:
    """Return matrices that average `side` pixels over the cells of each span, `[spans · cells, side]`.

    The cells divide what is the centre of the original if the pixels are a span of it. A pixel counts by the
    share of it that is in a cell.
    """
    margin = (1 - _KEPT) / 2
    edges = np.stack(
        [np.linspace(margin - start, 1 - margin - start, cells + 1) / length for length, start in spans]
    )
    edges = edges.clip(0, 1)[..., None] * side
    pixels = np.arange(side)
    overlap = np.minimum(edges[:, 1:], pixels + 1) - np.maximum(edges[:, :-1], pixels)
    means = overlap.clip(0) / (edges[:, 1:] - edges[:, :-1])
    return means.reshape(-1, side).astype(np.float32)
