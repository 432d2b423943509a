"""The geometry of masks: which part of a picture a model sees, and how the result is put back."""

import numpy as np
from numpy.typing import NDArray

from danqing import images
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import Pixels
from danqing.service.errors import invalid

Mask = NDArray[np.bool_]

_NEARLY_WHOLE = 0.98


def window_of(where: Mask, offer: Offer) -> tuple[slice, slice]:
    """Return the largest window with the model's aspect ratio around a mask.

    where: bool `[h, w]`, true where to paint. The window is the whole picture if that is nearly the same.
    Raises ApiError if no such window contains the mask.
    """
    height, width = where.shape
    part_width = min(width, max(1, round(height * offer.width / offer.height)))
    part_height = min(height, max(1, round(width * offer.height / offer.width)))
    if part_width >= _NEARLY_WHOLE * width and part_height >= _NEARLY_WHOLE * height:
        return slice(0, height), slice(0, width)
    rows = _around(np.asarray(where.any(axis=1)), part_height)
    columns = _around(np.asarray(where.any(axis=0)), part_width)
    if rows is None or columns is None:
        message = (
            f"{offer.name} paints pictures of {offer.width}x{offer.height}, and the mask reaches over more "
            f"than {part_width}x{part_height} of this one: crop the picture to that shape."
        )
        raise invalid(message, "mask")
    return rows, columns


def _around(touched: NDArray[np.bool_], length: int) -> slice | None:
    """Return a slice of this length that contains all touched places, as close to the middle as possible."""
    places = np.flatnonzero(touched)
    first, end = int(places[0]), int(places[-1]) + 1
    if end - first > length:
        return None
    start = min(max((len(touched) - length) // 2, end - length), first)
    return slice(start, start + length)


def resize_mask(where: Mask, size: tuple[int, int]) -> Mask:
    """Resize a mask to (width, height).

    A new pixel is true where any pixel that it covers is.
    """
    for axis, count in ((0, size[1]), (1, size[0])):
        length = where.shape[axis]
        places = np.arange(count)
        starts, ends = places * length // count, -(-(places + 1) * length // count)
        sums = np.cumsum(where, axis=axis, dtype=np.int32)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)
        where = sums.take(ends, axis) > sums.take(starts, axis)
    return where


def lay_into(picture: Pixels, where: Mask, window: tuple[slice, slice], painted: Pixels) -> list[Pixels]:
    """Put painted pictures into the sent picture, at its size.

    picture: uint8 `[h, w, c]`.
    where: bool `[h, w]`; every pixel outside it stays unchanged.
    window: the part of the picture that was painted.
    painted: uint8 `[n, h, w, c]`, at the model's size.
    """
    covered = where[window]
    kinds = (picture.shape[2], painted.shape[3])
    colour, alpha = max(kinds) >= 3, any(kind in (2, 4) for kind in kinds)
    channels = (3 if colour else 1) + alpha
    ground = images.conform(picture, channels=channels)
    laid = []
    for one in painted:
        patch = images.conform(
            one, size=(covered.shape[1], covered.shape[0]), channels=channels, fit="stretch"
        )
        whole = ground.copy()
        whole[window][covered] = patch[covered]
        opaque = alpha and kinds[1] in (1, 3) and bool((whole[:, :, -1] == 255).all())
        laid.append(whole[:, :, :-1] if opaque else whole)
    return laid
