"""Boxes around objects: as annotations give them, placed in an image of another size, and clipped."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from danqing.data import tables
from danqing.errors import DataError
from danqing.names import normalized
from danqing.sizes import Fit, placement

VISIBLE = 0.25
"""A box is kept if at least this share of its area lies within the image."""
_NAMES = ("category", "categories", "label", "labels", "class", "classes", "name", "names")


class Objects(NamedTuple):
    """The objects in one image.

    names: the class of each. boxes: left, top, right, bottom of each. unit: the (width, height) in which they
    are measured, (1, 1) for shares of the image; None is the image's own pixels.
    """

    names: Sequence[str]
    boxes: Sequence[tuple[float, float, float, float]]
    unit: tuple[float, float] | None = None


def placed(objects: Objects, natural: tuple[int, int], size: tuple[int, int], fit: Fit) -> Tensor:
    """Return the boxes in pixels of a resized image, not clipped.

    The result is `[m, 4]`.
    natural: the (width, height) of the file. size, fit: as of `sizes.resized`.
    Raises DataError if the boxes were measured in an image of another shape.
    """
    boxes = torch.tensor(list(objects.boxes), dtype=torch.float64).reshape(-1, 4)
    unit = objects.unit or natural
    if unit != (1, 1) and not same_shape((round(unit[0]), round(unit[1])), natural):
        raise DataError(
            f"Its boxes were measured in {unit[0]:g}x{unit[1]:g} pixels, and the image has "
            f"{natural[0]}x{natural[1]}: correct the annotation."
        )
    (left, top, right, bottom), inner, corner = placement(natural, size, fit)
    scale = torch.tensor([inner[0] / (right - left), inner[1] / (bottom - top)], dtype=torch.float64)
    own = torch.tensor([natural[0] / unit[0], natural[1] / unit[1]], dtype=torch.float64)
    origin, shift = torch.tensor([left, top]), torch.tensor(corner)
    points = boxes.reshape(-1, 2, 2) * own
    return ((points - origin) * scale + shift).reshape(-1, 4).float()


def clipped(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Crop boxes at the border of an image.

    boxes: `[..., 4]` left, top, right, bottom. size: (width, height).
    Returns the boxes and, `[...]`, which of them are still visible enough to be kept.
    """
    limits = torch.tensor([*size, *size], dtype=boxes.dtype, device=boxes.device)
    cut = boxes.clamp_min(0).minimum(limits)
    whole, seen = areas(boxes), areas(cut)
    return cut, (whole > 0) & (seen >= VISIBLE * whole)


def areas(boxes: Tensor) -> Tensor:
    """Return the area of each box, `[...]`.

    It is 0 for a box whose sides are in the wrong order.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two (width, height) have one aspect ratio.

    Sides may be rounded to whole pixels.
    """
    larger, smaller = max(one, other), min(one, other)
    return abs(larger[0] * smaller[1] - larger[1] * smaller[0]) <= 1.5 * max(larger)


def objects_of_cell(cell: Any, class_names: Sequence[str] = ()) -> Objects:
    """Read the objects in a cell of a table.

    Data sets on the Hugging Face hub have such cells.

    cell: an object with `bbox`, a list of [left, top, width, height] in pixels, and `category`, a list of
        names, or of numbers of the `class_names`.
    Raises DataError.
    """
    if tables.is_missing(cell):
        return Objects((), ())
    try:
        cell = json.loads(cell) if isinstance(cell, str) else cell
        found = {tables.plain_header(key): value for key, value in cell.items()}
        boxes = [tuple(map(float, box)) for box in found.get("bbox", found.get("bboxes", ()))]
        names: Sequence[Any] = next((found[name] for name in _NAMES if name in found), [])
        if len(names) != len(boxes) or any(len(box) != 4 for box in boxes):
            raise ValueError
        sides = [(left, top, left + width, top + height) for left, top, width, height in boxes]
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(
            "Its objects cannot be read: give 'bbox', a list of [left, top, width, height], and 'category', "
            "a list of as many names."
        ) from error
    known = dict(enumerate(class_names))
    return Objects([normalized(str(known.get(name, name))) for name in names], sides)
