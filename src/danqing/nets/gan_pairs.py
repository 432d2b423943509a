"""Generators and discriminators, in pairs: `mlp`, `dcgan`, `resnet` and, in `gan_modern`, `modern`.

A generator maps latents `[n, latents]` and a condition (or None) to images `[n, c, h, w]` in [-1, 1]; a
discriminator maps images and a condition to logits `[n]`, high where it takes the image for real. Any height
and width will do: a discriminator halves the sides, rounding up, down to a base of four or a little more, and
the generator grows through the same sizes.
"""

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data.batch import Condition
from danqing.nets.gan_contract import Discriminator, GANShape, MultiScale, level_widths
from danqing.nets.gan_modern import LevelShape, ModernDiscriminator, ModernGenerator
from danqing.nets.layers import JoinCondition, ProjectionHead, ToMap, crop, halvings, pad_to_even
from danqing.nets.wrapping import Wrappable

Net = Literal["mlp", "dcgan", "resnet", "modern"]


class MLPGenerator(Wrappable):
    """Three hidden layers of 4, 8 and 16 times `features`."""

    def __init__(self, shape: GANShape, latents: int, features: int) -> None:
        super().__init__()
        self.size = (shape.channels, shape.height, shape.width)
        self.join = JoinCondition(latents, shape.labels, shape.attributes)
        widths = [self.join.outputs, 4 * features, 8 * features, 16 * features]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.last = nn.Linear(widths[-1], math.prod(self.size))

    def forward(self, latents: Tensor, condition: Condition | None) -> Tensor:
        h = self.join(latents, condition)
        for layer in self.hidden:
            h = F.leaky_relu(layer(h), 0.2)
        return torch.tanh(self.last(h)).float().reshape(-1, *self.size)


class MLPDiscriminator(Discriminator):
    """The generator's hidden layers in reverse."""

    def __init__(self, shape: GANShape, features: int) -> None:
        super().__init__()
        pixels = shape.channels * shape.height * shape.width
        widths = [pixels, 16 * features, 8 * features, 4 * features]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.head = ProjectionHead(widths[-1], shape.labels, shape.attributes)

    def features(self, images: Tensor) -> Tensor:
        h = images.flatten(1)
        for layer in self.hidden:
            h = F.leaky_relu(layer(h), 0.2)
        return h


def start_small(module: nn.Module) -> None:
    """Draw the weights of a layer from N(0, 0.02²).

    Biases start at zero (Radford et al. 2016, section 4).
    """
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class DCGANGenerator(Wrappable):
    """Transposed 4×4 convolutions with batch norm and ReLU (Radford et al. 2016)."""

    def __init__(self, shape: GANShape, latents: int, features: int) -> None:
        super().__init__()
        *self.sizes, base = halvings(shape.height, shape.width)
        self.sizes.reverse()
        self.multiple = 2 ** len(self.sizes)
        widths = level_widths(max(1, len(self.sizes)), features)[::-1]
        self.join = JoinCondition(latents, shape.labels, shape.attributes)
        self.first = ToMap(self.join.outputs, widths[0], base)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        widths.append(shape.channels)
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            for before, after in itertools.pairwise(widths)
        )
        if not self.sizes:  # too small to have been halved
            self.sizes, self.grow = (
                [base],
                nn.ModuleList([nn.Conv2d(widths[0], shape.channels, 3, padding=1)]),
            )
        self.first.apply(start_small)
        self.grow.apply(start_small)

    def forward(self, latents: Tensor, condition: Condition | None) -> Tensor:
        h = self.first(self.join(latents, condition))
        for norm, grow, size in zip(self.norms, self.grow, self.sizes, strict=True):
            h = crop(grow(F.relu(norm(h))), size)
        return torch.tanh(h).float()


class DCGANDiscriminator(Discriminator):
    """The generator's stages in reverse: strided 4×4 convolutions with leaky ReLU.

    batch_norm: whether there is batch norm after all but the first.
    """

    def __init__(self, shape: GANShape, features: int, *, batch_norm: bool = True) -> None:
        super().__init__()
        *sizes, base = halvings(shape.height, shape.width)
        widths = level_widths(max(1, len(sizes)), features)
        channels = [shape.channels, *widths]
        stride, kernel = (2, 4) if sizes else (1, 3)
        self.shrink = nn.ModuleList(
            nn.Conv2d(before, after, kernel, stride=stride, padding=1)
            for before, after in itertools.pairwise(channels)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(width) if batch_norm and stage else nn.Identity()
            for stage, width in enumerate(widths)
        )
        self.map_width = widths[-1]
        self.head = ProjectionHead(widths[-1] * math.prod(base), shape.labels, shape.attributes)
        self.shrink.apply(start_small)
        self.head.linear.apply(start_small)

    def features(self, images: Tensor) -> Tensor:
        h = images
        for shrink, norm in zip(self.shrink, self.norms, strict=True):
            h = F.leaky_relu(norm(shrink(pad_to_even(h) if shrink.stride == (2, 2) else h)), 0.2)
        return h


