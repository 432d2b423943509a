"""Encoders and decoders between images and a grid of vectors, coarser by a power of two.

Any height and width will do: an image is padded by repeating its last row and column, and the decoder's is
cropped. No layer works at the full resolution, where a processor spends most of its time moving memory: the
first convolution strides, the last one makes four pixels per place.
"""

import itertools
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data.batch import Condition
from danqing.nets.autoencoders import activate, convolution, convolution_block, into_pixels
from danqing.nets.layers import crop
from danqing.nets.wrapping import Wrappable


@dataclass(frozen=True, slots=True)
class GridShape:
    """The sizes that encoder and decoder share.

    height, width: of the usual image; the networks take others too.
    latents: numbers at each place of the grid.
    features: the grid has twice as many channels within the nets, each finer map half of the one before, and
        none fewer than 16.
    blocks: residual blocks on the grid.
    downsamplings: how often the sides are halved.
    """

    height: int
    width: int
    channels: int
    latents: int
    features: int
    blocks: int
    downsamplings: int

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of the grid."""
        return grid_of((self.height, self.width), self.factor)

    @property
    def factor(self) -> int:
        """Return the sides of a place of the grid in pixels."""
        return int(2**self.downsamplings)

    @property
    def widths(self) -> list[int]:
        """Return the channels of each map, from fine to coarse.

        The full resolution is not among them.
        """
        return [max(16, 2 * self.features >> i) for i in reversed(range(self.downsamplings))]


def grid_of(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Return the rows and columns of the grid of an image.

    size: (height, width) of the image. factor: the sides of a place in pixels.
    """
    return -(-size[0] // factor), -(-size[1] // factor)


class GridEncoder(nn.Module):
    """Strided convolutions, then residual blocks on the grid.

    From images `[n, c, h, w]` of any size to `[n, latents, rows, columns]`.
    """

    def __init__(self, shape: GridShape) -> None:
        super().__init__()
        self.factor, widths = shape.factor, shape.widths
        self.stem = nn.Conv2d(shape.channels, widths[0], 4, stride=2, padding=1)
        self.stages = nn.ModuleList(convolution(*pair, stride=2) for pair in itertools.pairwise(widths))
        self.blocks = nn.Sequential(*(convolution_block(widths[-1]) for _ in range(shape.blocks)))
        self.last = nn.Conv2d(widths[-1], shape.latents, 1)

    def features(self, images: Tensor) -> Tensor:
        """Return what the last layer reads, a map `[n, channels, rows, columns]`."""
        below, right = (-side % self.factor for side in images.shape[-2:])  # to whole places
        padding = (0, right, 0, below)
        h = self.stem(F.pad(images, padding, mode="replicate") if any(padding) else images)
        for stage in self.stages:
            h = stage(activate(h))
        return activate(self.blocks(h))

    def forward(self, images: Tensor) -> Tensor:
        latents: Tensor = self.last(self.features(images))
        return latents


class GridDecoder(Wrappable):
    """The encoder backwards.

    From latents `[n, latents, rows, columns]` to images `[n, c, h, w]`. A place doubles by repetition and a
    convolution, which leaves no grid as strided transposes do (Odena et al. 2016); the last doubling is a
    pixel shuffle (Shi et al. 2016), which starts as repetition.
    """

    def __init__(self, shape: GridShape) -> None:
        super().__init__()
        self.size, widths = (shape.height, shape.width), shape.widths[::-1]
        self.multiple = shape.factor
        self.first = convolution(shape.latents, widths[0])
        self.blocks = nn.Sequential(*(convolution_block(widths[0]) for _ in range(shape.blocks)))
        self.stages = nn.ModuleList(convolution(*pair) for pair in itertools.pairwise(widths))
        self.last = into_pixels(widths[-1], shape.channels)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoded(latents, self.size)

    def decoded(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """Decode the latents of images of a (height, width)."""
        h = self.blocks(self.first(latents))
        for stage in self.stages:
            h = stage(F.interpolate(activate(h), scale_factor=2.0))
        return crop(F.pixel_shuffle(self.last(activate(h)), 2), size)


class VectorEncoder(GridEncoder):
    """A grid encoder whose output is one vector `[n, latents · rows · columns]`."""

    def forward(self, images: Tensor, condition: Condition | None = None) -> Tensor:
        return super().forward(images).flatten(1)


class VectorDecoder(GridDecoder):
    """A grid decoder whose input is one vector `[n, latents · rows · columns]`."""

    def __init__(self, shape: GridShape) -> None:
        super().__init__(shape)
        self.latents = shape.latents

    def forward(
        self, latents: Tensor, condition: Condition | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Decode latents.

        size: (height, width) of the images, by default the usual one.
        """
        size = size or self.size
        return self.decoded(latents.unflatten(1, (self.latents, *grid_of(size, self.multiple))), size)
