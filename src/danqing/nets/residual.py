"""A convolutional trunk for recognition: from images to a small map of features."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from danqing.nets.layers import halvings

SMALLEST = 4
"""The trunk halves its map as long as the shorter side keeps this many places."""
_FULL = 32
"""Images with a longer shorter side are first reduced by the stride of the stem, up to 4."""


def stem_stride(height: int, width: int) -> int:
    """Return the stride of the stem: 1, 2 or 4."""
    return int(min(4, 2 ** max(0, round(math.log2(min(height, width) / _FULL)))))


def stage_widths(height: int, width: int, features: int) -> tuple[int, ...]:
    """Return the channels of each stage.

    Each stage halves the sides; the channels double up to 4 times `features`.
    """
    stride = stem_stride(height, width)
    sizes = halvings(-(-height // stride), -(-width // stride), SMALLEST)
    count = max(1, len(sizes) - 1)
    return tuple(features * 2 ** min(stage, 2) for stage in range(count))


class ResidualTrunk(nn.Module):
    """A stem and stages of convolutions with batch normalization and residual blocks.

    Each stage halves the sides of its map by max pooling and then refines it (He et al. 2016; pooling before
    the normalization as in Jordan 2024, airbench). It takes images of any size.

    channels: of the images. size: their usual (height, width), from which the number of stages follows.
    features: channels of the first stage; later ones have up to 4 times as many. blocks: residual
    convolutions in each stage.
    """

    def __init__(self, channels: int, size: tuple[int, int], features: int, blocks: int) -> None:
        super().__init__()
        stride, widths = stem_stride(*size), stage_widths(*size, features)
        self.stem = nn.Conv2d(channels, features // 2, 2 * stride + 1, stride, stride)
        before = (features // 2, *widths)
        self.stages = nn.ModuleList(
            _Stage(inputs, width, blocks) for inputs, width in zip(before, widths, strict=False)
        )
        self.outputs = widths[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Turn images `[n, c, h, w]` into a map `[n, outputs, rows, columns]`."""
        return self.maps(images)[-1]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the stem and of each stage."""
        maps = [F.relu(self.stem(images))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class _Stage(nn.Module):
    def __init__(self, inputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.enter = _convolution(inputs, width)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(
            nn.Sequential(_convolution(width, width), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.enter(x), 2, ceil_mode=True)
        x = F.relu(self.norm(x))
        for block in self.blocks:
            x = x + block(x)
        return x


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution before a normalization, which has the bias."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
