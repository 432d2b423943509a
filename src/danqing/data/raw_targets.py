"""The targets of one image: as a source gives them, and brought to the size of the images."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from danqing.data.boxes import Objects, clipped, placed
from danqing.data.headers import described
from danqing.data.masks import MaskFile, Values, components, fitted, instances, read_mask
from danqing.errors import DataError
from danqing.image_files import Deep, Frame, inspect
from danqing.images import Pixels
from danqing.sizes import Fit

BoxesFrom = Literal["", "masks", "instances"]
"""Whether boxes are around the connected regions of a mask, or around each of its values."""
OBJECT = "object"
"""The class of all objects whose mask numbers them."""


class RawTargets(NamedTuple):
    """The targets of an image, not yet read.

    Each is None if the data does not have it.
    labels: its labels, where there may be several. mask, objects: load what they are named after, and raise
    DataError.
    """

    labels: tuple[str, ...] | None = None
    mask: Callable[[], MaskFile] | None = None
    objects: Callable[[], Objects] | None = None
    boxes_from: BoxesFrom = ""


class Box(NamedTuple):
    """A box in pixels of an image.

    name: its class, or the value of masks that is its class.
    """

    name: str | int
    left: float
    top: float
    right: float
    bottom: float


class FittedTargets(NamedTuple):
    """The targets of an image of its final size.

    mask: its values, `[h, w]`. lost: how many boxes lie outside of what is left of the image.
    """

    labels: tuple[str, ...] | None = None
    mask: Values | None = None
    boxes: tuple[Box, ...] | None = None
    lost: int = 0


def fit_targets(
    raw: RawTargets,
    image: bytes | Path | Frame | Pixels | Image.Image | Deep,
    size: tuple[int, int],
    fit: Fit,
) -> FittedTargets:
    """Read the targets of an image and bring them to its size.

    size, fit: as of `sizes.resized`. Raises DataError.
    """
    if raw.mask is None and raw.objects is None:
        return FittedTargets(raw.labels)
    natural = described(image)[1]
    if isinstance(image, bytes | Path | Frame):
        natural = inspect(image).size
    assert natural is not None
    mask, boxes, lost = None, None, 0
    if raw.mask is not None:
        try:
            mask = fitted(read_mask(raw.mask()), natural, size, fit)
        except DataError as error:
            raise DataError(f"Its mask cannot be used: {error}") from error
    if raw.objects is not None:
        objects = raw.objects()
        sides, kept = clipped(placed(objects, natural, size, fit), size)
        rows = zip(objects.names, sides.tolist(), kept.tolist(), strict=True)
        boxes = tuple(Box(name, *side) for name, side, is_kept in rows if is_kept)
        lost = len(objects.names) - len(boxes)
    elif raw.boxes_from and mask is not None:
        if raw.boxes_from == "masks":
            boxes = tuple(Box(each.value, *map(float, each.box)) for each in components(mask))
        else:
            boxes = tuple(Box(OBJECT, *map(float, each.box)) for each in instances(mask))
            mask = None
    return FittedTargets(raw.labels, mask, boxes, lost)
