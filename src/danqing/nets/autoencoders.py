"""Encoders and decoders of variational autoencoders: images to a vector, and a vector to images.

Every pair works for any height and width: a stage halves the sides, rounding up, and the decoder crops on its
way back. No layer works at the full resolution, where a processor spends most of its time moving memory: the
first convolution strides, the last one makes four pixels per place. Label and attributes enter as learned
vectors that are added to the first layer, where all later layers can use them.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data.attributes import Attribute
from danqing.data.batch import Condition
from danqing.nets.attributes import AttributeEmbedding
from danqing.nets.layers import ToMap, channels_last, crop, halvings, pad_to_even
from danqing.nets.recomputing import Recomputes
from danqing.nets.wrapping import Wrappable

Net = Literal["mlp", "conv", "resnet", "hybrid"]


@dataclass(frozen=True, slots=True)
class AutoencoderShape:
    """The sizes that encoder and decoder share.

    features: the two coarsest maps have twice as many channels, each finer one half of the one before, and
        none fewer than 16.
    blocks: residual blocks per resolution.
    labels: how many classes, 0 for none.
    attributes: those that are read.
    """

    height: int
    width: int
    channels: int
    latents: int
    features: int
    blocks: int = 0
    labels: int = 0
    attributes: tuple[Attribute, ...] = ()

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of all maps, from the image down.

        There are at least two.
        """
        sizes = halvings(self.height, self.width)
        return sizes if len(sizes) > 1 else [*sizes, (math.ceil(self.height / 2), math.ceil(self.width / 2))]

    @property
    def widths(self) -> list[int]:
        """Return the channels of each map, from fine to coarse.

        The full resolution is not among them.
        """
        maps = len(self.sizes) - 1
        return [max(16, 2 * self.features >> max(0, maps - 2 - i)) for i in range(maps)]


