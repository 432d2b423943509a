"""Convolutions around a transformer: detail at full resolution, composition on a coarse grid."""

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from danqing.nets.flow.blocks import ConvBlock, FlowBlocks, TimeVector, beside, channel_norm
from danqing.nets.flow.contract import FlowShape, Given
from danqing.nets.flow.growing import SmallSizes, start_at_zero, summed


class Hybrid(nn.Module):
    """Convolutions at fine resolutions, a transformer at the coarsest.

    A skip connection joins each resolution on the way down with that on the way up.
    Resolutions change by moving pixels between space and channels (Shi et al. 2016), which loses nothing. The
    finest map has few channels, since a processor spends its time there on moving memory.
    A network that grows (`growing.py`) reads and predicts small images at its inner resolutions.
    """

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        widths, vector = shape.widths, shape.width
        self.levels, self.coarsest = shape.levels, len(widths) - 1
        self.multiple = 2**self.coarsest
        seen = shape.channels + shape.extra_channels
        self.time = TimeVector(vector)
        self.first = nn.Conv2d(seen, widths[0], 3, padding=1)
        pairs = list(itertools.pairwise(widths))
        self.narrow = nn.ModuleList(nn.Conv2d(4 * fine, coarse, 1) for fine, coarse in pairs)
        self.before = nn.ModuleList(ConvBlock(width, vector) for width in widths[1:-1])
        self.trunk = FlowBlocks(shape)
        self.widen = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.after = nn.ModuleList(ConvBlock(width, vector) for width in widths[:-1])
        self.last = nn.Conv2d(widths[0], shape.channels, 3, padding=1)
        self.small = SmallSizes(
            self.levels,
            self.multiple,
            lambda level: nn.Conv2d(seen, widths[level], 3, padding=1),
            lambda level: nn.Conv2d(widths[level], shape.channels, 3, padding=1),
        )
        for layer in (self.last, *self.small.last.values()):
            start_at_zero(layer)
        for level in self.levels[:-1]:
            start_at_zero(self.narrow[level - 1])

    def forward(self, x: Tensor, t: Tensor, s: Tensor, given: Given) -> Tensor:
        """Predict as `FlowNet` says."""
        entry, x = given.level, beside(x, given)
        vector = self.time(t, s, given.vector)
        h, skips = self._read(x, entry, entry), []
        for level in range(entry, self.coarsest):
            if level:
                h = self.before[level - 1](h, vector)
            skips.append(h)
            h = self.narrow[level](F.pixel_unshuffle(h, 2))
            if level + 1 in self.levels:
                h = h + self._read(x, entry, level + 1)
        h = self.trunk(h, vector, given)
        outputs = self._written(h, self.coarsest)
        for level in reversed(range(entry, self.coarsest)):
            h = F.pixel_shuffle(self.widen[level](channel_norm(h)), 2) + skips.pop()
            h = self.after[level](h, vector)
            outputs += self._written(h, level)
        return summed(outputs, entry, (x.shape[-2], x.shape[-1]))

    def _read(self, x: Tensor, entry: int, level: int) -> Tensor:
        """Return what the first layer of a level makes of images of the level `entry`."""
        first = self.small.first[str(level)] if level else self.first
        out: Tensor = first(self.small.seen(x, entry, level))
        return out

    def _written(self, h: Tensor, level: int) -> list[tuple[int, Tensor]]:
        """Return a level and what it predicts, if it has a last layer."""
        if level not in self.levels:
            return []
        last = self.small.last[str(level)] if level else self.last
        return [(level, last(F.silu(channel_norm(h))))]

    def level_of(self, name: str) -> int | None:
        """Return which level a parameter belongs to, as `FlowNet` says."""
        part, *rest = name.split(".")
        if part == "small":
            return int(rest[1])
        if part in ("first", "last"):
            return 0
        if part in ("narrow", "widen", "after", "before"):
            return int(rest[0]) + (part == "before")
        return None
