"""Masks: files whose values are the classes of pixels, brought to the size of their images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danqing.data.boxes import same_shape
from danqing.data.headers import described
from danqing.data.targets import IGNORED
from danqing.errors import DataError
from danqing.image_files import Frame, read
from danqing.images import Pixels
from danqing.sizes import Fit, placement

UNKNOWN = -1
"""The value of a pixel without a class: beyond the border of the image."""
COLOUR = 2**24
"""Colours are COLOUR + 65,536 red + 256 green + blue; grey ones are their level, as in grey files."""
MOST_CLASSES = 255
_LOUD = (255, 65535)
"""The highest values of files of 8 and 16 bits: the object where they are alone with 0."""

MaskFile = bytes | Path | Frame | Pixels
Values = NDArray[np.int32]


def read_mask(source: MaskFile) -> Values:
    """Read the values of a mask, int32 `[h, w]`.

    The values of a file with a palette are its indices. Raises DataError.
    """
    if isinstance(source, np.ndarray):
        return _values(source)
    if described(source)[0] == "JPEG":
        raise DataError("The mask is a JPEG file, which changes the values of classes: save masks as PNG.")
    image = read(source, own_colours=True)
    if isinstance(image, Image.Image):
        return _values(np.asarray(image if image.mode != "PA" else image.getchannel(0)))
    return _values(image.values)


def _values(pixels: NDArray[np.generic]) -> Values:
    if pixels.ndim == 3 and pixels.shape[2] < 3:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        values = pixels.astype(np.float64)
        if not np.array_equal(values, np.round(values)) or values.min(initial=0) < 0:
            raise DataError("The mask has values that are not whole numbers from 0: save classes as numbers.")
        if values.max(initial=0) >= COLOUR:
            raise DataError(f"The mask has values of {COLOUR:,} or more: number the classes from 0.")
        return values.astype(np.int32)
    if pixels.dtype != np.uint8:
        raise DataError("The mask has colours of more than 8 bits: save the number of a class in each pixel.")
    red, green, blue = np.moveaxis(pixels[:, :, :3].astype(np.int32), 2, 0)
    is_grey = (red == green) & (green == blue)
    colours: Values = np.where(is_grey, red, COLOUR + red * 65536 + green * 256 + blue).astype(np.int32)
    return colours


def fitted(values: Values, natural: tuple[int, int], size: tuple[int, int], fit: Fit) -> Values:
    """Bring a mask to the size of its image.

    The result `[h, w]` has the nearest values.
    natural: the (width, height) of the image's file, whose shape the mask must have. size, fit: as of
    `sizes.resized`. Raises DataError.
    """
    own = (values.shape[1], values.shape[0])
    if not same_shape(own, natural):
        raise DataError(
            f"The mask has {own[0]}x{own[1]} pixels and its image {natural[0]}x{natural[1]}: both must have "
            "the same shape."
        )
    (left, top, right, bottom), inner, corner = placement(own, size, fit)
    columns = _nearest(left, right, inner[0], own[0])
    rows = _nearest(top, bottom, inner[1], own[1])
    result = np.full((size[1], size[0]), UNKNOWN, np.int32)
    within = slice(corner[1], corner[1] + inner[1]), slice(corner[0], corner[0] + inner[0])
    result[within] = values[rows[:, None], columns[None, :]]
    return result


def _nearest(start: float, end: float, count: int, length: int) -> NDArray[np.int64]:
    """Return the pixel below the centre of each of `count` equal parts of an interval."""
    centres = start + (np.arange(count) + 0.5) * (end - start) / count
    return np.clip(centres.astype(np.int64), 0, length - 1)


class MaskClasses(NamedTuple):
    """The classes of masks.

    names: of each class. of_value: the class of each value, `IGNORED` for one that does not count.
    """

    names: tuple[str, ...]
    of_value: Mapping[int, int]


def classes_of(values: Iterable[int], names: Sequence[str] = ()) -> MaskClasses:
    """Sort the classes of masks by their values.

    values: all that occur. names: of the values 0, 1, 2 and so on, where the data names them; all of these
    are classes, whether they occur or not. The highest value, 255 or 65,535, is ignored if there are others
    besides it and 0; if there are none, it is the object, and 0 the background. Colours are all classes.
    Raises DataError if there are too many classes.
    """
    found = set(values) - {UNKNOWN}
    ignored = set[int]()
    if not any(value >= COLOUR for value in found):
        ignored = {value for value in _LOUD if value in found and found - {0, value}}
    ignored -= set(range(len(names)))
    kept = sorted(found - ignored | set(range(len(names))))
    if len(kept) > MOST_CLASSES:
        raise too_many_values()
    has_colours = any(value >= COLOUR for value in kept)
    named = tuple(
        names[value] if value < len(names) else _colour(value) if has_colours else str(value)
        for value in kept
    )
    return MaskClasses(named, {**dict.fromkeys(ignored, IGNORED), **{v: n for n, v in enumerate(kept)}})


def too_many_values() -> DataError:
    """Return the error for masks whose values are not classes."""
    return DataError(
        f"The masks have more than {MOST_CLASSES} different values, so these are not classes: if each value "
        "is one object, declare boxes = 'instances'; otherwise save the number of a class in each pixel."
    )


def _colour(value: int) -> str:
    return f"#{value - COLOUR:06x}" if value >= COLOUR else f"#{value:02x}{value:02x}{value:02x}"


class Found(NamedTuple):
    """One object in a mask.

    value: of its pixels. box: left, top, right and bottom in pixels.
    """

    value: int
    box: tuple[int, int, int, int]


def components(values: Values) -> list[Found]:
    """Find the connected regions of each value above 0.

    values: `[h, w]`. Pixels are connected along sides and corners. Runs of equal values in each row are
    joined with those of the row above.
    """
    parents, regions = list[int](), list[list[int]]()  # of each run: value, left, top, right, bottom
    above: list[tuple[int, int, int]] = []  # start, end and number of each run of the row above
    for y, row in enumerate(values):
        borders = np.flatnonzero(np.diff(row)) + 1
        starts = [0, *borders.tolist()]
        runs = list[tuple[int, int, int]]()
        for start, end in zip(starts, [*borders.tolist(), len(row)], strict=True):
            value = int(row[start])
            if value <= 0:
                continue
            number = len(parents)
            parents.append(number)
            regions.append([value, start, y, end, y + 1])
            for left, right, other in above:
                if left <= end and start <= right and regions[other][0] == value:
                    _join(parents, number, other)
            runs.append((start, end, number))
        above = runs
    merged: dict[int, list[int]] = {}
    for number, region in enumerate(regions):
        whole = merged.setdefault(_root(parents, number), list(region))
        whole[1], whole[2] = min(whole[1], region[1]), min(whole[2], region[2])
        whole[3], whole[4] = max(whole[3], region[3]), max(whole[4], region[4])
    return [Found(value, (left, top, right, bottom)) for value, left, top, right, bottom in merged.values()]


def instances(values: Values) -> list[Found]:
    """Find the extent of each value above 0."""
    found = []
    for value in np.unique(values[values > 0]).tolist():
        rows, columns = np.nonzero(values == value)
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        found.append(Found(value, box))
    return found


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


def _join(parents: list[int], one: int, other: int) -> None:
    one, other = _root(parents, one), _root(parents, other)
    parents[max(one, other)] = min(one, other)
