"""Textures that repeat: opposite edges of an image fit together.

The convolutions of a network wrap around, so that an edge is as smooth as any other place. A network that
draws an image from latents in one evaluation needs no more.

A flow was trained on images with edges and evaluates its network many times. So for each evaluation the image
is moved around by another distance, and what the network knows of places (where an edge is, how far apart two
places are) meets other pixels each time. Moving alone would leave a seam where the edges were in the last
evaluation.

The distances are multiples of the golden and the silver ratio, modulo the side of the image, which cover the
side evenly from the first step on. They depend on the number of the evaluation alone, so an image still
follows from its own seed.
"""

import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.nets.wrapping import Wrappable, WrappedConvolutions
from danqing.options import Seamless

_GOLDEN, _SILVER = (math.sqrt(5) - 1) / 2, math.sqrt(2) - 1

Move = Callable[[Tensor], Tensor]
"""Moves images `[n, c, h, w]` around."""


def wrapped(seamless: Seamless) -> AbstractContextManager[object]:
    """Return a context in which the convolutions of networks wrap around."""
    x, y = _axes(seamless)
    return WrappedConvolutions(x=x, y=y) if x or y else nullcontext()


def check_sides(size: tuple[int, int], multiple: int) -> None:
    """Raise ConfigError if an image does not suit a wrapping network.

    size: (width, height). multiple: its sides must be whole multiples of this.
    """
    if any(side % multiple for side in size):
        raise ConfigError(
            f"Seamless images need sides in multiples of {multiple}, and these have {size[0]}x{size[1]}: "
            "choose another size.",
            "seamless",
        )


def check_one_evaluation(network: Wrappable, size: tuple[int, int], name: str, others: str) -> None:
    """Raise ConfigError if a network from latents has no seamless images.

    size: (width, height). name: of the network in the configuration. others: the names of those that can.
    """
    if not network.multiple:
        raise ConfigError(
            f"Opposite edges fit together only if a network has convolutions alone, and net={name} has other "
            f"layers: train a model with net={others}.",
            "seamless",
        )
    check_sides(size, network.multiple)


class Tiling:
    """Runs a network as if images had no edges, in one sampling."""

    def __init__(self, seamless: Seamless) -> None:
        self._seamless, (self._x, self._y) = seamless, _axes(seamless)
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

        with wrapped(self._seamless):
            found = network(move(z), move)
        return torch.roll(found, (-down, -across), (-2, -1))


def _axes(seamless: Seamless) -> tuple[bool, bool]:
    """Return whether an image repeats along x and along y."""
    return seamless in ("x", "both"), seamless in ("y", "both")
