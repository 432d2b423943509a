"""Tiles: large images through networks of any kind, without seams.

A network of convolutions alone sees around each pixel only as far as its receptive field. Such a network runs
on tiles of one fixed shape, and each pixel comes from the tile that shows most around it. Where the receptive
field lies inside of a tile, the result is the same whatever the tiling.

Other networks see the whole window. Their windows share one field of noise, in which values belong to places
and not to windows, and where windows overlap, their results are blended.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.editing.windows import Window, kept_parts
from danqing.errors import ConfigError
from danqing.randomness import generator

_BLOCK = 64
"""Noise is drawn in squares of so many places."""


class Tile(NamedTuple):
    """The result of one tile.

    place: where it belongs in the result. images: `[n, c, h, w]`, of this size.
    """

    place: Window
    images: Tensor


def run_in_tiles(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    tile: int,
    overlap: int,
    scale: int = 1,
    multiple: int = 1,
) -> Tensor:
    """Run a network of convolutions on tiles of images; returns `[n, c, scale · h, scale · w]`.

    The arguments are those of `tiles_of`, which needs less memory if results are used one by one.
    """
    size = (images.shape[2] * scale, images.shape[3] * scale)
    whole: Tensor | None = None
    for place, result in tiles_of(
        function, images, tile=tile, overlap=overlap, scale=scale, multiple=multiple
    ):
        if whole is None:
            whole = result.new_empty((*result.shape[:2], *size))
        whole[..., place.slices[0], place.slices[1]] = result
    assert whole is not None
    return whole


def tiles_of(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    tile: int,
    overlap: int,
    scale: int = 1,
    multiple: int = 1,
) -> Iterator[Tile]:
    """Yield the results of a network of convolutions, tile by tile.

    Together they make up the whole image.

    function: from `[n, c, t, u]` to `[n, d, scale · t, scale · u]`; t and u are the same for all tiles.
    images: `[n, c, h, w]`.
    tile: the side of a tile in pixels; a shorter side of the image is not divided.
    overlap: of neighbours, at least; results are exact from twice the radius of the receptive field on.
    multiple: of all starts of tiles, and of their sides: the product of the network's strides. Where the
        image ends within a multiple, its last row or column is repeated.
    Raises ConfigError if tiles are not larger than their overlap.
    """
    height, width = int(images.shape[2]), int(images.shape[3])
    side = tile // multiple * multiple
    if side - overlap < multiple:
        raise ConfigError(
            f"Tiles of {tile} pixels cannot overlap by {overlap}: choose larger tiles or a smaller overlap.",
            "tile",
        )
    missing = (-width % multiple, -height % multiple)
    padded = F.pad(images, (0, missing[0], 0, missing[1]), mode="replicate") if any(missing) else images
    sides = (min(side, padded.shape[2]), min(side, padded.shape[3]))
    rows = kept_parts(padded.shape[2], sides[0], overlap, multiple)
    columns = kept_parts(padded.shape[3], sides[1], overlap, multiple)
    for (top, first_row, end_row), (left, first, end) in itertools.product(rows, columns):
        result = function(padded[:, :, top : top + sides[0], left : left + sides[1]])
        end_row, end = min(end_row, height), min(end, width)
        if end_row <= first_row or end <= first:
            continue
        part = result[
            :,
            :,
            (first_row - top) * scale : (end_row - top) * scale,
            (first - left) * scale : (end - left) * scale,
        ]
        place = (first, first_row, end - first, end_row - first_row)
        yield Tile(Window(*(number * scale for number in place)), part)


class NoiseField:
    """Standard normal values for the places of a plane without end.

    They depend on the seed and the place alone, so that overlapping windows share them, and so do the frames
    of a film.
    """

    def __init__(self, seed: int, channels: int) -> None:
        self._seed, self._channels = seed, channels

    def crop(self, top: int, left: int, rows: int, columns: int) -> Tensor:
        """Return the values of some places, float32 `[channels, rows, columns]`."""
        found = torch.empty(self._channels, rows, columns)
        for y in range(top // _BLOCK, (top + rows - 1) // _BLOCK + 1):
            for x in range(left // _BLOCK, (left + columns - 1) // _BLOCK + 1):
                rng = generator(self._seed, "noise field", y, x)
                block = torch.randn(self._channels, _BLOCK, _BLOCK, generator=rng)
                above, before = y * _BLOCK, x * _BLOCK
                first, end = max(top, above), min(top + rows, above + _BLOCK)
                start, stop = max(left, before), min(left + columns, before + _BLOCK)
                found[:, first - top : end - top, start - left : stop - left] = block[
                    :, first - above : end - above, start - before : stop - before
                ]
        return found

    def under(self, window: Window, shape: Sequence[int]) -> Tensor:
        """Return the values of the places of a window, float32 `shape`.

        shape: (channels, rows, columns) of the window's noise.
        """
        _, rows, columns = shape
        top, left = round(window.top * rows / window.height), round(window.left * columns / window.width)
        return self.crop(top, left, rows, columns)


def blending_weights(begins: Sequence[int], side: int, length: int) -> Tensor:
    """Compute how much each of several overlapping windows counts along an axis.

    The result is `[windows, side]`. A window counts less towards its ends, where others cover the place; at
    each place the sum is 1.
    begins: of the windows, ascending. side: of a window. length: of the axis.
    """
    weights = torch.ones(len(begins), side, dtype=torch.float64)
    for number, (before, after) in enumerate(itertools.pairwise(begins)):
        shared = before + side - after
        rise = torch.arange(1, shared + 1, dtype=torch.float64) / (shared + 1)
        weights[number, side - shared :] *= rise.flip(0)
        weights[number + 1, :shared] *= rise
    sums = torch.zeros(length, dtype=torch.float64)
    for begin, weight in zip(begins, weights, strict=True):
        sums[begin : begin + side] += weight
    parts = [weight / sums[begin : begin + side] for begin, weight in zip(begins, weights, strict=True)]
    return torch.stack(parts).float()
