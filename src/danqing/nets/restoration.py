"""A network that turns one image into another by convolutions alone, at the source's resolution or below it.

Its result is the source, enlarged where it is smaller than its target, plus what the network adds (Kim et al.
2016, "Accurate image super-resolution using very deep convolutional networks"). It has no attention and no
normalisation, so that a value depends on a square of known size around it and large images can be computed in
tiles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.images import with_channels
from danqing.nets.autoencoders import activate, convolution, convolution_block
from danqing.nets.layers import crop

_TAPS = 2
"""A cubic spline reaches so many pixels to either side."""


@dataclass(frozen=True, slots=True)
class RestorationShape:
    """The size of a network.

    source_channels, channels: of the source and of the result. scale: how many times larger the result is.
    features: channels of the inner maps. blocks: residual blocks of two convolutions.
    downsamplings: how often the sides of the inner maps are halved; the pixels of a square become channels.
    """

    source_channels: int
    channels: int
    scale: int
    features: int
    blocks: int
    downsamplings: int

    @property
    def fold(self) -> int:
        """Return the side of the square of pixels at each inner place."""
        return int(2**self.downsamplings)

    @property
    def reach(self) -> int:
        """Return how far away, in source pixels, a value may depend."""
        return self.fold * (2 * self.blocks + 3) + _TAPS


class RestorationNet(nn.Module):
    """From source images `[n, source channels, h, w]` to results `[n, channels, scale · h, scale · w]`.

    The last layer makes all pixels of a place at once (Shi et al. 2016). It starts at zero, so that an
    untrained network enlarges by cubic splines and shows no grid.
    """

    def __init__(self, shape: RestorationShape) -> None:
        super().__init__()
        self.shape = shape
        self.first = convolution(shape.source_channels * shape.fold**2, shape.features)
        self.blocks = nn.Sequential(*(convolution_block(shape.features) for _ in range(shape.blocks)))
        outputs = shape.channels * (shape.fold * shape.scale) ** 2
        self.last = nn.Conv2d(shape.features, outputs, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, source: Tensor) -> Tensor:
        shape, (height, width) = self.shape, source.shape[2:]
        right, below = -width % shape.fold, -height % shape.fold
        seen = F.pad(source, (0, right, 0, below), mode="replicate") if right or below else source
        h = self.blocks(self.first(F.pixel_unshuffle(seen, shape.fold)))
        added = F.pixel_shuffle(self.last(activate(h)), shape.fold * shape.scale)
        return self.base(source) + crop(added, (height * shape.scale, width * shape.scale))

    def base(self, source: Tensor) -> Tensor:
        """Return the source with the size and the channels of the result."""
        return with_channels(enlarged_cubic(source, self.shape.scale), self.shape.channels)


def enlarged_cubic(images: Tensor, scale: int) -> Tensor:
    """Resize images to a multiple of their size by cubic splines.

    images: `[n, c, h, w]`. The splines are those of Keys 1981 with a = -1/2; beyond the edge, pixels are
        repeated. Kernels are fixed, so that values do not depend on where in an image they lie.
    """
    if scale == 1:
        return images
    kernels = _cubic_kernels(scale).to(images.device)
    with torch.autocast(images.device.type, enabled=False):  # bfloat16 has fewer levels than a file
        for axis in (2, 3):
            lines = images.float().movedim(axis, -1)  # [n, c, other, length]
            padded = F.pad(lines, (_TAPS, _TAPS, 0, 0), mode="replicate").flatten(0, 2)[:, None]
            found = F.conv1d(padded, kernels[:, None])  # [n · c · other, scale, length]
            images = found.mT.reshape(*lines.shape[:-1], -1).movedim(-1, axis)
    return images.contiguous(memory_format=torch.channels_last)


def _cubic_kernels(scale: int) -> Tensor:
    """Return the weights of the pixels around each of the new places in a pixel, `[scale, 2 · _TAPS + 1]`."""
    places = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    away = (places[:, None] - torch.arange(-_TAPS, _TAPS + 1)).abs()
    near = 1.5 * away**3 - 2.5 * away**2 + 1
    far = -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
    weights = torch.where(away <= 1, near, torch.where(away < 2, far, 0.0))
    return (weights / weights.sum(1, keepdim=True)).float()
