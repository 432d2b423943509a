"""The sizes of images: which ones a model generates, and how an image reaches another one."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danqing.errors import ConfigError

Fit = Literal["crop", "pad", "stretch"]


class SizeRange(NamedTuple):
    """The sizes of images that a model generates.

    own: the (width, height) that it learned, its usual one first. multiple: of both sides of any other size,
    0 if there is no other. least, most: the pixels of an image of another size.
    """

    own: tuple[tuple[int, int], ...]
    multiple: int = 0
    least: int = 0
    most: int = 0

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether a (width, height) is one of these sizes."""
        width, height = size
        if size in self.own or not self.multiple:
            return size in self.own
        is_whole = min(size) > 0 and width % self.multiple == height % self.multiple == 0
        return is_whole and self.least <= width * height <= self.most

    def check(self, size: Sequence[int]) -> tuple[int, int]:
        """Return a (width, height) of these sizes; raises ConfigError for another."""
        pair = as_size(size)
        if not self.fits(pair):
            raise ConfigError(
                f"This model does not sample {pair[0]}x{pair[1]}: choose {self.in_words()}.", "size"
            )
        return pair

    def in_words(self) -> str:
        """Return which sizes these are, as the end of a sentence."""
        own = ", ".join(f"{width}x{height}" for width, height in self.own)
        if not self.multiple:
            return own
        return f"{own}, or sides in multiples of {self.multiple} with {self.least:,} to {self.most:,} pixels"


def as_size(size: Sequence[int]) -> tuple[int, int]:
    """Return a (width, height); raises ConfigError for anything else."""
    if isinstance(size, str) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise ConfigError(f"A size is a width and a height, such as (64, 48), and not {size!r}.", "size")
    return size[0], size[1]


class Placement(NamedTuple):
    """How an image reaches another size.

    box: the part of it that is kept: left, top, right, bottom. size: the (width, height) that this part gets.
    corner: the left and top of that part in the result, which is larger only where `pad` adds a border.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)


def placement(natural: tuple[int, int], size: tuple[int, int], fit: Fit) -> Placement:
    """Return how an image of a (width, height) reaches another size.

    fit: how it is made to fit.
    """
    (own_w, own_h), (width, height) = natural, size
    if fit == "stretch":
        return Placement((0.0, 0.0, float(own_w), float(own_h)), size)
    ratio = min if fit == "crop" else max
    unit = ratio(own_w / width, own_h / height)
    if fit == "pad":
        inner = (max(1, round(own_w / unit)), max(1, round(own_h / unit)))
        corner = ((width - inner[0]) // 2, (height - inner[1]) // 2)
        return Placement((0.0, 0.0, float(own_w), float(own_h)), inner, corner)
    box_w, box_h = min(unit * width, own_w), min(unit * height, own_h)
    left, top = (own_w - box_w) / 2, (own_h - box_h) / 2
    return Placement((left, top, left + box_w, top + box_h), size)


def placed_back(
    boxes: NDArray[Any], natural: tuple[int, int], size: tuple[int, int], fit: Fit
) -> NDArray[np.float32]:
    """Return boxes of a resized image in pixels of its file.

    The result is `[m, 4]`, cut at the border of the file.
    boxes: left, top, right, bottom, `[m, 4]`. natural: the (width, height) of the file.
    size, fit: how it was resized, as of `resized`.
    """
    (left, top, right, bottom), inner, corner = placement(natural, size, fit)
    scale = np.array([(right - left) / inner[0], (bottom - top) / inner[1]])
    points = (np.asarray(boxes, np.float64).reshape(-1, 2, 2) - corner) * scale + (left, top)
    inside = np.clip(points, 0, np.array(natural, np.float64))
    return np.asarray(inside.reshape(-1, 4), np.float32)


def resized(
    image: Image.Image, size: tuple[int, int], fit: Fit, fill: float | tuple[int, ...]
) -> Image.Image:
    """Resize an image to (width, height).

    fit: how it is made to fit. fill: the colour that `pad` adds, in the image's mode.
    """
    box, inner, corner = placement(image.size, size, fit)
    if fit == "pad":
        sheet = Image.new(image.mode, size, fill)
        sheet.paste(_scaled(image, inner, box), corner)
        return sheet
    return _scaled(image, size, box)


def _scaled(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """Antialiased when shrinking; Pillow premultiplies alpha meanwhile, so hidden colours do not bleed."""
    shrinking = size[0] < box[2] - box[0]
    method = Image.Resampling.LANCZOS if shrinking else Image.Resampling.BICUBIC
    return image.resize(size, method, box=box, reducing_gap=3.0 if shrinking else None)


def too_large(size: tuple[int, int], max_pixels: int) -> str:
    """Return a message: an image of some size is over the limit."""
    width, height = size
    return f"The image has {width}x{height} pixels, over {max_pixels / 1e6:.0f} million: shrink it first."
