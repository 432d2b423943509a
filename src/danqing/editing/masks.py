"""Masks: which part of each image is filled, from files, boxes, transparency and new borders."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing import image_files
from danqing.editing.contract import ImageToEdit, Values
from danqing.editing.windows import Mask, Window, resize_mask
from danqing.errors import ConfigError, DataError
from danqing.image_files.formats import is_image_name

MOST_PIXELS = 1000
"""The most that `grow` and `feather` may be."""

_FAR = 1 << 20
_WHITE = 128


class Masked(NamedTuple):
    """An image with the part of it that is filled.

    canvas: a copy of its pixels `[h, w, c]`, with new borders, whose values are 0.
    where: bool `[h, w]`, what is filled.
    weight: float32 `[h, w]` in [0, 1], the share of the new pixel in what is filled; None is 1 everywhere.
    """

    canvas: Values
    where: Mask
    weight: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Masks:
    """Which part of each image is filled.

    It is the union of a mask, boxes and transparency, which the other settings change in the order here.

    source: a mask for all images, as a file or as bool `[h, w]`; or a folder of masks, each with the name of
        its image and any image suffix. A mask file is white where the image is filled, and black or
        transparent elsewhere; it has the size of the image or its shape.
    boxes: left, top, width and height in pixels of the image.
    alpha: fill what is at least half transparent.
    invert: fill the rest instead.
    expand: pixels to add to the image at its left, top, right and bottom, all of which are filled.
    grow: pixels by which the mask reaches further.
    feather: pixels over which new pixels become visible, from the edge of the mask inwards.
    Raises ConfigError for impossible values, and where nothing is to be filled.
    """

    source: Path | Mask | None = None
    boxes: tuple[Window, ...] = ()
    alpha: bool = False
    invert: bool = False
    grow: int = 0
    feather: int = 0
    expand: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        if self._is_plain and not any(self.expand):
            raise ConfigError(
                "Say what to fill: a mask (--mask, white there), a --box, --alpha or --expand.", "mask"
            )
        if self.invert and self._is_plain:
            raise ConfigError("--invert needs a mask, a --box or --alpha to invert.", "invert")
        if len(self.expand) != 4 or min(self.expand) < 0:
            raise ConfigError("expand is four numbers from 0 on: left, top, right and bottom.", "expand")
        for name, value in (("grow", self.grow), ("feather", self.feather)):
            if not 0 <= value <= MOST_PIXELS:
                raise ConfigError(f"{name} must be from 0 to {MOST_PIXELS} pixels (got {value}).", name)
        for box in self.boxes:
            if min(box.left, box.top) < 0 or min(box.width, box.height) < 1:
                raise ConfigError(
                    f"The box {','.join(map(str, box))} is empty or begins outside the image: give left, "
                    "top, width and height.",
                    "box",
                )
        if self.source is not None and not isinstance(self.source, Path | np.ndarray):
            raise ConfigError(
                "A mask is a file, a folder or an array of true and false, not "
                f"{type(self.source).__name__}: give its array, such as np.asarray(image) > 127.",
                "mask",
            )
        if isinstance(self.source, Path) and not self.source.exists():
            raise ConfigError(f"There is no mask at {self.source}: give a file or a folder.", "mask")
        if isinstance(self.source, np.ndarray) and (self.source.dtype != np.bool_ or self.source.ndim != 2):
            raise ConfigError(
                f"A mask in memory is true or false for each pixel [h, w], and this is {self.source.dtype} "
                f"of shape {list(self.source.shape)}.",
                "mask",
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Return what is the same for all images, as plain values.

        A folder of masks counts by its path.
        """
        source: str | None = None
        if isinstance(self.source, np.ndarray):
            packed = np.packbits(self.source).tobytes()
            source = hashlib.sha256(str(self.source.shape).encode() + packed).hexdigest()
        elif self.source is not None:
            source = str(self.source) if self.source.is_dir() else _digest(self.source)
        return {
            "mask": source,
            "boxes": [list(box) for box in self.boxes],
            "alpha": self.alpha,
            "invert": self.invert,
            "grow": self.grow,
            "feather": self.feather,
            "expand": list(self.expand),
        }

    def own(self, name: str) -> Mapping[str, Any]:
        """Return what differs between images.

        That is the digest of a mask from a folder.
        Raises DataError if there is no mask of this name.
        """
        if not (isinstance(self.source, Path) and self.source.is_dir()):
            return {}
        return {"mask": _digest(self._file(name))}

    def is_empty(self, image: ImageToEdit) -> bool:
        """Return whether nothing of an image is filled; raises DataError as `of`."""
        return not any(self.expand) and not self._inside(image).any()

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) of the result for an image."""
        left, top, right, bottom = self.expand
        return width + left + right, height + top + bottom

    def of(self, image: ImageToEdit) -> Masked:
        """Return an image with the part of it that is filled.

        Raises DataError for a mask that is missing, cannot be read or does not fit the image.
        """
        values = image.values
        left, top, right, bottom = self.expand
        edges = ((top, bottom), (left, right))
        where = np.pad(self._inside(image), edges, constant_values=True)
        height, width = self.size(values.shape[1], values.shape[0])[::-1]
        canvas: Values = np.zeros((height, width, values.shape[2]), values.dtype)
        canvas[top : height - bottom, left : width - right] = values
        if self.grow:
            where = grown(where, self.grow)
        weight = None
        if self.feather:
            weight = feathered(where, self.feather)
            weight *= np.pad(
                np.ones(values.shape[:2], np.float32), edges
            )  # nothing to mix with in new borders
            weight[weight == 0] = 1
        return Masked(canvas, where, weight)

    @property
    def _is_plain(self) -> bool:
        """Return whether nothing says which pixels of the image itself are filled."""
        return self.source is None and not self.boxes and not self.alpha

    def _inside(self, image: ImageToEdit) -> Mask:
        """Return what is filled of the image itself, before the mask grows."""
        values = image.values
        where = np.zeros(values.shape[:2], np.bool_)
        if self.source is not None:
            where |= _fitted(self._mask(image.name), values)
        for box in self.boxes:
            if box.left >= values.shape[1] or box.top >= values.shape[0]:
                raise DataError(
                    f"The box {','.join(map(str, box))} lies outside the image's "
                    f"{values.shape[1]}x{values.shape[0]} pixels."
                )
            where[box.slices] = True
        if self.alpha and values.shape[2] in (2, 4):
            where |= values[:, :, -1] < np.iinfo(values.dtype).max / 2
        return ~where if self.invert else where

    def _mask(self, name: str) -> Mask:
        """Return the mask of an image as it is in its file."""
        if isinstance(self.source, np.ndarray):
            return self.source
        assert self.source is not None
        return _read(self._file(name)) if self.source.is_dir() else self._single

    @functools.cached_property
    def _single(self) -> Mask:
        assert isinstance(self.source, Path)
        return _read(self.source)

    def _file(self, name: str) -> Path:
        """Return the file of the mask of an image in the folder."""
        assert isinstance(self.source, Path)
        path = PurePosixPath(name)
        if not name:
            raise DataError("Images in memory have no names to find masks in a folder by: give one mask.")
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"The name {name} leads out of the folder of masks: rename the image.")
        folder = self.source / path.parent
        if (folder / path.name).is_file():
            return folder / path.name
        beside = folder.iterdir() if folder.is_dir() else ()
        found = [each for each in beside if each.stem == path.stem and is_image_name(each.name)]
        if len(found) != 1:
            there = "are several masks" if found else "is no mask"
            raise DataError(f"There {there} for {name} in {self.source}: put one there, as {path.stem}.png.")
        return found[0]


def grown(where: Mask, pixels: int) -> Mask:
    """Return a mask that reaches so many pixels further in all directions."""
    rows, columns = _box(where, pixels)
    result = where.copy()
    result[rows, columns] = distances(where[rows, columns], pixels) <= pixels
    return result


def feathered(where: Mask, pixels: int) -> NDArray[np.float32]:
    """Return weights that rise from the edge of a mask inwards.

    They are float32 `[h, w]`: 0 outside, and 1 from `pixels` inside on. The edge of the image is not one of
    the mask.
    """
    rows, columns = _box(where, 1)
    weight = np.zeros(where.shape, np.float32)
    inside = distances(~where[rows, columns], pixels) / np.float32(pixels + 1)
    weight[rows, columns] = np.minimum(inside, 1)
    return weight


def distances(where: Mask, most: int) -> NDArray[np.float32]:
    """Compute the distance of each pixel to the nearest true one.

    It is exact up to `most`, and `most + 1` where it is longer. The nearest true pixel of each row is found
    first, then the nearest of all rows (Felzenszwalb and Huttenlocher 2012, section 2.1).
    """
    width = where.shape[1]
    places = np.arange(width, dtype=np.int32)
    before = np.maximum.accumulate(np.where(where, places, -_FAR), axis=1)
    after = np.minimum.accumulate(np.where(where, places, _FAR)[:, ::-1], axis=1)[:, ::-1]
    along = np.minimum(np.minimum(places - before, after - places), most + 1)
    along *= along
    nearest = along.copy()
    for step in range(1, min(most, len(where) - 1) + 1):
        np.minimum(nearest[step:], along[:-step] + step**2, out=nearest[step:])
        np.minimum(nearest[:-step], along[step:] + step**2, out=nearest[:-step])
    result = np.sqrt(nearest, dtype=np.float32)
    result[result > most] = most + 1
    return result


def _box(where: Mask, margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of all true pixels, with a margin."""
    spans = []
    for axis in (1, 0):
        touched = np.flatnonzero(where.any(axis=axis))
        first, end = (int(touched[0]), int(touched[-1]) + 1) if touched.size else (0, 0)
        spans.append(slice(max(0, first - margin), end + margin))
    return spans[0], spans[1]


def _read(path: Path) -> Mask:
    """Read a mask file; what is transparent does not count as white.

    A mask of zeros and ones, as libraries for arrays write it, is white where it is 1.
    """
    values = image_files.decode(path, channels=1, background="#000000")[:, :, 0]
    white: Mask = values >= (1 if values.max() == 1 else _WHITE)
    return white


def _fitted(mask: Mask, values: Values) -> Mask:
    """Return a mask in the size of an image; raises DataError if it has another shape."""
    (height, width), (mask_height, mask_width) = values.shape[:2], mask.shape
    if mask.shape == (height, width):
        return mask
    if abs(mask_width * height - width * mask_height) >= max(width, height):  # over a pixel of the mask
        raise DataError(
            f"The mask has {mask_width}x{mask_height} pixels, and the image {width}x{height}: give a mask of "
            "the same shape."
        )
    return resize_mask(mask, (width, height))


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
