"""A feature pyramid: maps of several sizes, joined into one fine map that knows the whole image."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class TopDown(nn.Module):
    """Adds coarse maps to finer ones, down to the finest.

    It is the top-down path of a feature pyramid (Lin et al. 2017, section 3).
    channels: of each map, the finest first. width: of the result.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(each, width, 1) for each in channels)
        self.merge = nn.ModuleList(convolution(width, width) for _ in channels[:-1])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Add maps into one of the size of the finest.

        maps: `[n, channels, rows, columns]`, the finest first.
        """
        joined: Tensor = self.lateral[-1](maps[-1])
        for level in reversed(range(len(maps) - 1)):
            finer: Tensor = self.lateral[level](maps[level])
            joined = self.merge[level](finer + F.interpolate(joined, finer.shape[2:], mode="nearest"))
        return joined


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Return a convolution, a normalization and an activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()
    )
