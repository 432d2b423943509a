"""Blur, exposure and odd sizes: what can be said of each image by itself, and beside the others."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

BLANK = 6 / 255
"""An image whose levels span less than this shows nothing."""
DARK, BRIGHT = 0.22, 0.8
"""In a dark image, nearly all levels are below the one; in a bright image, above the other."""
SMOOTH = 0.1
"""Detail (`Quality.detail`) of a photograph that is out of focus; a perfectly smooth image has 1/16."""
_FAR = 3.0
"""A finding is at least so many robust deviations from the median of the data."""
RARE = 0.05
"""Where more images than this share would be found, that is how the data is, and none is reported."""
_STRETCHED, _SMALL = 2.0, 4.0


class Quality(NamedTuple):
    """Measures of images, float32 `[n]` each.

    low, high: levels in [0, 1] that 1% of the pixels are below and above. detail: how much of the contrast
    between pixels that are 4 apart is there between neighbours: 1/16 for a smooth image, 1/4 for sharp edges.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    detail: NDArray[np.float32]


def measure(images: Tensor) -> Quality:
    """Measure the exposure and the sharpness of images.

    images: brightness `[n, 1, h, w]` in [0, 1].
    """
    flat = images.flatten(1)
    ordered = flat.sort(1).values
    last = ordered.shape[1] - 1
    low, high = ordered[:, round(0.01 * last)], ordered[:, round(0.99 * last)]
    fine = _contrast(images)
    coarse = _contrast(F.avg_pool2d(images, 4, ceil_mode=True)) if min(images.shape[2:]) >= 8 else fine
    detail = fine / coarse.clamp_min(1e-8)
    return Quality(*(value.numpy().astype(np.float32) for value in (low, high, detail)))


def _contrast(images: Tensor) -> Tensor:
    """Return the mean squared difference between neighbouring pixels, `[n]`."""
    across, down = images.diff(dim=3).square(), images.diff(dim=2).square()
    return across.mean((1, 2, 3)) + down.mean((1, 2, 3))


def is_blank(quality: Quality) -> NDArray[np.bool_]:
    """Return whether each image shows a single level, `[n]`."""
    return quality.high - quality.low < BLANK


def is_dark(quality: Quality) -> NDArray[np.bool_]:
    """Return whether each image is nearly black, `[n]`."""
    return (quality.high < DARK) & ~is_blank(quality)


def is_bright(quality: Quality) -> NDArray[np.bool_]:
    """Return whether each image is nearly white, `[n]`."""
    return (quality.low > BRIGHT) & ~is_blank(quality)


def is_blurred(quality: Quality) -> NDArray[np.bool_]:
    """Return whether each image is much smoother than the others, `[n]`."""
    logs = np.log(np.maximum(quality.detail, 1e-4))
    middle = float(np.median(logs)) if len(logs) else 0.0
    deviation = 1.4826 * float(np.median(np.abs(logs - middle))) if len(logs) else 0.0
    unlike = logs < middle - _FAR * max(deviation, 0.1)
    return (quality.detail < SMOOTH) & unlike & ~is_blank(quality)


def is_stretched(sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether the aspect ratio of each image is unusual, `[n]`.

    sizes: width and height `[n, 2]`, 0 if unknown, which is never far.
    """
    known = (sizes > 0).all(1)
    ratios = np.log(np.maximum(sizes[:, 0], 1) / np.maximum(sizes[:, 1], 1))
    usual = float(np.median(ratios[known])) if known.any() else 0.0
    found: NDArray[np.bool_] = known & (np.abs(ratios - usual) > np.log(_STRETCHED))
    return found


def is_small(sizes: NDArray[np.int64], target: tuple[int, int]) -> NDArray[np.bool_]:
    """Return whether each image is far smaller than the others, `[n]`.

    sizes: width and height `[n, 2]`, 0 if unknown, which is never small.
    target: those of training; an image of as many pixels is not small.
    """
    known = (sizes > 0).all(1)
    pixels = sizes.prod(1)
    usual = float(np.median(pixels[known])) if known.any() else 0.0
    found: NDArray[np.bool_] = known & (pixels * _SMALL < usual) & (pixels < target[0] * target[1])
    return found


def if_rare(found: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the places of what was found; none if it is usual."""
    rows = np.flatnonzero(found)
    return rows if len(rows) <= max(1, RARE * len(found)) else rows[:0]
