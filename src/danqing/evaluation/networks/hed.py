"""The trunk of HED, an edge detector: a feature network that has nothing in common with the default one."""

from pathlib import Path

import torch
from torch import Tensor

from danqing.evaluation.networks.batched import StagedNetwork
from danqing.evaluation.networks.module import RESIZER
from danqing.evaluation.resize import in_words, prepared
from danqing.precision import Precision
from danqing.pretrained.hed_trunk import MEAN, WEIGHTS, Trunk

NAME, OWN_SIZE = "hed", "hed-own-size"
SIDE = 64
"""Pixels: fewer than the 96 of the default network, since a VGG16 costs far more for each."""
NORMALIZATION = f"x - {MEAN} in RGB"
"""What the network was trained on: levels without ImageNet's mean, as in Caffe."""


class HED(StagedNetwork):
    """512 pooled features of images at 64 pixels, or at their own size.

    side: to which images are resized; None leaves them as they are, for losses that compare textures.
    The network is a VGG16 that learnt ImageNet's classes, and was then trained to find edges in photographs
    (Xie and Tu 2015, "Holistically-Nested Edge Detection").
    """

    batch_size = 16

    def __init__(
        self,
        weights: Path | None = None,
        *,
        side: int | None = SIDE,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        net = Trunk().load_published(WEIGHTS.checked(weights)).requires_grad_(False)
        self._side = side
        super().__init__(
            net,
            name=NAME if side else OWN_SIZE,
            sha256=WEIGHTS.sha256,
            resizer=in_words((side, side)) if side else RESIZER,
            normalization=NORMALIZATION,
            dimensions=net.features,
            device=device,
            precision=precision,
        )

    def _inputs(self, images: Tensor) -> Tensor:
        size = (self._side, self._side) if self._side else (images.shape[2], images.shape[1])
        pixels = prepared(images, size)
        return (pixels - pixels.new_tensor(MEAN)[:, None, None]).contiguous(memory_format=torch.channels_last)
