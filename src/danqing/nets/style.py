"""The network of fast style transfer: from an image to the same scene in another style."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 4
"""The product of the strides: sides of images are padded to multiples of it."""


class StyleNet(nn.Module):
    """Shrink, residual blocks, enlarge (Johnson et al. 2016, section 3.1, and their supplement).

    From images `[n, c, h, w]` of any height and width to images of the same shape in [-1, 1]. Pixels are
    repeated and then convolved, since transposed convolutions leave a grid (Odena et al. 2016).
    """

    def __init__(self, channels: int, *, features: int, blocks: int) -> None:
        super().__init__()
        wide, widest = 2 * features, 4 * features
        self.inward = nn.ModuleList(
            [Layer(channels, features, 9), Layer(features, wide, 3, 2), Layer(wide, widest, 3, 2)]
        )
        self.blocks = nn.ModuleList(Residual(widest) for _ in range(blocks))
        self.outward = nn.ModuleList([Layer(widest, wide, 3), Layer(wide, features, 3)])
        self.last = nn.Conv2d(features, channels, 9)
        # At full resolution 4 pixels of the first layer and 4 of the last; then those of coarser layers.
        self.reach = 4 + 1 + 2 + STRIDE * 2 * blocks + 4 + 2 + 4
        """How far a pixel depends on others, without the statistics of the whole image."""

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        h = F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        for layer in self.inward:
            h = F.relu(layer(h))
        for block in self.blocks:
            h = block(h)
        for layer in self.outward:
            h = F.relu(layer(F.interpolate(h, scale_factor=2.0)))
        made = torch.tanh(self.last(F.pad(h, (4, 4, 4, 4), mode="replicate")))
        return made[:, :, :height, :width]

    @contextlib.contextmanager
    def statistics_of(self, images: Tensor) -> Iterator[None]:
        """Keep the means and variances of these images for normalisation meanwhile.

        So the tiles of an image are all normalised alike, by those of a thumbnail of it.
        """
        norms = [module for module in self.modules() if isinstance(module, InstanceNorm)]
        for norm in norms:
            norm.is_kept = True
        try:
            self(images)  # each layer keeps the statistics of its first input
            yield
        finally:
            for norm in norms:
                norm.is_kept, norm.kept = False, None


class Layer(nn.Module):
    """A convolution and its normalisation, `[n, inputs, h, w]` to `[n, outputs, h / stride, w / stride]`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.margin = kernel // 2
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, bias=False)
        self.norm = InstanceNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (self.margin,) * 4, mode="replicate")
        normalised: Tensor = self.norm(self.convolution(padded))
        return normalised


class Residual(nn.Module):
    """Two convolutions beside a connection that changes nothing."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first, self.second = Layer(features, features, 3), Layer(features, features, 3)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.second(F.relu(self.first(x)))
        return x + changed


class InstanceNorm(nn.Module):
    """Each channel of each image gets a learned mean and deviation (Ulyanov et al. 2016).

    It can keep the statistics of one image for others.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(features, 1, 1))
        self.bias = nn.Parameter(torch.zeros(features, 1, 1))
        self.is_kept = False
        self.kept: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is not None:
            mean, variance = self.kept
        else:
            variance, mean = torch.var_mean(x.float(), (2, 3), correction=0, keepdim=True)
            if self.is_kept:
                self.kept = mean, variance
        return (x - mean) * (self.gain * torch.rsqrt(variance + 1e-5)) + self.bias
