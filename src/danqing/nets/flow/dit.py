"""A diffusion transformer (Peebles and Xie 2023): square patches of pixels are the tokens."""

from torch import Tensor, nn
from torch.nn import functional as F

from danqing.nets.flow.blocks import FlowBlocks, TimeVector, beside, channel_norm, pad_to_multiple
from danqing.nets.flow.contract import FlowShape, Given
from danqing.nets.layers import crop


class DiT(nn.Module):
    """Patches in, blocks, patches out; the output starts at zero."""

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        self.multiple, values = shape.patch, shape.patch**2
        self.time = TimeVector(shape.width)
        self.first = nn.Conv2d(values * (shape.channels + shape.extra_channels), shape.width, 1)
        self.trunk = FlowBlocks(shape)
        self.last = nn.Conv2d(shape.width, values * shape.channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, s: Tensor, given: Given) -> Tensor:
        """Predict as `FlowNet` says."""
        size = (x.shape[-2], x.shape[-1])
        patches = F.pixel_unshuffle(pad_to_multiple(beside(x, given), self.multiple), self.multiple)
        h = self.trunk(self.first(patches), self.time(t, s, given.vector), given)
        return crop(F.pixel_shuffle(self.last(channel_norm(h)), self.multiple), size)

    def level_of(self, name: str) -> int | None:
        """Return which level a parameter belongs to, as `FlowNet` says."""
        return None
