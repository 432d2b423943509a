"""Buckets: a few sizes of about the same area, so that images of many aspect ratios are cropped little."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing.image_files import DeepPixels, Frame, decode, inspect
from danqing.images import Pixels

Size = tuple[int, int]
"""(width, height)."""

MOST = 6
"""The most buckets of a data set."""
WIDEST = 4.0
"""The ratio of the longer side to the shorter one is at most this."""
AREA_TOLERANCE = 0.15
"""The area of a bucket differs from that of the requested size by at most this share."""
LEAST_GAIN = 0.01
"""A further bucket is chosen while it reduces the share that is cropped, on average, by at least this."""
LEAST_SHARE = 1 / 32
"""A bucket holds at least this share of the images."""
_STEPS = ((64, 8), (16, 4), (0, 1))
"""Sides are multiples of the second number if the area is at least that of a square of the first."""


def choose(target: Size, found: Sequence[Size]) -> tuple[Size, ...]:
    """Choose the buckets of a data set, those with most images first.

    target: a (width, height) whose area the buckets have. found: the sizes of the images.
    Sides are multiples of 8, of 4 if the area is below 64x64, and any number if it is below 16x16.
    """
    candidates = _candidates(target)
    lost = _lost(found, candidates)
    chosen, least = list[int](), np.ones(len(found))
    while len(chosen) < MOST:
        means = np.minimum(least[:, None], lost).mean(axis=0)
        best = int(means.argmin())
        if chosen and least.mean() - means[best] < LEAST_GAIN:
            break
        chosen.append(best)
        least = np.minimum(least, lost[:, best])
    chosen.sort(key=lambda place: candidates[place])  # as `nearest` does
    while True:
        held = np.bincount(lost[:, chosen].argmin(axis=1), minlength=len(chosen))
        if held.min() >= LEAST_SHARE * len(found):
            return tuple(candidates[chosen[place]] for place in np.argsort(-held, kind="stable"))
        del chosen[held.argmin()]


def nearest(size: Size, buckets: Sequence[Size]) -> int:
    """Return the number of the bucket with the nearest aspect ratio.

    Of two that are equally near, the narrower one is taken, whatever the order of the buckets.
    """
    order = sorted(range(len(buckets)), key=lambda place: buckets[place])
    return order[int(_lost([size], [buckets[place] for place in order])[0].argmin())]


def decode_to_nearest(
    source: bytes | str | Path | Frame, *, buckets: Sequence[Size] = (), **options: Any
) -> Pixels | DeepPixels:
    """Decode an image to the size of its bucket.

    Without buckets, this is `danqing.image_files.decode`.
    """
    if buckets:
        options["size"] = tuple(buckets[nearest(inspect(source).size, buckets)])
    return decode(source, **options)


def _candidates(target: Size) -> list[Size]:
    """Return sizes of about the area of `target`, the nearest first."""
    area = target[0] * target[1]
    step = next(step for side, step in _STEPS if area >= side**2)
    longest = int(math.sqrt(area * WIDEST * (1 + AREA_TOLERANCE)))
    sizes = set[Size]()
    for side in range(step, longest + 1, step):
        shorter = area // (side * step) * step
        for other in (shorter, shorter + step):
            within = other and abs(side * other / area - 1) <= AREA_TOLERANCE
            if within and max(side, other) <= WIDEST * min(side, other):
                sizes |= {(side, other), (other, side)}
    return sorted(sizes, key=lambda size: (abs(size[0] * size[1] - area), size)) or [target]


def _lost(found: Sequence[Size], buckets: Sequence[Size]) -> NDArray[np.float64]:
    """Return the share of each image that is cropped for each bucket, `[n, buckets]`."""
    wide, high = np.array(found, np.float64).T[:, :, None]
    widths, heights = np.array(buckets, np.float64).T
    ratios = wide * heights / (high * widths)  # exactly rounded, so the same on every machine
    kept: NDArray[np.float64] = np.minimum(ratios, 1 / ratios)
    return 1 - kept
