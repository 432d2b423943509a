"""Convolutions around a transformer: detail at full resolution, composition on a coarse grid."""

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from danqing.nets.flow.blocks import ConvBlock, FlowBlocks, TimeVector, beside, channel_norm, pad_to_multiple
from danqing.nets.flow.contract import FlowShape, Given
from danqing.nets.layers import crop


class Hybrid(nn.Module):
    """Convolutions at fine resolutions, a transformer at the coarsest.

    A skip connection joins each resolution on the way down with that on the way up.
    Resolutions change by moving pixels between space and channels (Shi et al. 2016), which loses nothing. The
    finest map has few channels, since a processor spends its time there on moving memory.
    """

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        widths, vector = shape.widths, shape.width
        self.multiple = 2 ** (len(widths) - 1)
        self.time = TimeVector(vector)
        self.first = nn.Conv2d(shape.channels + shape.extra_channels, widths[0], 3, padding=1)
        pairs = list(itertools.pairwise(widths))
        self.narrow = nn.ModuleList(nn.Conv2d(4 * fine, coarse, 1) for fine, coarse in pairs)
        self.before = nn.ModuleList(ConvBlock(width, vector) for width in widths[1:-1])
        self.trunk = FlowBlocks(shape)
        self.widen = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.after = nn.ModuleList(ConvBlock(width, vector) for width in widths[:-1])
        self.last = nn.Conv2d(widths[0], shape.channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, s: Tensor, given: Given) -> Tensor:
        """Predict as `FlowNet` says."""
        size, vector = (x.shape[-2], x.shape[-1]), self.time(t, s, given.vector)
        h = self.first(pad_to_multiple(beside(x, given), self.multiple))
        skips = [h]
        for level, narrow in enumerate(self.narrow):
            h = narrow(F.pixel_unshuffle(h, 2))
            if level < len(self.before):
                h = self.before[level](h, vector)
                skips.append(h)
        h = self.trunk(h, vector, given)
        for level in reversed(range(len(self.widen))):
            h = F.pixel_shuffle(self.widen[level](channel_norm(h)), 2) + skips[level]
            h = self.after[level](h, vector)
        return crop(self.last(F.silu(channel_norm(h))), size)
