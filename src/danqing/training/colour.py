"""Whether samples keep the colours of the training images: the means of their channels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NOTICEABLE = 6.0
"""Levels of 255: two patches of middle grey this far apart differ by about 2.3 in CIELAB, which people just
notice (Mahy et al. 1994). In a data set of one hue this alone limits the drift.
"""
SHARE_OF_SPREAD = 0.25
"""Of the standard deviation between real images: in a data set of many colours, less does not show."""
STANDARD_ERRORS = 4.0
"""A grid holds few images: their mean may be off by chance, but hardly by more than this."""
_CHANNELS = {
    1: ("brightness",),
    2: ("brightness", "opacity"),
    3: ("red", "green", "blue"),
    4: ("red", "green", "blue", "opacity"),
}


def channel_means(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean of each channel of each image, `[n, c]`, in levels from 0 to 255.

    images: `[n, h, w, c]`. Colours count as much as they are opaque, since others cannot be seen.
    """
    values = images.astype(np.float64)
    if images.shape[-1] in (2, 4):
        values[..., :-1] *= values[..., -1:] / 255
    means: NDArray[np.float64] = values.mean((1, 2))
    return means


def drift(samples: NDArray[np.float64], real: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return by how much the colours of samples have drifted, `[c]`; None within the limits.

    samples, real: what `channel_means` gives, `[n, c]` and `[m, c]`, with at least two rows each. A channel
        has drifted if its mean is off by more than each of the three limits above.
    """
    shift: NDArray[np.float64] = samples.mean(0) - real.mean(0)
    spread = real.var(0, ddof=1)
    error = np.sqrt(samples.var(0, ddof=1) / len(samples) + spread / len(real))
    limit = np.maximum.reduce(
        [np.full_like(shift, NOTICEABLE), SHARE_OF_SPREAD * np.sqrt(spread), STANDARD_ERRORS * error]
    )
    return shift if bool((np.abs(shift) > limit).any()) else None


def in_words(shift: Sequence[float]) -> str:
    """Return a drift as people read it, such as "red +9.1, green -3.0, blue +0.4"."""
    return ", ".join(f"{name} {value:+.1f}" for name, value in zip(_CHANNELS[len(shift)], shift, strict=True))
