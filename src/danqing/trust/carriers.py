"""The carriers of the watermark: cosines over the whole image, whose signs follow from a key.

The mark is a sum of cosines of the image's width and height (the basis of the DCT-II), so that it keeps its
place in the image at any size. A pseudorandom function of the key decides the sign of each cosine. A quarter
of the cosines are pilots, whose signs depend on the key alone: they show that there is a mark, and where.
The other cosines carry the bits of the encoded number: each bit flips the signs of its share of the cosines.
"""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.trust import golay

Floats = NDArray[np.floating[Any]]
"""Arrays of float32."""

TABLE = 32
"""The side of the learned tables of amplitudes and weights, one entry per frequency of the small format."""
_LOWEST = 3
"""Lower frequencies are not used: they belong to the image, and a change of them is visible."""
_PILOTS = 1 / 3
"""Pilots per bit of the code: a quarter of all cosines."""


@dataclass(frozen=True, slots=True)
class Format:
    """How many bits a mark has, and on which grid.

    bits: of the number that it carries.
    grid: the samples per side on which it is defined and read; frequencies go up to half of that.
    """

    bits: int
    grid: int

    @property
    def blocks(self) -> int:
        """Return the number of blocks of the error-correcting code."""
        return self.bits // golay.MESSAGE

    @property
    def frequencies(self) -> int:
        """Return the number of frequencies per side, with 0."""
        return self.grid // 2


SMALL, LARGE = Format(24, 64), Format(48, 128)
FORMATS = (SMALL, LARGE)


class Cells(NamedTuple):
    """The cosines that a format uses.

    rows, columns: their frequencies. bits: the bit of the code that each carries, -1 for a pilot.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    bits: NDArray[np.int64]

    @property
    def pilots(self) -> NDArray[np.int64]:
        """Return the numbers of the pilots."""
        return np.flatnonzero(self.bits < 0)


@functools.cache
def cells(form: Format) -> Cells:
    """Return the cosines of a format, from low to high frequencies.

    Their bits are dealt in rounds, each in another public order, so that every bit and the pilots have the
    same share of all frequencies.
    """
    scale = form.frequencies / TABLE
    rows, columns = np.mgrid[: form.frequencies, : form.frequencies].reshape(2, -1)
    radius = np.hypot(rows // scale, columns // scale)
    used = np.flatnonzero((radius >= _LOWEST) & (radius <= TABLE))
    used = used[np.lexsort((used, np.hypot(rows, columns)[used]))]
    code = form.blocks * golay.BLOCK
    hand = np.concatenate([np.arange(code), np.full(round(code * _PILOTS), -1)])
    rounds = -(-len(used) // len(hand))
    noise = _stream(f"layout {form.bits}".encode(), 8 * rounds * len(hand)).view("<u8").reshape(rounds, -1)
    dealt = hand[np.argsort(noise, axis=1, kind="stable")].reshape(-1)[: len(used)]
    return Cells(rows[used], columns[used], dealt)


@functools.lru_cache(maxsize=16)
def signs(secret: bytes, form: Format) -> Floats:
    """Return the signs, +1 or -1, that a key gives the cosines."""
    count = len(cells(form).rows)
    bits = np.unpackbits(_stream(f"signs {form.bits} ".encode() + secret, -(-count // 8)))[:count]
    return np.float32(1) - np.float32(2) * bits.astype(np.float32)


def signed(secret: bytes, form: Format, number: int) -> Floats:
    """Return the signs of the cosines that carry a number."""
    factors = np.append(golay.encode(number, form.blocks), np.float32(1))
    return signs(secret, form) * factors[cells(form).bits]


def at_cells(table: Floats, form: Format) -> Floats:
    """Return the entry of a learned table for each cosine."""
    scale = form.frequencies // TABLE
    place = cells(form)
    return table[place.rows // scale, place.columns // scale]


@functools.lru_cache(maxsize=64)
def basis(samples: int, frequencies: int) -> Floats:
    """Return the cosines along one side of an image, `[frequencies, samples]`."""
    return window(0.0, 1.0, samples, frequencies)


def window(start: float, length: float, samples: int, frequencies: int) -> Floats:
    """Return the cosines along a part of a side, `[frequencies, samples]`.

    start, length: of the part, where the whole side has the length 1.
    """
    places = start + length * (np.arange(samples) + 0.5) / samples
    values: Floats = np.cos(np.pi * np.arange(frequencies)[:, None] * places) * np.sqrt(2 / samples)
    return values.astype(np.float32)


@functools.lru_cache(maxsize=64)
def resampling(given: int, wanted: int) -> Floats:
    """Return the matrix `[wanted, given]` that resizes one side.

    The kernel is cubic (R. G. Keys, 1981, a = -1/2), and is widened where the side becomes shorter.
    """
    widening = max(1.0, given / wanted)
    centres = (np.arange(wanted) + 0.5) * given / wanted
    distance = np.abs(np.arange(given) + 0.5 - centres[:, None]) / widening
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    kernel: Floats = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    matrix: Floats = (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)
    return matrix


def resized(values: Floats, height: int, width: int) -> Floats:
    """Resize an array `[h, w]`; it may be stretched."""
    if values.shape[0] != height:
        values = resampling(values.shape[0], height) @ values
    if values.shape[1] != width:
        values = values @ resampling(values.shape[1], width).T
    return values


def _stream(seed: bytes, count: int) -> NDArray[np.uint8]:
    """Return pseudorandom bytes.

    They come from SHAKE-256, so they are the same on every machine and with every version of numpy.
    """
    return np.frombuffer(hashlib.shake_256(b"danqing watermark 1 " + seed).digest(count), np.uint8)
