"""The visible label of generated images: "AI生成" or "AI-generated", as GB 45438-2025 describes it.

The height of its text is at least 5% of the shorter side of the image. It is drawn from strokes, so that it
needs no font and has any size.
"""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from danqing.trust.settings import Language

LEAST_SHARE = 0.05
"""Of the shorter side: the height of the text."""
_LEGIBLE = 12
"""Pixels: the height from which the text can be read. Larger images have larger text."""
_PAD, _GAP = 0.3, 0.18
"""Around the text and between letters, as shares of its height."""
_PLATE = 0.65
"""How much of the image the plate behind the text covers."""
_FINER = 4
"""Text is drawn this many times larger, then averaged."""

_Points = tuple[tuple[int, int], ...]

# Strokes of letters in a square of 100, down and to the right, with the width of the letter.
_GLYPHS: dict[str, tuple[int, tuple[_Points, ...]]] = {
    "A": (70, (((2, 94), (35, 6), (68, 94)), ((15, 64), (55, 64)))),
    "I": (20, (((10, 6), (10, 94)),)),
    "-": (36, (((2, 58), (34, 58)),)),
    "d": (
        54,
        (((50, 4), (50, 94)), ((50, 48), (38, 36), (16, 36), (4, 48), (4, 82), (16, 94), (38, 94), (50, 82))),
    ),
    "e": (54, (((4, 64), (50, 64), (50, 48), (38, 36), (16, 36), (4, 48), (4, 82), (16, 94), (48, 94)),)),
    "g": (
        54,
        (
            ((50, 48), (38, 36), (16, 36), (4, 48), (4, 74), (16, 86), (38, 86), (50, 74)),
            ((50, 36), (50, 98), (40, 106), (10, 106)),
        ),
    ),
    "n": (52, (((4, 36), (4, 94)), ((4, 50), (18, 36), (36, 36), (48, 48), (48, 94)))),
    "r": (38, (((4, 36), (4, 94)), ((4, 52), (20, 36), (36, 36)))),
    "a": (
        54,
        (
            ((8, 36), (38, 36), (50, 48), (50, 94)),
            ((50, 62), (16, 62), (4, 70), (4, 86), (14, 94), (36, 94), (50, 82)),
        ),
    ),
    "t": (38, (((14, 12), (14, 84), (22, 94), (36, 94)), ((2, 36), (34, 36)))),
    "生": (
        100,
        (
            ((30, 8), (24, 28), (10, 46)),
            ((24, 29), (88, 29)),
            ((18, 59), (84, 59)),
            ((53, 4), (53, 93)),
            ((5, 93), (97, 93)),
        ),
    ),
    "成": (
        100,
        (
            ((16, 25), (95, 25)),
            ((17, 25), (17, 58), (4, 95)),
            ((18, 49), (46, 49), (43, 80), (32, 77)),
            ((56, 3), (60, 42), (73, 76), (88, 94), (95, 76)),
            ((86, 42), (70, 70), (44, 94)),
            ((74, 4), (87, 15)),
        ),
    ),
}
_TEXTS: dict[Language, str] = {"zh": "AI生成", "en": "AI-generated"}


def label(
    pixels: NDArray[Any], language: Language, where: NDArray[np.bool_] | None = None
) -> NDArray[Any] | None:
    """Draw the label at the lower right edge of an image.

    pixels: uint8 or uint16 `[h, w, c]`, with 1 to 4 channels.
    where: bool `[h, w]`, the pixels that may change; None means all.
    Returns a new image, or None if no place is large enough for text of 5% of the shorter side.
    """
    height, width = pixels.shape[:2]
    least = max(1, math.ceil(LEAST_SHARE * min(height, width)))
    for text_height in dict.fromkeys((max(least, _LEGIBLE), least)):
        text = _drawn(_TEXTS[language], text_height, width)
        if (place := _place(text.shape, (height, width), where)) is not None:
            return _laid(pixels, text, place)
    return None


@functools.lru_cache(maxsize=64)
def _drawn(text: str, text_height: int, most: int) -> NDArray[np.float32]:
    """Return how much of each pixel of the label is text, `[h, w]` from 0 to 1.

    most: the width of the image; a wider label is drawn with less height, as far as it must be.
    """
    letters = [_GLYPHS[letter] for letter in text]
    units = sum(width for width, _ in letters) + 100 * (_GAP * (len(letters) - 1) + 2 * _PAD)
    unit = min(text_height / 100, most / units)
    size = (min(most, math.ceil(units * unit)), math.ceil(100 * (1 + 2 * _PAD) * unit))
    fine = unit * _FINER
    sheet = Image.new("L", (size[0] * _FINER, size[1] * _FINER))
    pen = ImageDraw.Draw(sheet)
    left = 100 * _PAD
    weight = max(1, round(10 * fine))
    for width, strokes in letters:
        for stroke in strokes:
            points = [((left + x) * fine, (100 * _PAD + y) * fine) for x, y in stroke]
            pen.line(points, 255, weight, joint="curve")
            for x, y in (points[0], points[-1]):  # round ends
                pen.ellipse((x - weight / 2, y - weight / 2, x + weight / 2, y + weight / 2), 255)
        left += width + 100 * _GAP
    covered: NDArray[np.float32] = np.asarray(sheet.reduce(_FINER), np.float32) / np.float32(255)
    return covered


def _place(
    size: tuple[int, ...], whole: tuple[int, int], where: NDArray[np.bool_] | None
) -> tuple[int, int] | None:
    """Return the top and left of the lowest, rightmost place where all pixels may change."""
    height, width = size
    if height > whole[0] or width > whole[1]:
        return None
    if where is None:
        return whole[0] - height, whole[1] - width
    sums = np.pad(where.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    tops, lefts = np.nonzero(inside == height * width)
    return (int(tops[-1]), int(lefts[-1])) if len(tops) else None


def _laid(pixels: NDArray[Any], text: NDArray[np.float32], place: tuple[int, int]) -> NDArray[Any]:
    """Lay white text on a dark plate over an image."""
    (height, width), (top, left), full = text.shape, place, np.iinfo(pixels.dtype).max
    part = pixels[top : top + height, left : left + width].astype(np.float32) / full
    colours = 3 if pixels.shape[2] >= 3 else 1
    light = text[..., None]
    if pixels.shape[2] in (2, 4):
        alpha = part[..., -1:]
        shown = _PLATE + (1 - _PLATE) * alpha  # black on what is there
        part[..., :colours] *= (1 - _PLATE) * alpha / shown
        part[..., -1:] = np.maximum(shown, light)
    else:
        part *= 1 - _PLATE
    part[..., :colours] += light * (1 - part[..., :colours])
    labelled = pixels.copy()
    labelled[top : top + height, left : left + width] = np.round(part * full)
    return labelled
