"""Windows: the parts of an image that a model sees, in the model's aspect ratio, and the order of a fill.

An image of any size is edited through windows. A window is resized to the size of the model, and the result
is resized back. This module is geometry alone, so that it works without PyTorch.
"""

import itertools
import math
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.editing.contract import Values

Mask = NDArray[np.bool_]
"""Bool `[h, w]`, true where an image is edited."""
Size = tuple[int, int]
"""(width, height)."""

MARGIN = 0.5
"""How much a window shows on each side of what it fills, as a share of that."""
OVERLAP = 0.25
"""How far windows overlap by default, as a share of their sides."""

_NEARLY_WHOLE = 0.98
_CELLS = 64
"""A mask is divided into parts on a grid with at most so many cells in a row or a column."""


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return the rows and the columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def contains(self, other: "Window") -> bool:
        """Return whether another window lies inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.left + other.width <= self.left + self.width
            and other.top + other.height <= self.top + self.height
        )


class Step(NamedTuple):
    """One window of a fill.

    hidden: bool `[h, w]`, the pixels of the window that are not known yet. filled: those of them that this
    step fills.
    """

    window: Window
    hidden: Mask
    filled: Mask


def largest_window(size: Size, shape: Size) -> Size:
    """Return the largest window with a model's aspect ratio in an image.

    Returns (width, height). It is that of the whole image if that is nearly the same. size: of the image.
    shape: of the model.
    """
    width, height = size
    part_width = min(width, max(1, round(height * shape[0] / shape[1])))
    part_height = min(height, max(1, round(width * shape[1] / shape[0])))
    if part_width >= _NEARLY_WHOLE * width and part_height >= _NEARLY_WHOLE * height:
        return size
    return part_width, part_height


def around(where: Mask, size: Size) -> Window | None:
    """Return a window of a size that contains a mask.

    It is as close to the middle of the image as possible; None if no such window contains it. where: with at
    least one true pixel.
    """
    left = _around(np.asarray(where.any(axis=0)), size[0])
    top = _around(np.asarray(where.any(axis=1)), size[1])
    return None if left is None or top is None else Window(left, top, *size)


def _around(touched: NDArray[np.bool_], length: int) -> int | None:
    places = np.flatnonzero(touched)
    first, end = int(places[0]), int(places[-1]) + 1
    if end - first > length:
        return None
    return min(max((len(touched) - length) // 2, end - length), first)


def starts(length: int, tile: int, overlap: int, multiple: int = 1) -> list[int]:
    """Return where tiles start so that they cover a length.

    The last tile ends where the length ends. tile: their own length, at most `length`.
    overlap: of neighbours, at least. multiple: of all starts; `length - tile` must be one too.
    """
    step = max(multiple, (tile - overlap) // multiple * multiple)
    return [*range(0, length - tile, step), length - tile]


def kept_parts(length: int, tile: int, overlap: int, multiple: int = 1) -> list[tuple[int, int, int]]:
    """Return where each tile along an axis starts and what it keeps.

    It keeps what lies from the second number to the third. Neighbours meet in the middle of what they share.
    The arguments are those of `starts`.
    """
    begins = starts(length, tile, overlap, multiple)
    meetings = [(before + tile + after) // 2 for before, after in itertools.pairwise(begins)]
    return list(zip(begins, [0, *meetings], [*meetings, length], strict=True))


def grid(size: Size, shape: Size, *, tile: int = 0, overlap: int | None = None) -> list[list[Window]]:
    """Return the windows that cover an image.

    They are in rows from top to bottom. All have one size, with the aspect ratio of a model.

    size: of the image. shape: of the model.
    tile: the longer side of a window; 0 takes the largest windows that fit.
    overlap: in pixels; None is a quarter of a window.
    """
    width, height = window = _window_size(size, shape, tile)
    columns = starts(size[0], width, _overlap(window, 0, overlap))
    rows = starts(size[1], height, _overlap(window, 1, overlap))
    return [[Window(left, top, width, height) for left in columns] for top in rows]


def plan(where: Mask, shape: Size, *, tile: int = 0, overlap: int | None = None) -> Iterator[Step]:
    """Yield the steps of a fill in their order.

    A mask falls into parts that do not touch. Small parts come first, then from top to bottom and from left
    to right. A part has a window around it, with a margin; parts that lie inside of the window are filled
    with it. A part that is larger than the largest window gets several windows that overlap, from left to
    right and from top to bottom. What is filled is known to all later steps.

    where: the mask. shape: of the model.
    tile: the longer side of a window; 0 chooses it, at least as large as the model where the image is.
    overlap: as of `grid`.
    """
    parts, left = _Parts(where), where.copy()
    size = (where.shape[1], where.shape[0])
    windows = [_covering(box, size, shape, tile, overlap) for box in parts.boxes]
    waiting = sorted(range(len(windows)), key=lambda n: (windows[n][0].width, *parts.boxes[n][1::-1], n))
    while waiting:
        first = waiting[0]
        together = {first}
        if len(windows[first]) == 1:
            together |= {n for n in waiting if windows[first][0].contains(parts.boxes[n])}
        waiting = [n for n in waiting if n not in together]
        for window in windows[first]:
            hidden = left[window.slices]
            filled = hidden & parts.inside(window, together)
            if filled.any():
                yield Step(window, hidden.copy(), filled)
                hidden &= ~filled


def lay(canvas: Values, where: Mask, filled: Values) -> None:
    """Write the pixels that a mask covers into an image, in place.

    All others keep their bytes.

    canvas, filled: `[h, w, c]`. where: bool `[h, w]`.
    """
    canvas[where] = filled[where]


def resize_mask(where: Mask, size: Size) -> Mask:
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


class _Parts:
    """The parts of a mask: pixels whose cells on a coarse grid touch, also at a corner.

    boxes: of each part, as tight as possible, from top to bottom.
    """

    def __init__(self, where: Mask) -> None:
        height, width = where.shape
        self._cell = max(1, math.ceil(max(height, width) / _CELLS))
        cells = np.logical_or.reduceat(where, np.arange(0, height, self._cell), axis=0)
        cells = np.logical_or.reduceat(cells, np.arange(0, width, self._cell), axis=1)
        self._numbers = _connected(cells)
        self.boxes = [self._box(where, number) for number in range(int(self._numbers.max()) + 1)]

    def inside(self, window: Window, numbers: Collection[int]) -> Mask:
        """Return which pixels of a window belong to the cells of some parts."""
        rows = np.arange(window.top, window.top + window.height) // self._cell
        columns = np.arange(window.left, window.left + window.width) // self._cell
        chosen = np.isin(self._numbers, list(numbers))
        inside: Mask = chosen[rows][:, columns]
        return inside

    def _box(self, where: Mask, number: int) -> Window:
        rows, columns = np.nonzero(self._numbers == number)
        top, left = int(rows.min()) * self._cell, int(columns.min()) * self._cell
        bottom = min(int(rows.max() + 1) * self._cell, where.shape[0])
        right = min(int(columns.max() + 1) * self._cell, where.shape[1])
        coarse = Window(left, top, right - left, bottom - top)
        touched = where[coarse.slices] & self.inside(coarse, [number])
        ys, xs = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
        return Window(left + int(xs[0]), top + int(ys[0]), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)


def _connected(cells: Mask) -> NDArray[np.int32]:
    """Number the connected groups of true cells from 0, row by row; -1 elsewhere."""
    numbers = np.full(cells.shape, -1, np.int32)
    count = 0
    for start in np.argwhere(cells):
        if numbers[tuple(start)] >= 0:
            continue
        waiting = [(int(start[0]), int(start[1]))]
        numbers[waiting[0]] = count
        while waiting:
            row, column = waiting.pop()
            for y in range(max(row - 1, 0), min(row + 2, cells.shape[0])):
                for x in range(max(column - 1, 0), min(column + 2, cells.shape[1])):
                    if cells[y, x] and numbers[y, x] < 0:
                        numbers[y, x] = count
                        waiting.append((y, x))
        count += 1
    return numbers


def _covering(box: Window, size: Size, shape: Size, tile: int, overlap: int | None) -> list[Window]:
    """Return one window around a box, or several that cover it, row by row."""
    wanted = tile
    if not tile:
        scale = max(1.0, *((1 + 2 * MARGIN) * side / own for side, own in zip(box[2:], shape, strict=True)))
        wanted = math.ceil(scale * max(shape))
    window = _window_size(size, shape, wanted)
    columns = _places(box.left, box.width, window[0], size[0], _overlap(window, 0, overlap))
    rows = _places(box.top, box.height, window[1], size[1], _overlap(window, 1, overlap))
    return [Window(left, top, *window) for top in rows for left in columns]


def _window_size(size: Size, shape: Size, tile: int) -> Size:
    """Return the (width, height) of windows whose longer side is `tile`, or 0 for the largest."""
    most = largest_window(size, shape)
    if not tile:
        return most
    width, height = (max(1, round(side * tile / max(shape))) for side in shape)
    return min(width, most[0]), min(height, most[1])


def _overlap(window: Size, axis: int, overlap: int | None) -> int:
    """Return how far windows overlap along an axis, which is less than their side."""
    side = window[axis]
    return int(OVERLAP * side) if overlap is None else min(overlap, side - 1)


def _places(first: int, length: int, side: int, whole: int, overlap: int) -> list[int]:
    """Return where windows start along an axis so that they cover a length.

    One that covers it has it in the middle; several show what is before and after it.
    """
    if length <= side:
        return [min(max(first + (length - side) // 2, 0), whole - side)]
    begin, end = max(0, first - overlap), min(whole, first + length + overlap)
    return [begin + start for start in starts(end - begin, side, overlap)]
