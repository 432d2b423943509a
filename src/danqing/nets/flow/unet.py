"""The U-Net of the first diffusion models (Ho et al. 2020): convolutions, attention at the coarsest map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.nets.attention import attend_all
from danqing.nets.flow.blocks import TimeVector, beside
from danqing.nets.flow.contract import FlowShape, Given
from danqing.nets.flow.growing import SmallSizes, start_at_zero, summed
from danqing.nets.recomputing import Recomputes

GROUPS = 32
"""Most groups of a group norm."""


def group_norm(width: int) -> nn.GroupNorm:
    """Return a group norm of up to 32 groups.

    It has as many as divide the width.
    """
    groups = next(g for g in range(min(GROUPS, width), 0, -1) if width % g == 0)
    return nn.GroupNorm(groups, width, eps=1e-5)


class UNetBlock(Recomputes):
    """Two 3×3 convolutions with time and condition between them.

    The vector of time and condition is added.
    """

    def __init__(self, inputs: int, outputs: int, vector: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(inputs), group_norm(outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.vector = nn.Linear(vector, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        h = self.first(F.silu(self.norm1(x))) + self.vector(vector)[:, :, None, None]
        out: Tensor = self.skip(x) + self.second(F.silu(self.norm2(h)))
        return out


class MapAttention(Recomputes):
    """Self-attention over the places of a map `[n, width, h, w]`, added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, group_norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, width, rows, columns = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(n, rows * columns, width)
        q, k, v = self.qkv(tokens).view(n, rows * columns, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        heads = attend_all(q * (width // self.heads) ** -0.5, k, v)
        read: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return x + read.view(n, rows, columns, width).permute(0, 3, 1, 2)


class UNetStage(nn.Module):
    """Residual blocks at one resolution.

    Attention follows each of them where `heads` is not 0.
    """

    def __init__(self, inputs: list[int], outputs: int, vector: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(UNetBlock(width, outputs, vector) for width in inputs)
        self.attention = nn.ModuleList(MapAttention(outputs, heads) for _ in inputs) if heads else None

    def step(self, index: int, x: Tensor, vector: Tensor) -> Tensor:
        """Apply the block of that number."""
        x = self.blocks[index](x, vector)
        return x if self.attention is None else self.attention[index](x)


class UNet(nn.Module):
    """A U-Net: down and up, with skip connections.

    The maps of the way down stand beside those of the way up.
    `layers` residual blocks at each resolution on the way down and one more on the way up; attention at the
    coarsest. The vector of time and condition is as wide as the finest map's, times four. A text is read as a
    whole. A network that grows (`growing.py`) reads and predicts small images at its inner resolutions.
    """

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        widths, layers, vector = shape.widths, shape.layers, shape.width
        self.levels, self.coarsest = shape.levels, len(widths) - 1
        self.multiple = 2**self.coarsest
        seen = shape.channels + shape.extra_channels
        self.time = TimeVector(vector)
        self.first = nn.Conv2d(seen, widths[0], 3, padding=1)
        skips, width = [widths[0]], widths[0]
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level, wide in enumerate(widths):
            coarsest = level == len(widths) - 1
            self.down.append(UNetStage([width] + [wide] * (layers - 1), wide, vector, shape.heads * coarsest))
            skips += [wide] * layers
            width = wide
            if not coarsest:
                self.shrink.append(nn.Conv2d(wide, wide, 3, stride=2, padding=1))
                skips.append(wide)
        self.middle1, self.middle2 = UNetBlock(width, width, vector), UNetBlock(width, width, vector)
        self.middle = MapAttention(width, shape.heads)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, wide in reversed(list(enumerate(widths))):
            inputs = [skips.pop() + (width if index == 0 else wide) for index in range(layers + 1)]
            self.up.append(UNetStage(inputs, wide, vector, shape.heads * (level == len(widths) - 1)))
            width = wide
            if level:
                self.grow.append(nn.Conv2d(wide, wide, 3, padding=1))
        self.norm = group_norm(width)
        self.last = nn.Conv2d(width, shape.channels, 3, padding=1)
        self.small = SmallSizes(
            self.levels,
            self.multiple,
            lambda level: nn.Conv2d(seen, widths[level - 1], 3, padding=1),
            lambda level: nn.Conv2d(widths[level], shape.channels, 3, padding=1),
        )
        small = self.levels[:-1]
        self.small_norms = nn.ModuleDict({str(level): group_norm(widths[level]) for level in small})
        for layer in (self.last, *self.small.last.values()):
            start_at_zero(layer)
        for level in small:
            start_at_zero(self.shrink[level - 1])

    def forward(self, x: Tensor, t: Tensor, s: Tensor, given: Given) -> Tensor:
        """Predict as `FlowNet` says."""
        entry, x = given.level, beside(x, given)
        vector = self.time(t, s, given.vector)
        h = self._read(x, entry, entry)
        skips, outputs = [h], list[tuple[int, Tensor]]()
        for level in range(entry, self.coarsest + 1):
            stage = self.down[level]
            assert isinstance(stage, UNetStage)
            for index in range(len(stage.blocks)):
                h = stage.step(index, h, vector)
                skips.append(h)
            if level < self.coarsest:
                h = self.shrink[level](h)
                if level + 1 in self.levels:
                    h = h + self._read(x, entry, level + 1)
                skips.append(h)
        h = self.middle2(self.middle(self.middle1(h, vector)), vector)
        for level in reversed(range(entry, self.coarsest + 1)):
            stage = self.up[self.coarsest - level]
            assert isinstance(stage, UNetStage)
            for index in range(len(stage.blocks)):
                h = stage.step(index, torch.cat([h, skips.pop()], dim=1), vector)
            if level in self.levels:
                outputs.append((level, self._written(h, level)))
            if level > entry:
                h = self.grow[self.coarsest - level](F.interpolate(h, scale_factor=2.0))
        return summed(outputs, entry, (x.shape[-2], x.shape[-1]))

    def _read(self, x: Tensor, entry: int, level: int) -> Tensor:
        """Return what the first layer of a level makes of images of the level `entry`."""
        first = self.small.first[str(level)] if level else self.first
        out: Tensor = first(self.small.seen(x, entry, level))
        return out

    def _written(self, h: Tensor, level: int) -> Tensor:
        """Return what a level predicts."""
        norm, last = (
            (self.small_norms[str(level)], self.small.last[str(level)]) if level else (self.norm, self.last)
        )
        out: Tensor = last(F.silu(norm(h)))
        return out

    def level_of(self, name: str) -> int | None:
        """Return which level a parameter belongs to, as `FlowNet` says."""
        part, *rest = name.split(".")
        if part == "small":
            return int(rest[1])
        if part in ("first", "last", "norm"):
            return 0
        if part in ("down", "shrink", "small_norms"):
            return int(rest[0])
        if part in ("up", "grow"):
            return self.coarsest - int(rest[0]) - (part == "grow")
        return None
