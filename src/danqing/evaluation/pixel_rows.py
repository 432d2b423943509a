"""Images compared as they are: by their pixels, and by whether they are equal."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from danqing.evaluation.contract import ImageSet
from danqing.evaluation.image_sets import batch_size_for, index_batches

SIDE = 32
"""Larger images are averaged down to this longer side before their pixels are compared."""


class PixelRows:
    """Images as `Rows` of pixel values in [0, 1], `[n, h*w*c]`.

    Colours are weighted by their alpha, since what lies behind full transparency is not seen.
    """

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        shrink = min(1.0, SIDE / max(images.size))
        self._size = [max(1, round(side * shrink)) for side in images.size[::-1]]
        self._shape = (len(images), self._size[0] * self._size[1] * images.channels)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __getitem__(self, rows: slice, /) -> Tensor:
        indices = np.arange(*rows.indices(self._shape[0]))
        found = torch.empty(len(indices), self._shape[1])
        for part in index_batches(len(indices), batch_size_for(self._images.size)):
            found[part[0] : part[-1] + 1] = self._shrunk(self._images.images(indices[part]))
        return found

    def _shrunk(self, images: Tensor) -> Tensor:
        values = images.permute(0, 3, 1, 2).float().div_(255)
        if values.shape[1] in (2, 4):
            values = torch.cat([values[:, :-1] * values[:, -1:], values[:, -1:]], 1)
        if list(values.shape[2:]) != self._size:
            values = F.interpolate(values, self._size, mode="area")
        return values.flatten(1)


def hashes(images: ImageSet) -> NDArray[np.uint64]:
    """Return a number for each image, `[n]`; equal images have equal ones."""
    result = np.empty(len(images), np.uint64)
    for rows in index_batches(len(images), batch_size_for(images.size)):
        for row, pixels in zip(rows, images.images(rows).numpy(), strict=True):
            result[row] = int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest(), "big")
    return result
