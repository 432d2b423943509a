"""Masks as pictures: a colour for each class, alone or over the image."""

import colorsys
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danqing.images import Pixels, conform

_FIRST = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0)),
    *((86, 180, 233), (204, 121, 167), (240, 228, 66), (110, 110, 110)),
)
"""Colours that people with colour blindness can tell apart (Okabe and Ito 2008)."""
_GOLDEN = 0.6180339887498949
"""Hues that are so far apart, as a share of the circle, are spread evenly however many there are."""


def class_colours(classes: int) -> NDArray[np.uint8]:
    """Return the colour of each class, `[classes, 3]`; more classes do not change the first."""
    hues = (number * _GOLDEN % 1 for number in range(max(0, classes - len(_FIRST))))
    more = [[round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.65, 0.85)] for hue in hues]
    return np.asarray([*_FIRST[:classes], *more], np.uint8).reshape(-1, 3)


def coloured(mask: NDArray[np.uint8]) -> Pixels:
    """Return the colour of the class of each pixel, `[h, w, 3]`. mask: `[h, w]`."""
    shown: Pixels = class_colours(256)[mask]
    return shown


def overlaid(pixels: Pixels, mask: NDArray[np.uint8], *, strength: float = 0.45) -> Pixels:
    """Return an image under the colours of its mask, whose boundaries are drawn in full, `[h, w, 3]`.

    pixels: uint8 `[h, w, c]`. mask: `[h, w]`. strength: of the colours, in [0, 1].
    """
    colours = coloured(mask).astype(np.float32)
    blended = conform(pixels, channels=3) * (1 - strength) + colours * strength
    edge = np.zeros(mask.shape, bool)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:] |= mask[1:] != mask[:-1]
    blended[edge] = colours[edge]
    shown: Pixels = np.round(blended).astype(np.uint8)
    return shown


def to_png(mask: NDArray[np.uint8], classes: int) -> bytes:
    """Encode a mask as a PNG whose values are the numbers of classes and whose palette has their colours."""
    image = Image.fromarray(mask)
    image.putpalette(class_colours(classes).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