class GrowBlock(nn.Module):
    """Two 3×3 convolutions beside a 1×1, which double the size.

    Miyato et al. 2018, fig. 8.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        h: Tensor = self.conv1(F.interpolate(F.relu(self.norm1(x)), size))
        h = self.conv2(F.relu(self.norm2(h)))
        return h + F.interpolate(self.skip(x), size)


class ResNetGenerator(Wrappable):
    """Residual blocks, one per doubling of the sides."""

    def __init__(self, shape: GANShape, latents: int, features: int) -> None:
        super().__init__()
        *self.sizes, base = halvings(shape.height, shape.width)
        self.sizes.reverse()
        self.multiple = 2 ** len(self.sizes)
        widths = [features, *level_widths(len(self.sizes), features)][::-1]
        self.join = JoinCondition(latents, shape.labels, shape.attributes)
        self.first = ToMap(self.join.outputs, widths[0], base)
        self.blocks = nn.ModuleList(GrowBlock(*pair) for pair in itertools.pairwise(widths))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.last = nn.Conv2d(widths[-1], shape.channels, 3, padding=1)

    def forward(self, latents: Tensor, condition: Condition | None) -> Tensor:
        h = self.first(self.join(latents, condition))
        for block, size in zip(self.blocks, self.sizes, strict=True):
            h = block(h, size)
        h = self.last(F.relu(self.norm(h)))
        return torch.tanh(h).float()


class ShrinkBlock(nn.Module):
    """Two 3×3 convolutions beside a 1×1, which halve the size.

    The average over 2×2 halves it.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        skip: Tensor = self.skip(F.avg_pool2d(pad_to_even(x), 2))
        return F.avg_pool2d(pad_to_even(h), 2) + skip


class ResNetDiscriminator(Discriminator):
    """Residual blocks, one per halving of the sides, without batch norm."""

    def __init__(self, shape: GANShape, features: int) -> None:
        super().__init__()
        *sizes, base = halvings(shape.height, shape.width)
        widths = [features, *level_widths(len(sizes), features)]
        self.first = nn.Conv2d(shape.channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(ShrinkBlock(*pair) for pair in itertools.pairwise(widths))
        self.map_width = widths[-1]
        self.head = ProjectionHead(widths[-1] * math.prod(base), shape.labels, shape.attributes)

    def features(self, images: Tensor) -> Tensor:
        h = self.first(images)
        for block in self.blocks:
            h = block(h)
        return F.leaky_relu(h, 0.2)


def build_generator(
    net: Net,
    shape: GANShape,
    *,
    latents: int,
    features: int,
    levels: LevelShape = LevelShape(),  # noqa: B008 (immutable)
) -> Wrappable:
    """Build the generator of a name.

    features: the width of its finest stage. levels: matters to `modern` alone.
    """
    if net == "modern":
        return ModernGenerator(shape, latents, features, levels)
    kinds = {"mlp": MLPGenerator, "dcgan": DCGANGenerator, "resnet": ResNetGenerator}
    return kinds[net](shape, latents, features)


def build_discriminator(
    net: Net,
    shape: GANShape,
    *,
    features: int,
    batch_norm: bool,
    scales: int = 1,
    levels: LevelShape = LevelShape(),  # noqa: B008 (immutable)
) -> Discriminator | MultiScale:
    """Build the discriminator of a name.

    batch_norm: matters to `dcgan` alone. scales: at how many sizes an image is judged. levels: matters to
        `modern` alone.
    """
    shapes = [shape]
    while len(shapes) < scales:
        shapes.append(shapes[-1].halved)

    def build(shape: GANShape) -> Discriminator:
        if net == "modern":
            return ModernDiscriminator(shape, features, levels)
        if net == "dcgan":
            return DCGANDiscriminator(shape, features, batch_norm=batch_norm)
        return {"mlp": MLPDiscriminator, "resnet": ResNetDiscriminator}[net](shape, features)

    return MultiScale([build(each) for each in shapes]) if scales > 1 else build(shape)
