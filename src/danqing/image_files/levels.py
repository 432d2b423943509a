"""Values of more than 8 bits: the range from black to white, and images at their full depth."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danqing.images import Alpha, Pixels, parse_background
from danqing.sizes import Fit, resized

Range = tuple[float, float]
DeepPixels = NDArray[np.uint16]

SAMPLED = 4096
"""The number of an image's values that are used to choose a range."""
OUTLIERS = 0.001
"""The share of values at either end that a range may leave out."""
_WHOLE_TOPS = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 31, 32))
_REAL_TOPS = ((1.0, 0.2), (255.0, 0.5), (65535.0, 0.5))
_LEAST = 0.2
"""The share of a natural range that values must reach for it to be chosen."""
_SLACK = 0.05
"""How far floating-point values may exceed a natural range, as they do after resampling."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Deep(NamedTuple):
    """An image of more than 8 bits.

    With the values of its file.

    values: `[h, w, c]` with 1 to 4 channels, of any number type. full: the full range of the file's number
    format, None if it is unknown. top: the value of opaque alpha.
    """

    values: NDArray[Any]
    full: Range | None = None
    top: float = 65535.0

    @property
    def channels(self) -> int:
        """Return the number of channels.

        1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        """
        return int(self.values.shape[2])


def is_range(bounds: Any) -> bool:
    """Report whether a value is two finite numbers, the lower one first."""
    return (
        isinstance(bounds, tuple | list)
        and len(bounds) == 2
        and all(isinstance(end, int | float) and math.isfinite(end) for end in bounds)
        and bool(bounds[0] < bounds[1])
    )


def sample(image: Deep) -> NDArray[np.float64]:
    """Return up to `SAMPLED` finite values of an image.

    Evenly spaced, without alpha.
    """
    colours = image.values[:, :, : image.channels - (image.channels in (2, 4))]
    step = max(1, colours.shape[0] * colours.shape[1] // SAMPLED)
    values = colours.reshape(-1, colours.shape[2])[::step].astype(np.float64)
    finite: NDArray[np.float64] = values[np.isfinite(values)]
    return finite


def value_range(values: NDArray[np.float64] | Sequence[float]) -> Range:
    """Choose the range of some values, float `[n]`.

    The values that become black and white.

    It is a natural range (0 to 1, or 0 to 2^bits - 1) if the values fit one, and otherwise goes from their
    0.1% to their 99.9% quantile. Values that are not finite are ignored.
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if not found.size:
        return 0.0, 1.0
    low = float(np.quantile(found, OUTLIERS, method="lower"))
    high = float(np.quantile(found, 1 - OUTLIERS, method="higher"))
    if low == high:  # nearly all values are equal: the others matter
        low, high = float(found.min()), float(found.max())
    is_whole = bool((found == np.rint(found)).all())
    tops = [(top, _LEAST) for top in _WHOLE_TOPS] if is_whole else list(_REAL_TOPS)
    slack = 0.0 if is_whole else _SLACK
    for top, least in tops:
        if low >= -slack * top and high <= (1 + slack) * top:
            if high >= least * top:
                return 0.0, top
            break
    if not is_whole and -1 - slack <= low < -0.5 and 0.5 < high <= 1 + slack:
        return -1.0, 1.0
    if 0 <= low < 0.1 * high:
        low = 0.0
    return (low, high) if low < high else (low, low + max(1.0, abs(low) * 1e-6))


def to_unit(image: Deep, bounds: Range | None) -> NDArray[np.float32]:
    """Scale the values of an image to float32 `[h, w, c]` in [0, 1].

    Alpha has its own full range.

    bounds: the values that become 0 and 1; None takes the file's full range, or one chosen from its values.
    Values outside are clamped, and NaN becomes 0.
    """
    low, high = bounds or image.full or value_range(sample(image))
    with np.errstate(all="ignore"):
        unit = (image.values.astype(np.float64) - low) / (high - low)
        if image.channels in (2, 4):
            unit[:, :, -1] = image.values[:, :, -1].astype(np.float64) / image.top
    np.nan_to_num(unit, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    result: NDArray[np.float32] = unit.clip(0, 1).astype(np.float32)
    return result


def conform(
    image: Deep,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 0,
    alpha: Alpha = "flatten",
    background: str = "#ffffff",
    fit: Fit = "crop",
    range: Range | None = None,
    depth: int = 8,
) -> Pixels | DeepPixels:
    """Convert an image to a size, channels and depth.

    Returns uint8 or (`depth=16`) uint16 `[h, w, c]`; see `decode`.
    """
    unit = to_unit(image, range)
    transparent = image.channels in (2, 4)
    if channels == 0:
        channels = (1 if image.channels < 3 else 3) + (transparent and alpha == "keep")
    ground = np.array(parse_background(background), np.float32) / np.float32(255)
    if transparent and channels in (1, 3):
        unit = _flattened(unit, ground)
    unit = _recoloured(unit, channels)
    if size is not None and size != (unit.shape[1], unit.shape[0]):
        unit = _resized(unit, size, fit, ground)
    if depth == 16:
        return np.round(unit * 65535).astype("<u2")
    return np.round(unit * 255).astype(np.uint8)


def deepened(pixels: Pixels) -> DeepPixels:
    """Turn uint8 values into uint16: 255 becomes 65535."""
    return pixels.astype("<u2") * np.uint16(257)


def _flattened(unit: NDArray[np.float32], ground: NDArray[np.float32]) -> NDArray[np.float32]:
    colours, opacity = unit[:, :, :-1], unit[:, :, -1:]
    under = ground[:1] if colours.shape[2] == 1 and np.ptp(ground) == 0 else ground
    return colours * opacity + under * (1 - opacity)


def _recoloured(unit: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Convert to grey or colour, with or without alpha, as `channels` says."""
    opacity = unit[:, :, -1:] if unit.shape[2] in (2, 4) else np.ones_like(unit[:, :, :1])
    colours = unit[:, :, : unit.shape[2] - (unit.shape[2] in (2, 4))]
    if channels < 3 and colours.shape[2] == 3:
        colours = (colours @ _LUMA)[:, :, np.newaxis]
    elif channels >= 3 and colours.shape[2] == 1:
        colours = colours.repeat(3, axis=2)
    return np.concatenate([colours, opacity], axis=2) if channels in (2, 4) else colours


def _resized(
    unit: NDArray[np.float32], size: tuple[int, int], fit: Fit, ground: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Resize each channel; colours are weighted by alpha, so that hidden ones do not bleed."""
    transparent = unit.shape[2] in (2, 4)
    if transparent:
        unit = np.concatenate([unit[:, :, :-1] * unit[:, :, -1:], unit[:, :, -1:]], axis=2)
        fills = [0.0] * unit.shape[2]
    else:
        fills = [float(ground @ _LUMA)] if unit.shape[2] == 1 else [float(value) for value in ground]
    planes = [
        np.asarray(resized(Image.fromarray(np.ascontiguousarray(unit[:, :, number])), size, fit, fill))
        for number, fill in enumerate(fills)
    ]
    result: NDArray[np.float32] = np.stack(planes, axis=2)
    if transparent:
        result[:, :, :-1] /= np.maximum(result[:, :, -1:], 1 / 65535)
    return result.clip(0, 1)
