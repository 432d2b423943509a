"""Encoders and decoders of variational autoencoders: images to a vector, and a vector to pixel parameters.

Every pair works for any height and width: a stage halves the sides, rounding up, and the decoder crops on its way
back. A label enters as a learned vector added to the first layer, where all later layers can use it.
"""

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Net = Literal["mlp", "conv", "resnet"]


def halvings(height: int, width: int, smallest: int = 4) -> list[tuple[int, int]]:
    """(height, width) of each stage: halved, rounding up, until the longer side is at most `smallest`."""
    sizes = [(height, width)]
    while max(sizes[-1]) > smallest:
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
    return sizes


class LabelBias(nn.Module):
    """Adds a learned vector per label to `[n, features, ...]`, zero at first; without labels it changes nothing."""

    def __init__(self, labels: int, features: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(labels, features)) if labels else None

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        if self.vectors is None or label is None:
            return x
        bias = F.embedding(label, self.vectors)
        return x + bias.reshape(*bias.shape, *(1,) * (x.dim() - 2))


class ResidualBlock(nn.Module):
    """x + convolutions(x), without normalisation.

    The last convolution starts at zero, so that the block starts as the identity (SkipInit, De and Smith 2020).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + y


class MLPEncoder(nn.Module):
    """Images `[n, c, h, w]` (and labels `[n]`) to `[n, outputs]` by three layers."""

    def __init__(
        self, *, size: tuple[int, int], channels: int, features: int, outputs: int, labels: int
    ) -> None:
        super().__init__()
        hidden = 16 * features
        self.first = nn.Linear(channels * math.prod(size), hidden)
        self.label = LabelBias(labels, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, images: Tensor, label: Tensor | None) -> Tensor:
        h = self.label(self.first(images.flatten(1)), label)
        h = F.silu(self.second(F.silu(h)))
        out: Tensor = self.last(h)
        return out


class MLPDecoder(nn.Module):
    """Latents `[n, latents]` (and labels `[n]`) to `[n, channels, h, w]` by three layers."""

    def __init__(
        self, *, size: tuple[int, int], channels: int, features: int, latents: int, labels: int
    ) -> None:
        super().__init__()
        self.shape = (channels, *size)
        hidden = 16 * features
        self.first = nn.Linear(latents, hidden)
        self.label = LabelBias(labels, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, math.prod(self.shape))

    def forward(self, latents: Tensor, label: Tensor | None) -> Tensor:
        h = self.label(self.first(latents), label)
        h = F.silu(self.second(F.silu(h)))
        out: Tensor = self.last(h)
        return out.unflatten(1, self.shape)


class ConvEncoder(nn.Module):
    """Images `[n, c, h, w]` (and labels `[n]`) to `[n, outputs]`: a stride-2 convolution per stage.

    Channels start at `features` and double per stage, up to eight-fold. `blocks` residual blocks follow each
    halving: 0 makes the plain convolutional encoder.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        channels: int,
        features: int,
        outputs: int,
        labels: int,
        blocks: int = 0,
    ) -> None:
        super().__init__()
        sizes = halvings(*size)
        widths = [min(features * 2**stage, features * 8) for stage in range(len(sizes))]
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.label = LabelBias(labels, widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                *(ResidualBlock(after) for _ in range(blocks)),
            )
            for before, after in itertools.pairwise(widths)
        )
        self.last = nn.Linear(widths[-1] * math.prod(sizes[-1]), outputs)

    def forward(self, images: Tensor, label: Tensor | None) -> Tensor:
        h = self.label(self.stem(images), label)
        for stage in self.stages:
            h = stage(F.silu(h))
        out: Tensor = self.last(F.silu(h).flatten(1))
        return out


class ConvDecoder(nn.Module):
    """Latents `[n, latents]` (and labels `[n]`) to `[n, channels, h, w]`: the encoder's stages, walked backwards.

    A stage doubles the sides by a convolution to four times the channels and a pixel shuffle (Shi et al. 2016), which
    keeps its work at the lower resolution, and crops to the size that the encoder had there.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        channels: int,
        features: int,
        latents: int,
        labels: int,
        blocks: int = 0,
    ) -> None:
        super().__init__()
        self.sizes = halvings(*size)[::-1]
        widths = [min(features * 2**stage, features * 8) for stage in range(len(self.sizes))][::-1]
        self.base = (widths[0], *self.sizes[0])
        self.first = nn.Linear(latents, math.prod(self.base))
        self.label = LabelBias(labels, math.prod(self.base))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(ResidualBlock(before) for _ in range(blocks)),
                nn.SiLU(),
                nn.Conv2d(before, 4 * after, 3, padding=1),
                nn.PixelShuffle(2),
            )
            for before, after in itertools.pairwise(widths)
        )
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, latents: Tensor, label: Tensor | None) -> Tensor:
        h = self.label(self.first(latents), label)
        h = h.unflatten(1, self.base).contiguous(memory_format=torch.channels_last)
        for stage, (height, width) in zip(self.stages, self.sizes[1:], strict=True):
            h = stage(h)[:, :, :height, :width]
        out: Tensor = self.last(F.silu(h))
        return out


def build_encoder(
    net: Net, *, size: tuple[int, int], channels: int, features: int, outputs: int, labels: int, blocks: int
) -> nn.Module:
    """The encoder called `net`; `size` is (height, width), `blocks` per stage matter to `resnet` alone."""
    if net == "mlp":
        return MLPEncoder(size=size, channels=channels, features=features, outputs=outputs, labels=labels)
    return ConvEncoder(
        size=size,
        channels=channels,
        features=features,
        outputs=outputs,
        labels=labels,
        blocks=blocks if net == "resnet" else 0,
    )


def build_decoder(
    net: Net, *, size: tuple[int, int], channels: int, features: int, latents: int, labels: int, blocks: int
) -> nn.Module:
    """The decoder called `net`; `channels` counts the likelihood's parameters per pixel."""
    if net == "mlp":
        return MLPDecoder(size=size, channels=channels, features=features, latents=latents, labels=labels)
    return ConvDecoder(
        size=size,
        channels=channels,
        features=features,
        latents=latents,
        labels=labels,
        blocks=blocks if net == "resnet" else 0,
    )
