"""What the networks of a GAN share: the shape that they are built for, and how a discriminator judges."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from danqing.data.attributes import Attribute
from danqing.data.batch import Condition
from danqing.nets.layers import ProjectionHead, shrunk


class GANShape(NamedTuple):
    """What generator and discriminator need to know of the images.

    labels: how many, 0 for none. attributes: those that are read.
    """

    height: int
    width: int
    channels: int
    labels: int
    attributes: tuple[Attribute, ...] = ()

    @property
    def halved(self) -> "GANShape":
        """Return the shape with half the sides, rounded up."""
        return self._replace(height=-(-self.height // 2), width=-(-self.width // 2))


def level_widths(levels: int, features: int) -> list[int]:
    """Return the channels of each level, from fine to coarse.

    They are `features`, doubled each time up to eight-fold.
    """
    return [features * min(2**level, 8) for level in range(levels)]


class Discriminator(nn.Module):
    """Turns images `[n, c, h, w]` and a condition into logits `[n]`.

    A logit is high where the image looks real.
    map_width: channels of the features if they are a map, else 0.
    """

    map_width: int = 0
    head: ProjectionHead

    def features(self, images: Tensor) -> Tensor:
        """Return what the head reads: a map `[n, map_width, rows, columns]` or vectors `[n, d]`."""
        raise NotImplementedError

    def judge(self, images: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """Return the logits of images, and their features."""
        features = self.features(images)
        return self.head(features.flatten(1), condition), features

    def forward(self, images: Tensor, condition: Condition | None) -> Tensor:
        return self.judge(images, condition)[0]


class MultiScale(nn.Module):
    """Discriminators of an image at several sizes.

    Each size is half of the one before (Wang et al. 2018, pix2pixHD, section 3.2). The logits are `[n,
    scales]`, so that a loss counts each size alike; the features are those of the largest size.
    """

    def __init__(self, parts: list[Discriminator]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.map_width = parts[0].map_width

    def judge(self, images: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """Return the logits of images, and their features."""
        logits: list[Tensor] = []
        kept: Tensor | None = None
        for part in self.parts:
            assert isinstance(part, Discriminator)
            judged, features = part.judge(images, condition)
            logits.append(judged)
            kept = features if kept is None else kept
            images = shrunk(images, 1)
        assert kept is not None
        return torch.stack(logits, 1), kept

    def forward(self, images: Tensor, condition: Condition | None) -> Tensor:
        return self.judge(images, condition)[0]
