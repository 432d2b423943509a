"""Textures that repeat: opposite edges of an image fit together.

A network that was trained on images with edges needs two changes. Its convolutions wrap around, so that an
edge is as smooth as any other place. And for each evaluation the image is moved around by another distance,
so that what the network knows of places (where an edge is, how far apart two places are) meets other pixels
each time. Moving alone would leave a seam where the edges were in the last evaluation.

The distances are multiples of the golden and the silver ratio, modulo the side of the image, which cover the
side evenly from the first step on. They depend on the number of the evaluation alone, so an image still
follows from its own seed.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from danqing.nets.wrapping import WrappedConvolutions
from danqing.options import Seamless

_GOLDEN, _SILVER = (math.sqrt(5) - 1) / 2, math.sqrt(2) - 1

Move = Callable[[Tensor], Tensor]
"""Moves images `[n, c, h, w]` around."""


class Tiling:
    """Runs a network as if images had no edges, in one sampling."""

    def __init__(self, seamless: Seamless) -> None:
        self._x, self._y = seamless in ("x", "both"), seamless in ("y", "both")
        self._numbers = itertools.count(1)

    def predict(self, network: Callable[[Tensor, Move], Tensor], z: Tensor) -> Tensor:
        """Run a network on points `z` as if these had no edges.

        z: `[n, c, h, w]`.
        network: called with the moved points, and with what moves other images in the same way.
        """
        if not (self._x or self._y):
            return network(z, lambda images: images)
        number, (height, width) = next(self._numbers), z.shape[-2:]
        down = int(number * _SILVER % 1 * height) if self._y else 0
        across = int(number * _GOLDEN % 1 * width) if self._x else 0

        def move(images: Tensor) -> Tensor:
            return torch.roll(images, (down, across), (-2, -1))

        with WrappedConvolutions(x=self._x, y=self._y):
            found = network(move(z), move)
        return torch.roll(found, (-down, -across), (-2, -1))