class ConditionBias(nn.Module):
    """Adds learned vectors of label and attributes to `[n, features, ...]`.

    -1, an unknown label, has the mean of the vectors of all labels. Without labels and attributes it changes
    and stores nothing.
    """

    def __init__(self, labels: int, attributes: tuple[Attribute, ...], features: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(0.5 * torch.randn(labels, features)) if labels else None
        self.attributes = AttributeEmbedding(attributes, features) if attributes else None

    def forward(self, x: Tensor, condition: Condition | None) -> Tensor:
        if self.vectors is not None and condition is not None and condition.label is not None:
            table = torch.cat([self.vectors, self.vectors.mean(0, keepdim=True)])
            x = _plus(x, F.embedding(condition.label % len(table), table))
        return x if self.attributes is None else _plus(x, self.attributes.of(condition, x.shape[0]))


def _plus(x: Tensor, bias: Tensor) -> Tensor:
    return x + bias.to(x.dtype).reshape(*bias.shape, *(1,) * (x.dim() - 2))


class ResidualBlock(Recomputes):
    """x + layers(x), without normalisation.

    The last layer starts at zero, so that the block starts as the identity (SkipInit, De and Smith 2020).
    """

    def __init__(self, first: nn.Conv2d | nn.Linear, second: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.first, self.second = first, second
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(activate(self.first(activate(x))))
        return x + y


class MLPEncoder(nn.Module):
    """A layer, residual blocks and a layer.

    From images `[n, c, h, w]` and a condition to `[n, 2 * latents]`.
    """

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        hidden = 16 * shape.features
        self.first = nn.Linear(shape.channels * shape.height * shape.width, hidden)
        self.label = ConditionBias(shape.labels, shape.attributes, hidden)
        self.blocks = nn.Sequential(*(_linear_block(hidden) for _ in range(max(1, shape.blocks))))
        self.last = nn.Linear(hidden, 2 * shape.latents)

    def features(self, images: Tensor, condition: Condition | None = None) -> Tensor:
        """Return what the last layer reads, vectors `[n, hidden]`."""
        return activate(self.blocks(self.label(self.first(images.flatten(1)), condition)))

    def forward(self, images: Tensor, condition: Condition | None) -> Tensor:
        out: Tensor = self.last(self.features(images, condition))
        return out


class MLPDecoder(Wrappable):
    """A layer, residual blocks and a layer.

    From latents `[n, latents]` and a condition to `[n, outputs, h, w]`.
    """

    def __init__(self, shape: AutoencoderShape, outputs: int) -> None:
        super().__init__()
        hidden = 16 * shape.features
        self.shape = (outputs, shape.height, shape.width)
        self.first = nn.Linear(shape.latents, hidden)
        self.label = ConditionBias(shape.labels, shape.attributes, hidden)
        self.blocks = nn.Sequential(*(_linear_block(hidden) for _ in range(max(1, shape.blocks))))
        self.last = nn.Linear(hidden, math.prod(self.shape))

    def forward(self, latents: Tensor, condition: Condition | None) -> Tensor:
        h = self.label(self.first(latents), condition)
        out: Tensor = self.last(activate(self.blocks(h)))
        return out.reshape(-1, *self.shape)


class HybridDecoder(Wrappable):
    """Dense layers, then convolutions at half the resolution.

    From latents `[n, d]` and a condition to `[n, outputs, h, w]`. Dense layers learn the most per second
    where things stand in the same place in all images; the convolutions take away the dense layers' grain.
    """

    def __init__(self, shape: AutoencoderShape, outputs: int) -> None:
        super().__init__()
        self.size = (shape.height, shape.width)
        height, width = shape.sizes[1]
        self.dense = MLPDecoder(replace(shape, height=height, width=width), 4 * outputs)
        hidden = max(8, shape.features // 2)
        self.widen = convolution(4 * outputs, hidden)
        self.blocks = nn.Sequential(*(convolution_block(hidden) for _ in range(max(1, shape.blocks))))
        self.narrow = into_pixels(hidden, outputs)

    @property
    def last(self) -> nn.Conv2d:
        """Return the last layer."""
        return self.narrow

    def forward(self, latents: Tensor, condition: Condition | None) -> Tensor:
        draft = channels_last(self.dense(latents, condition))
        finish = self.narrow(activate(self.blocks(self.widen(draft))))
        return crop(F.pixel_shuffle(draft + finish, 2), self.size)


class ConvEncoder(nn.Module):
    """One strided convolution per resolution.

    From images `[n, c, h, w]` and a condition to `[n, 2 * latents]`.
    """

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        widths, coarsest = shape.widths, shape.sizes[-1]
        self.stem = nn.Conv2d(shape.channels, widths[0], 4, stride=2, padding=1)
        self.label = ConditionBias(shape.labels, shape.attributes, widths[0])
        self.first = nn.Sequential(*(convolution_block(widths[0]) for _ in range(shape.blocks)))
        self.stages = nn.ModuleList(
            nn.Sequential(
                convolution(before, after, stride=2), *(convolution_block(after) for _ in range(shape.blocks))
            )
            for before, after in itertools.pairwise(widths)
        )
        self.last = nn.Linear(widths[-1] * math.prod(coarsest), 2 * shape.latents)

    def features(self, images: Tensor, condition: Condition | None = None) -> Tensor:
        """Return what the last layer reads, a map `[n, channels, rows, columns]`."""
        h = self.first(self.label(self.stem(pad_to_even(images)), condition))
        for stage in self.stages:
            h = stage(activate(h))
        return activate(h)

    def forward(self, images: Tensor, condition: Condition | None) -> Tensor:
        out: Tensor = self.last(self.features(images, condition).flatten(1))
        return out


class ConvDecoder(Wrappable):
    """The resolutions of the encoder, backwards.

    From latents `[n, latents]` and a condition to `[n, outputs, h, w]`. A place doubles by repetition and a
    convolution, which leaves no grid as strided transposes do (Odena et al. 2016); the last doubling is a
    pixel shuffle (Shi et al. 2016), which starts as repetition.
    """

    def __init__(self, shape: AutoencoderShape, outputs: int) -> None:
        super().__init__()
        self.sizes = shape.sizes[-2::-1]
        self.multiple = 2 ** len(self.sizes)
        widths = shape.widths[::-1]
        self.first = ToMap(shape.latents, widths[0], shape.sizes[-1])
        self.label = ConditionBias(shape.labels, shape.attributes, widths[0])
        self.blocks = nn.Sequential(*(convolution_block(widths[0]) for _ in range(shape.blocks)))
        self.stages = nn.ModuleList(
            nn.Sequential(
                convolution(before, after), *(convolution_block(after) for _ in range(shape.blocks))
            )
            for before, after in itertools.pairwise(widths)
        )
        self.last = into_pixels(widths[-1], outputs)

    def forward(self, latents: Tensor, condition: Condition | None) -> Tensor:
        h = self.blocks(self.label(self.first(latents), condition))
        for stage, size in zip(self.stages, self.sizes, strict=False):
            h = stage(crop(F.interpolate(activate(h), scale_factor=2.0), size))
        return crop(F.pixel_shuffle(self.last(activate(h)), 2), self.sizes[-1])


def build_encoder(net: Net, shape: AutoencoderShape) -> nn.Module:
    """Build the encoder of a name.

    Its output is mean and log standard deviation, side by side.
    """
    return MLPEncoder(shape) if net in ("mlp", "hybrid") else ConvEncoder(shape)


def build_decoder(net: Net, shape: AutoencoderShape, outputs: int) -> Wrappable:
    """Build the decoder of a name.

    outputs: channels, as many per pixel as the likelihood has parameters.
    """
    decoder = {"mlp": MLPDecoder, "hybrid": HybridDecoder}.get(net, ConvDecoder)
    return decoder(shape, outputs)


def activate(x: Tensor) -> Tensor:
    """Apply the activation of all these nets.

    Of the usual ones, it is the fastest forward and backward on a processor.
    """
    return F.leaky_relu(x, 0.1)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Build a 3×3 convolution whose weights suit `activate`."""
    made = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(made.weight, a=0.1)
    return made


def into_pixels(inputs: int, outputs: int) -> nn.Conv2d:
    """Build a 3×3 convolution to four pixels of each place.

    A pixel shuffle follows. All four start alike, so that the images begin without a grid (Aitken et al.
    2017).
    """
    made = nn.Conv2d(inputs, 4 * outputs, 3, padding=1)
    for parameter in made.parameters():
        parameter.data = parameter.data[::4].repeat_interleave(4, dim=0).contiguous()
    return made


def convolution_block(channels: int) -> ResidualBlock:
    """Build a residual block of two 3×3 convolutions."""
    return ResidualBlock(convolution(channels, channels), convolution(channels, channels))


def _linear_block(features: int) -> ResidualBlock:
    return ResidualBlock(nn.Linear(features, features), nn.Linear(features, features))
