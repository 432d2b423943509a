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
    squares = values.reshape(height, scale, width, scale, channels).transpose(1, 3, 0, 2, 4)
    cells = squares.reshape(scale**2, height, width, channels).astype(np.int32)
    missing = source.astype(np.int32) * scale**2 - cells.sum(axis=0, dtype=np.int32)
    missing[np.abs(missing) > scale**2] = 0
    top = int(np.iinfo(values.dtype).max)
    while missing.any():
        for cell in _scattered(scale**2):
            after = (cells[cell] + np.sign(missing)).clip(0, top)
            missing -= after - cells[cell]
            cells[cell] = after
            if not missing.any():
                break
    joined = cells.reshape(scale, scale, height, width, channels).transpose(2, 0, 3, 1, 4)
    result = np.empty_like(values)
    result[...] = joined.reshape(values.shape)
    return result


def _scattered(count: int) -> list[int]:
    """Return the numbers below `count` in an order in which neighbours are far apart."""
    step = max(1, round(0.618 * count))
    while math.gcd(step, count) > 1:
        step += 1
    return [number * step % count for number in range(count)]
