"""Rounding that keeps averages: a square of an enlarged image averages exactly to its source pixel."""

import math

import numpy as np

from danqing.editing.contract import Values


def averaging_to(values: Values, source: Values, scale: int) -> Values:
    """Change levels so that each square averages exactly to the source.

    They change by as little as needed. Results of `families.back_projection.projected` miss the average
    slightly because they are rounded to levels. Squares that are off by more than one level on average are
    left as they are.

    values: uint8 or uint16 `[scale · h, scale · w, c]`. source: of the same type, `[h, w, c]`.
    """
    height, width, channels = source.shape
    squares = values.reshape(height, scale, width, scale, channels).transpose(0, 2, 4, 1, 3)
    cells = squares.reshape(height, width, channels, scale**2).astype(np.int32)
    missing = source.astype(np.int32) * scale**2 - cells.sum(axis=3, dtype=np.int32)
    missing[np.abs(missing) > scale**2] = 0
    top = int(np.iinfo(values.dtype).max)
    while missing.any():
        for cell in _scattered(scale**2):
            before = cells[..., cell]
            after = (before + np.sign(missing)).clip(0, top)
            missing -= after - before
            cells[..., cell] = after
    joined = cells.reshape(height, width, channels, scale, scale).transpose(0, 3, 1, 4, 2)
    result = np.empty_like(values)
    result[...] = joined.reshape(values.shape)
    return result


def _scattered(count: int) -> list[int]:
    """Return the numbers below `count` in an order in which neighbours are far apart."""
    step = max(1, round(0.618 * count))
    while math.gcd(step, count) > 1:
        step += 1
    return [number * step % count for number in range(count)]
