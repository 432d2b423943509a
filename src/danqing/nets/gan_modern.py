"""The networks of `modern`: residual blocks without normalisation (Huang et al. 2024, R3GAN).

Both networks have a level for each size from a base of four pixels, or a little more, to the whole image.
Each level of the generator adds its own output to the upsampled image of the level before, and each level of
the discriminator adds what it reads in the image at its size (Karras et al. 2020, StyleGAN2, section 4.1).
What a finer level adds starts at zero. Training can therefore begin with the coarse levels alone, and a new
level changes nothing at first.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data.batch import Condition
from danqing.nets.gan_contract import Discriminator, GANShape, level_widths
from danqing.nets.layers import JoinCondition, ProjectionHead, ToMap, crop, halvings, shrunk
from danqing.nets.wrapping import Wrappable

SLOPE = 0.2
"""Of the leaky ReLU, for negative values."""
AFTER_ACTIVATION = math.sqrt(2 / (1 + SLOPE**2))
"""The gain of weights after a leaky ReLU that keeps the variance (He et al. 2015, section 2.2)."""

Size = tuple[int, int]


class LevelShape(NamedTuple):
    """How the levels of a network are built.

    blocks: residual blocks per level.
    expansion: channels within a block, as a multiple of those outside.
    group_width: channels in a group of its 3×3 convolution; 0 is dense.
    """

    blocks: int = 1
    expansion: float = 1.0
    group_width: int = 0


class Block(nn.Module):
    """x + layers(x): convolutions of 1×1, 3×3 and 1×1.

    The last one starts at zero. The first two start smaller the more blocks a network has, so that a step
    changes a deep network about as much as a shallow one (Zhang et al. 2019, Fixup, section 3: a branch of m
    layers is scaled by blocks^(-1/(2m-2)) in all).
    """

    def __init__(self, width: int, shape: LevelShape, blocks: int) -> None:
        super().__init__()
        group = shape.group_width
        groups = max(1, round(width * shape.expansion / group)) if group else 1
        inner = groups * group if group else max(4, round(width * shape.expansion))
        self.first = nn.Conv2d(width, inner, 1)
        self.middle = nn.Conv2d(inner, inner, 3, padding=1, groups=groups)
        self.last = nn.Conv2d(inner, width, 1)
        depth = blocks**-0.25
        start(self.first, depth)
        start(self.middle, AFTER_ACTIVATION * depth)
        start(self.last, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.middle(F.leaky_relu(self.first(x), SLOPE)), SLOPE)
        out: Tensor = x + self.last(h)
        return out


class ModernGenerator(Wrappable):
    """Levels from coarse to fine, whose outputs add up to an image.

    From latents `[n, latents]` and a condition to images `[n, c, h, w]`.
    """

    def __init__(self, shape: GANShape, latents: int, features: int, levels: LevelShape) -> None:
        super().__init__()
        self.sizes = halvings(shape.height, shape.width)[::-1]
        self.multiple = 2 ** (len(self.sizes) - 1)
        widths = level_widths(len(self.sizes), features)[::-1]
        self.join = JoinCondition(latents, shape.labels, shape.attributes)
        self.first = ToMap(self.join.outputs, widths[0], self.sizes[0])
        self.change = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in itertools.pairwise(widths))
        self.levels = _levels(widths, levels)
        self.outputs = nn.ModuleList(nn.Conv2d(width, shape.channels, 1) for width in widths)
        start(self.first.linear)
        for change in self.change:
            start(change)
        for number, output in enumerate(self.outputs):
            start(output, 0.0 if number else 1.0)

    def forward(self, latents: Tensor, condition: Condition | None, size: Size | None = None) -> Tensor:
        """Generate images `[n, c, h, w]` in [-1, 1].

        size: (height, width) of the images, by default the whole size. A smaller image uses only the levels
            that it needs.
        """
        size = size or self.sizes[-1]
        h = self.levels[0](self.first(self.join(latents, condition)))
        image = self.outputs[0](h).float()  # a sum in bfloat16 would be too coarse
        for level in range(1, 1 + _level_of(size, self.sizes)):
            h = self.levels[level](crop(doubled(self.change[level - 1](h)), self.sizes[level]))
            image = crop(doubled(image), self.sizes[level]) + self.outputs[level](h).float()
        return _resized(torch.tanh(image), size)

    def level_of(self, name: str) -> int:
        """Return at which level a parameter begins to work.

        It is how often images of that level are halved. name: as in `state_dict()`.
        """
        part, _, rest = name.partition(".")
        number = int(rest.partition(".")[0]) if part in ("levels", "outputs", "change") else 0
        return len(self.sizes) - 1 - number - (part == "change")


class ModernDiscriminator(Discriminator):
    """The generator's levels in reverse, which also read the image."""

    def __init__(self, shape: GANShape, features: int, levels: LevelShape) -> None:
        super().__init__()
        self.sizes = halvings(shape.height, shape.width)
        widths = level_widths(len(self.sizes), features)
        self.map_width = widths[-1]
        self.inputs = nn.ModuleList(nn.Conv2d(shape.channels, width, 3, padding=1) for width in widths)
        self.levels = _levels(widths, levels)
        self.change = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in itertools.pairwise(widths))
        self.head = ProjectionHead(widths[-1] * math.prod(self.sizes[-1]), shape.labels, shape.attributes)
        for read in self.inputs:
            start(read)
        for change in self.change:
            start(change, 0.0)

    def features(self, images: Tensor) -> Tensor:
        """Return the map of the coarsest level.

        images: `[n, c, h, w]` of the whole size or a smaller one, which enters at the level of its size.
        """
        coarsest = len(self.sizes) - 1
        entry = coarsest - _level_of((images.shape[-2], images.shape[-1]), self.sizes[::-1])
        x = _resized(images, self.sizes[entry])
        h = self.levels[entry](self.inputs[entry](x))
        for level in range(entry + 1, coarsest + 1):
            x, h = shrunk(x, 1), shrunk(h, 1)
            h = self.levels[level](self.inputs[level](x) + self.change[level - 1](h))
        out: Tensor = h
        return out


def start(layer: nn.Module, gain: float = 1.0) -> None:
    """Draw the weights of a layer from a normal distribution.

    Biases are zero. With a gain of 1 the output has the variance of the input.
    """
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    nn.init.normal_(layer.weight, std=gain * layer.weight[0].numel() ** -0.5)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def doubled(x: Tensor) -> Tensor:
    """Interpolate `[n, c, h, w]` linearly to twice the sides.

    All pixels of the result have the same weight in all, so that no grid appears (Odena et al. 2016).
    """
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _levels(widths: list[int], shape: LevelShape) -> nn.ModuleList:
    blocks = len(widths) * shape.blocks
    return nn.ModuleList(
        nn.Sequential(*(Block(width, shape, blocks) for _ in range(shape.blocks))) for width in widths
    )


def _level_of(size: Size, sizes: list[Size]) -> int:
    """Return the first level that is not smaller than `size`, of `sizes` from coarse to fine."""
    return next(
        (level for level, (height, width) in enumerate(sizes) if height >= size[0] and width >= size[1]),
        len(sizes) - 1,
    )


def _resized(images: Tensor, size: Size) -> Tensor:
    """Return images at a size, which is nearly always that of their level already."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)
